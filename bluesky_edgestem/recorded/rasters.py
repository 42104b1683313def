"""A raster, recognised by the positions of its frames."""

from __future__ import annotations

import numpy as np

from ..analysis.scan_images import grid_index
from ..geometry import FieldOfView, ScanGrid

OFF = 0.25
"""Share of a step that a position may be off the grid's point."""
LACKING = 0.5
"""Share of the grid's points that may be without a frame."""


def raster_of(positions: np.ndarray) -> ScanGrid | None:
    """The raster that `positions` (n, 2) [nm] lie on; None where they lie on none."""
    if len(positions) < 4 or not np.isfinite(positions).all():
        return None
    lines = [_lines(along) for along in positions.T]
    if any(line is None for line in lines):
        return None
    (x0, width, nx), (y0, height, ny) = (line for line in lines if line is not None)
    if nx * ny * (1 - LACKING) > len(positions):
        return None
    grid = ScanGrid(FieldOfView(x0, y0, width, height), nx, ny)
    index = grid_index(grid, positions)
    if (index < 0).any() or len(np.unique(index)) < len(positions):
        return None
    step = np.array([width / (nx - 1), height / (ny - 1)])
    return grid if (np.abs(positions - grid.positions[index]) < OFF * step).all() else None


def _lines(along: np.ndarray) -> tuple[float, float, int] | None:
    """First line, distance to the last, and number, of the lines that coordinates lie on."""
    ordered = np.sort(along)
    gaps = np.diff(ordered)
    wide = gaps > gaps.max() / 2
    if not gaps.max() > 0:
        return None
    lines = np.array([group.mean() for group in np.split(ordered, np.flatnonzero(wide) + 1)])
    step = np.median(np.diff(lines))
    n = round((lines[-1] - lines[0]) / step) + 1
    return float(lines[0]), float(lines[-1] - lines[0]), n
