"""Values of a scan as images: each where the probe was, none moved by what is missing; and what CoM images tell.

Detector axes that are turned against those of the scan by `rotation` (counter-clockwise, from the scan's to the
detector's) see a deflection v as R(-rotation) v, a mirrored detector with the sign of y changed besides; here it is
turned back before divergence and curl are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..geometry import ScanGrid


def grid_index(grid: ScanGrid, positions: np.ndarray) -> np.ndarray:
    """Which point of a grid each position belongs to.

    Parameters
    ----------
    grid : ScanGrid
    positions : numpy.ndarray
        (n, 2) [nm].

    Returns
    -------
    numpy.ndarray
        (n,) int64 into `grid.positions`: the nearest point. -1 for a position over half a step off the grid, as on the
        probe's way back, and for one that is not finite.
    """
    origin = np.array([grid.field.x0, grid.field.y0])
    step = np.array([grid.field.width / (grid.nx - 1), grid.field.height / (grid.ny - 1)])
    with np.errstate(invalid="ignore"):
        column, row = np.floor((np.asarray(positions, float).reshape(-1, 2) - origin) / step + 0.5).T
        inside = (column >= 0) & (column < grid.nx) & (row >= 0) & (row < grid.ny)
    flat = np.where(inside, row, 0) * grid.nx + np.where(inside, column, 0)
    return np.where(inside, flat, -1).astype(np.int64)


def way_back(numbers: np.ndarray, nx: int, flyback: int) -> np.ndarray:
    """Which frames of a raster the detector took while the probe went back to the next row, by their numbers.

    Parameters
    ----------
    numbers : numpy.ndarray
        (n,) of frames, from 0; those of lost frames are absent.
    nx : int
        Points of a row.
    flyback : int
        Frames that the detector takes at the end of each row while the probe goes back.

    Returns
    -------
    numpy.ndarray
        (n,) bool.

    Raises
    ------
    ValueError
        `flyback` is negative.
    """
    if flyback < 0:
        raise ValueError(f"flyback is {flyback} frames; it has to be 0 or more")
    return np.asarray(numbers, np.int64) % (nx + flyback) >= nx


def raster_positions(grid: ScanGrid, numbers: np.ndarray, flyback: int = 0) -> np.ndarray:
    """Where the probe was, by the frame's number, in a scan row by row whose frames have no positions.

    Parameters
    ----------
    grid : ScanGrid
    numbers, flyback
        As for `way_back`.

    Returns
    -------
    numpy.ndarray
        (n, 2) [nm]; nan for a frame of the way back and for one after the raster's end.
    """
    row, column = np.divmod(np.asarray(numbers, np.int64), grid.nx + flyback)
    inside = ~way_back(numbers, grid.nx, flyback) & (row >= 0) & (row < grid.ny)
    positions = grid.positions[np.where(inside, row * grid.nx + column, 0)]
    positions[~inside] = np.nan
    return positions


def detector_to_scan(rotation: float, mirrored: bool = False) -> np.ndarray:
    """The orthogonal matrix (2, 2) that takes vectors in the axes of the detector to those of the scan.

    Parameters
    ----------
    rotation : float
        From the axes of the scan to those of the detector, counter-clockwise [rad].
    mirrored : bool
        The rows of a frame run the other way: the sign of y is changed before the rotation is taken out.

    Raises
    ------
    ValueError
        The rotation is more than a turn: most likely in degrees.
    """
    if not abs(rotation) <= 2 * np.pi:
        raise ValueError(f"the scan's rotation is {rotation}; allowed is an angle in rad, from -6.283 to 6.283")
    c, s = np.cos(rotation), np.sin(rotation)
    return np.array([[c, -s], [s, c]]) @ np.diag([1.0, -1.0 if mirrored else 1.0])


def turned(com: np.ndarray, rotation: float, mirrored: bool = False) -> np.ndarray:
    """Deflections (..., 2) in the axes of the scan, from those in the axes of the detector."""
    return com @ detector_to_scan(rotation, mirrored).T


def polar(deflections: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude, and direction [rad, counter-clockwise from x], of deflections (..., 2); nan where they are."""
    x, y = deflections[..., 0], deflections[..., 1]
    return np.hypot(x, y), np.arctan2(y, x)


def derivative(image: np.ndarray, step: float, axis: int) -> np.ndarray:
    """Derivative along an axis from the neighbours that were measured; nan where the point itself, or both, was not.

    Central differences, one-sided at edges and beside gaps.
    """
    forward = np.diff(image, axis=axis, append=np.nan) / step
    backward = np.diff(image, axis=axis, prepend=np.nan) / step
    known = np.isfinite(forward).astype(int) + np.isfinite(backward)
    total = np.nan_to_num(forward) + np.nan_to_num(backward)
    return np.where(known > 0, total / np.maximum(known, 1), np.nan)


@dataclass(frozen=True)
class ScanImages:
    """What was measured of a scan so far.

    Parameters
    ----------
    positions : numpy.ndarray
        (n, 2) x, y [nm]: all points of `grid`, or the positions in the order they were measured.
    values : mapping of str to numpy.ndarray
        ``sum``, ``com_x``, ``com_y`` and each virtual detector, (n,) float64; nan where there is no frame (yet).
    com_unit : {"mrad", "pixels"}
        Of the centre of mass, in the axes of the detector.
    grid : ScanGrid, optional
        Of a raster; without it `positions` is a list.
    rotation : float
        From the axes of the scan to those of the detector, counter-clockwise [rad].
    mirrored : bool
        See `detector_to_scan`.
    frames, lost, empty, outside, flyback : int
        Frames that the detector announced; of these not there, without a count, not on the grid, and taken on the
        probe's way back.
    """

    positions: np.ndarray
    values: Mapping[str, np.ndarray]
    com_unit: str = "mrad"
    grid: ScanGrid | None = None
    rotation: float = 0.0
    mirrored: bool = False
    frames: int = 0
    lost: int = 0
    empty: int = 0
    outside: int = 0
    flyback: int = 0

    def image(self, name: str) -> np.ndarray:
        """The image called `name`: (ny, nx) on a raster, (n,) for a list.

        Beside `values` there are ``dpc_x`` and ``dpc_y`` (the CoM in the axes of the scan), their ``magnitude`` and
        ``direction`` [rad, counter-clockwise from x], and on a raster ``divergence`` and ``curl`` [unit of the CoM
        per nm].

        Raises
        ------
        KeyError
            There is none of this name.
        """
        if name in self.values:
            return self._shaped(self.values[name])
        if name not in self._derived:
            raise KeyError(f"no image is called {name!r}; there are {', '.join(self.names)}")
        return self._derived[name]

    @property
    def names(self) -> tuple[str, ...]:
        """All images."""
        return (*self.values, *self._derived)

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        return values if self.grid is None else values.reshape(self.grid.shape)

    @cached_property
    def _derived(self) -> dict[str, np.ndarray]:
        com = turned(np.column_stack([self.values["com_x"], self.values["com_y"]]), self.rotation, self.mirrored)
        x, y = self._shaped(com[:, 0]), self._shaped(com[:, 1])
        magnitude, direction = (self._shaped(values) for values in polar(com))
        derived = {"dpc_x": x, "dpc_y": y, "magnitude": magnitude, "direction": direction}
        if self.grid is not None:
            dx = self.grid.field.width / (self.grid.nx - 1)
            dy = self.grid.field.height / (self.grid.ny - 1)
            derived["divergence"] = derivative(x, dx, 1) + derivative(y, dy, 0)
            derived["curl"] = derivative(y, dx, 1) - derivative(x, dy, 0)
        return derived
