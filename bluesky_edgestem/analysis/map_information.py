"""Score and information of a pattern's affine map, beam, background and codes, summed over its disks. Compiled.

The score is that of the frame itself. The information is that of the mean pattern in the frame's rotation, known per
disk and scaled to the frame: that of a disk's place by what the disk's own edges say now, that of fills by what its
pixels count.

In this order stand the map's four entries row by row, the beam's x and y, the background's share, and the codes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .disk_aperture import PHASES
from .disk_kernels import cut, project
from .kernels import kernel
from .window_likelihood import of_window


class Room(NamedTuple):
    """Arrays that `add_information` works in."""

    weight: np.ndarray  #: (pixels,) (n - λ)/v in a window, flat; zero beyond it, as `disk_kernels.cut` leaves it
    inverse: np.ndarray  #: (pixels,) 1/v
    moments: np.ndarray  #: (g b,)
    by_code: np.ndarray  #: (K + 1,)
    stretch: np.ndarray  #: (7 + K + 1,)


@kernel
def room(n_disks, size, n_functions, n_codes):  # pragma: no cover - compiled
    """Room for `n_disks` disks in windows of `size` pixels."""
    return Room(
        np.zeros(size, np.float32),
        np.zeros(size, np.float32),
        np.empty(n_disks * n_functions, np.float32),
        np.empty(n_codes, np.float32),
        np.empty(7 + n_codes),
    )


@kernel(fastmath=True)
def add_information(
    matrix, score, room, at, disks, weight, inverse, dose, functions, fills, known, place_known, level_known,
    reflections, rows,
):  # fmt: skip  # pragma: no cover - compiled
    """Add what disks say to `score` (7 + K + 1,) and to the lower triangle of `matrix` (7 + K + 1, 7 + K + 1).

    `weight` and `inverse` are padded images of (n - λ)/v and 1/v; `functions` the templates, flat; `fills`, `known`,
    `place_known` and `level_known` are one rotation's, as of `affine_encoder.encode`.

    Returns
    -------
    float
        By how much the disks would rather lie elsewhere, each on its own, squared, over its variance.
    int
        How many numbers that sums over.
    """
    total, count = np.uint64(len(score)), len(fills)
    size, n_functions = len(room.weight), len(room.moments) // len(at.seen)
    stretch = room.stretch
    room.moments[:] = 0
    away, freedom = 0.0, 0
    for g in disks:
        if not at.seen[g]:
            continue
        start = (at.phase_y[g] * PHASES + at.phase_x[g]) * 3 * n_functions * size
        cut(room.weight, weight, at.row[g], at.column[g], rows)
        cut(room.inverse, inverse, at.row[g], at.column[g], rows)
        sx, sy, place, level = of_window(room.weight, room.inverse, at.by_x, at.by_y, g * size, functions, start)
        project(room.moments, g * n_functions, functions, start, n_functions, room.weight)
        # The mean pattern's information, stretched to what this frame's disk has.
        p = np.sqrt(place / (dose * place_known[g])) if place_known[g] > 0 else 0.0
        f = np.sqrt(level * dose / level_known[g]) if level_known[g] > 0 else 0.0
        gx, gy = reflections[g, 0], reflections[g, 1]
        score[0] += sx * gx
        score[1] += sx * gy
        score[2] += sy * gx
        score[3] += sy * gy
        score[4] += sx
        score[5] += sy
        xx, xy, yy = p * p * dose * known[g, 4, 4], p * p * dose * known[g, 5, 4], p * p * dose * known[g, 5, 5]
        det = xx * yy - xy * xy
        if det > 0:
            away += (sx * sx * yy - 2 * sx * sy * xy + sy * sy * xx) / det
            freedom += 2
        stretch[:6] = p
        stretch[6:] = f
        disk = np.uint64(g)
        for i in range(total):
            by = stretch[i] * dose
            for k in range(i + np.uint64(1)):
                matrix[i, k] += by * stretch[k] * known[disk, i, k]
    project(room.by_code, 0, fills.reshape(-1), 0, count, room.moments)
    for k in range(count):
        score[7 + k] += room.by_code[k] * dose
    return away, freedom
