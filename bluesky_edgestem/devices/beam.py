"""The beam: its blanker, its current, and the optics that patterns are recorded with."""

from __future__ import annotations

from collections.abc import Callable

from ophyd import Component as Cpt
from ophyd import Device

from ..analysis.optics import Optics
from .signals import ReadSignal, SetSignal
from .statuses import NamedStatus

ELECTRON_PA_S = 1.602176634e-7
"""Charge of one electron [pA s]."""

STATES = ("Blanked", "Unblanked")


class BeamBlanker(Device):
    """Keeps the beam off the specimen, or lets it through.

    ``set("Blanked")`` and ``set("Unblanked")``. `stop` blanks: whatever set the blanker in a plan, the RunEngine blanks
    when that plan ends.
    """

    blank = Cpt(SetSignal, "Blank", string=True, kind="hinted")
    current = Cpt(SetSignal, "Current", kind="config", doc="beam current [pA]")
    energy = Cpt(SetSignal, "Energy", kind="config", doc="energy of the electrons [keV]")
    semiangle = Cpt(SetSignal, "Semiangle", kind="config", doc="convergence semiangle [mrad]")
    pixel_angle = Cpt(SetSignal, "PixelAngle", kind="config", doc="angle of one detector pixel [mrad]")
    message = Cpt(ReadSignal, "Message_RBV", string=True, kind="omitted")

    before_stop: Callable[[], None] | None = None
    """Called before `stop` blanks: a flight must be held first, or it would record frames without a beam."""

    def set(self, state: str) -> NamedStatus:
        """Blank or unblank.

        Raises
        ------
        ValueError
            `state` is neither "Blanked" nor "Unblanked".
        """
        if state not in STATES:
            raise ValueError(f"the blanker is set to one of {', '.join(STATES)}, not to {state!r}")
        return self.blank.set(state)

    @property
    def blanked(self) -> bool:
        """Whether the last monitor said that the beam is off the specimen."""
        return self.blank.latest == "Blanked"

    def dose(self, exposure: float) -> float:
        """Electrons that reach the specimen in `exposure` [s] at the present current."""
        return float(self.current.get()) * exposure / ELECTRON_PA_S

    def optics(self, n_pixels: int) -> Optics:
        """The optics as set, for a detector of `n_pixels`; its point spread and the background are not known here."""
        return Optics(
            energy_keV=float(self.energy.get()),
            semiangle_mrad=float(self.semiangle.get()),
            pixel_mrad=float(self.pixel_angle.get()),
            n_pixels=n_pixels,
        )

    def stop(self, *, success: bool = False) -> None:
        """Blank, and wait until it is."""
        if self.before_stop is not None:
            self.before_stop()
        self.set("Blanked").wait()
