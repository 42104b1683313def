"""A lattice's disks in a frame: which of them count, where their windows are, and what is expected in them. Compiled.

Their fills follow codes, a few for all disks. Images are padded, as in `disk_kernels`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .disk_aperture import PHASES
from .disk_kernels import INSIDE, add, combine, leave_out, locate, on_detector
from .kernels import kernel


class Windows(NamedTuple):
    """Of each of g disks, where its window is and how its image changes with its place."""

    seen: np.ndarray  #: (g,) bool, whether it counts
    row: np.ndarray  #: (g,) first row in a padded image
    column: np.ndarray  #: (g,)
    phase_y: np.ndarray  #: (g,) of the template
    phase_x: np.ndarray  #: (g,)
    left_y: np.ndarray  #: (g,) what the phase leaves of the place [pixels]
    left_x: np.ndarray  #: (g,)
    by_x: np.ndarray  #: (g pixels,) flat, derivative of the image by the disk's place along x
    by_y: np.ndarray  #: (g pixels,)


@kernel
def windows(n_disks, size):  # pragma: no cover - compiled
    """Room for those of `n_disks` disks with `size` pixels each."""
    return Windows(
        np.zeros(n_disks, np.bool_),
        np.empty(n_disks, np.int64),
        np.empty(n_disks, np.int64),
        np.empty(n_disks, np.int64),
        np.empty(n_disks, np.int64),
        np.empty(n_disks),
        np.empty(n_disks),
        np.empty(n_disks * size, np.float32),
        np.empty(n_disks * size, np.float32),
    )


@kernel(fastmath=True)
def place(at, disks, again, reflections, transform, centre, radius, half, pad, ny, nx):  # pragma: no cover - compiled
    """Find the windows of some disks; `again` to keep what counts as it was, unless it has left the frame."""
    for g in disks:
        x = centre[0] + transform[0, 0] * reflections[g, 0] + transform[0, 1] * reflections[g, 1]
        y = centre[1] + transform[1, 0] * reflections[g, 0] + transform[1, 1] * reflections[g, 1]
        if again:
            at.seen[g] = at.seen[g] and on_detector(x, y, half, ny, nx)
        else:
            at.seen[g] = on_detector(x, y, -INSIDE * radius, ny, nx)
        if at.seen[g]:
            row, column, py, px, left_x, left_y = locate(x, y, half, pad)
            at.row[g], at.column[g], at.phase_y[g], at.phase_x[g] = row, column, py, px
            at.left_x[g], at.left_y[g] = left_x, left_y


@kernel(fastmath=True)
def mask(
    counting, at, disks, level, reflections, transform, centre, radius, half, pad, ny, nx
):  # pragma: no cover - compiled
    """Let the pixels of those of some disks that do not count not count either.

    Of one that the frame's edge cuts, or whose `level`, in the order of `disks`, was not learned and is 0, as far as
    its blur reaches, for it can be bright. Any other does not count because it is dim, and its blur is dimmer still: it
    takes no more than a pixel of what is around it, where the edges of others may be.
    """
    for i, g in enumerate(disks):
        x = centre[0] + transform[0, 0] * reflections[g, 0] + transform[0, 1] * reflections[g, 1]
        y = centre[1] + transform[1, 0] * reflections[g, 0] + transform[1, 1] * reflections[g, 1]
        if not at.seen[g] and on_detector(x, y, half, ny, nx):
            dim = level[i] != 0 and on_detector(x, y, -INSIDE * radius, ny, nx)
            leave_out(counting, x + pad, y + pad, radius + 1.0 if dim else half)


@kernel(fastmath=True)
def lay_background_around(
    lam, at, disks, table, shift_x, shift_y, amount, rows, margin, pad
):  # pragma: no cover - compiled
    """As `disk_kernels.lay_background`, in the disks' windows alone, of a beam at the nearest whole pixel."""
    ny, nx = lam.shape[0] - 2 * pad, lam.shape[1] - 2 * pad
    ix = int(np.floor(margin - min(max(shift_x, -margin + 1.0), margin - 1.0) + 0.5)) - pad
    iy = int(np.floor(margin - min(max(shift_y, -margin + 1.0), margin - 1.0) + 0.5)) - pad
    b = np.float32(amount)
    for g in disks:
        if not at.seen[g]:
            continue
        top = at.row[g]
        for row in range(max(top, pad), min(top + len(rows), pad + ny)):
            first = max(at.column[g] + rows[row - top, 0], pad)
            last = max(min(at.column[g] + rows[row - top, 1], pad + nx), first)
            to, of, left, right = np.uint64(row), np.uint64(row + iy), np.uint64(first), np.uint64(first + ix)
            for k in range(np.uint64(last - first)):
                lam[to, left + k] = b * table[of, right + k]


@kernel(fastmath=True)
def add_disks(lam, at, disks, functions, rows, fills, codes, coef, value):  # pragma: no cover - compiled
    """Add the images of disks, of their fills (K + 1, disks, b) by codes (K + 1,), and keep their slopes.

    `fills` are flat, and so are `functions`, the aperture's templates, and `coef` (g b,) and `value` (pixels,), which
    are room.
    """
    size, n_functions = len(value), len(coef) // len(at.seen)
    block = n_functions * size
    combine(coef, 0, fills, 0, len(disks) * n_functions, codes, 0, len(codes))
    for i, g in enumerate(disks):
        if not at.seen[g]:
            continue
        start, of = (at.phase_y[g] * PHASES + at.phase_x[g]) * 3 * block, i * n_functions
        combine(value, 0, functions, start, size, coef, of, n_functions)
        combine(at.by_x, g * size, functions, start + block, size, coef, of, n_functions)
        combine(at.by_y, g * size, functions, start + 2 * block, size, coef, of, n_functions)
        add(lam, value, at.by_x, at.by_y, g * size, at.row[g], at.column[g], at.left_x[g], at.left_y[g], rows)
