"""Where the probe may be: the field of view and grids over it.

Conventions, the same everywhere in the package: positions are arrays of shape ``(n, 2)`` holding x, y [nm]; x points
right, y points up and rotation is counter-clockwise positive, so the axes are right-handed. A map is an array
``(ny, nx)`` whose row index grows with y: draw it with ``origin="lower"``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isfinite

import numpy as np


@dataclass(frozen=True)
class FieldOfView:
    """A rectangle of the specimen, edges included.

    Parameters
    ----------
    x0, y0 : float
        Lower left corner [nm].
    width, height : float
        Size [nm], positive.
    """

    x0: float
    y0: float
    width: float
    height: float

    def __post_init__(self) -> None:
        if not all(isfinite(v) for v in (self.x0, self.y0, self.width, self.height)):
            raise ValueError(f"a field of view needs finite numbers [nm], got {self}")
        if self.width <= 0 or self.height <= 0:
            raise ValueError(
                f"a field of view needs a width and a height above 0 nm, got {self.width} x {self.height} nm"
            )

    @classmethod
    def centred(cls, width: float, height: float | None = None) -> FieldOfView:
        """A field of view of `width` x `height` [nm] around the origin; square without `height`."""
        height = width if height is None else height
        return cls(-width / 2, -height / 2, width, height)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top [nm], as matplotlib's ``imshow(extent=)`` takes them."""
        return self.x0, self.x0 + self.width, self.y0, self.y0 + self.height

    def contains(self, positions: np.ndarray) -> np.ndarray:
        """Whether each of `positions` (n, 2) [nm] lies in the field; bool, (n,)."""
        left, right, bottom, top = self.extent
        x, y = np.asarray(positions, float).reshape(-1, 2).T
        return (x >= left) & (x <= right) & (y >= bottom) & (y <= top)


@dataclass(frozen=True)
class ScanGrid:
    """A regular grid of ``nx * ny`` probe positions that includes the edges of its field of view."""

    field: FieldOfView
    nx: int
    ny: int

    def __post_init__(self) -> None:
        if self.nx < 2 or self.ny < 2:
            raise ValueError(f"a scan grid needs at least 2 x 2 positions, got {self.nx} x {self.ny}")

    @classmethod
    def with_step(cls, field: FieldOfView, step: float) -> ScanGrid:
        """The coarsest grid over `field` whose step is at most `step` [nm]."""
        if not step > 0:
            raise ValueError(f"a scan step is above 0 nm, got {step}")
        return cls(field, max(2, ceil(field.width / step) + 1), max(2, ceil(field.height / step) + 1))

    @property
    def x(self) -> np.ndarray:
        """Columns (nx,) [nm]."""
        return self.field.x0 + np.linspace(0.0, self.field.width, self.nx)

    @property
    def y(self) -> np.ndarray:
        """Rows (ny,) [nm]."""
        return self.field.y0 + np.linspace(0.0, self.field.height, self.ny)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of a map on this grid, (ny, nx)."""
        return self.ny, self.nx

    @property
    def positions(self) -> np.ndarray:
        """All positions (ny * nx, 2) [nm], row by row from the bottom, each from left to right."""
        x, y = np.meshgrid(self.x, self.y)
        return np.column_stack([x.ravel(), y.ravel()])
