"""What a run's start document says of its scan: beam and detector, the raster, and the way back of the probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..geometry import FieldOfView, ScanGrid
from .optics import Optics
from .scan_images import raster_positions, way_back


@dataclass(frozen=True)
class ScanMetadata:
    """Of one scan.

    Parameters
    ----------
    optics : Optics, optional
        Beam and detector.
    grid : ScanGrid, optional
        Of a raster, scanned row by row from left to right.
    flyback : int
        Frames that the detector takes at the end of each row while the probe goes back.
    """

    optics: Optics | None = None
    grid: ScanGrid | None = None
    flyback: int = 0

    @classmethod
    def of(cls, start: Mapping[str, Any], *, optics: Optics | None = None, flyback: int | None = None) -> ScanMetadata:
        """From a start document; what is given here goes before what it says.

        Raises
        ------
        ValueError
            The number of frames of the way back is none, or there is no raster that it could belong to.
        """
        metadata: dict[str, Any] = {**start}
        if optics is None and isinstance(metadata.get("optics"), dict):
            optics = Optics(**metadata["optics"])
        shape, field = metadata.get("shape"), metadata.get("field_of_view")
        grid = None
        if shape is not None and field is not None and len(shape) == 2 and min(shape) > 1:
            grid = ScanGrid(FieldOfView(**field), nx=shape[1], ny=shape[0])
        flyback = metadata.get("flyback", 0) if flyback is None else flyback
        if type(flyback) is not int or flyback < 0:
            raise ValueError(f"flyback is {flyback!r}; allowed is a number of frames at the end of each row, from 0")
        if flyback and grid is None:
            raise ValueError(
                f"flyback is {flyback} frames at the end of a row, but the run's metadata has no raster; give its "
                "'shape' and 'field_of_view', or no flyback"
            )
        return cls(optics, grid, flyback)

    def way_back(self, numbers: np.ndarray) -> np.ndarray:
        """Which frames, by their numbers (n,), were taken on the probe's way back; (n,) bool."""
        if self.grid is None:
            return np.zeros(len(numbers), bool)
        return way_back(numbers, self.grid.nx, self.flyback)

    def positions(self, numbers: np.ndarray) -> np.ndarray:
        """Where frames were taken that have nothing but their numbers (n,); (n, 2) [nm], nan off the raster.

        Raises
        ------
        ValueError
            There is no raster.
        """
        if self.grid is None:
            raise ValueError("frames without positions are placed by the raster they were taken on; there is none")
        return raster_positions(self.grid, numbers, self.flyback)
