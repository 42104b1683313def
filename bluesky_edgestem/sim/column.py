"""The electron-optical column that the simulated instruments share: where the probe is and what it brings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from ..analysis.optics import Optics

ELECTRON_PA_S = 1.602176634e-7
"""Charge of one electron [pA s]."""


@dataclass
class Column:
    """State of the beam, and the TTL line by which the scan coils trigger the detector.

    Attributes
    ----------
    x, y : float
        Where the probe is [nm].
    blanked : bool
        Whether the blanker keeps the beam off the specimen.
    parked : bool
        Whether the scan coils keep it off while they wait, by a blanking output of their own.
    current : float
        Beam current at the specimen [pA].
    optics : Optics
        Beam energy, semiangle and the detector's calibration.
    """

    optics: Optics = field(default_factory=Optics)
    x: float = 0.0
    y: float = 0.0
    blanked: bool = True
    parked: bool = False
    current: float = 16.02176634
    _detector: Callable[[], Awaitable[None]] | None = None

    def electrons(self, seconds: float) -> float:
        """Mean number of electrons that reach the specimen in `seconds`; 0 while it is kept off."""
        return 0.0 if self.blanked or self.parked else self.current * seconds / ELECTRON_PA_S

    def listen(self, detector: Callable[[], Awaitable[None]] | None) -> None:
        """Connect the detector's trigger input (or nothing) to the line."""
        self._detector = detector

    async def trigger(self) -> None:
        """One pulse on the line; returns once the detector is ready for the next. Lost where nothing is armed."""
        if self._detector is not None:
            await self._detector()
