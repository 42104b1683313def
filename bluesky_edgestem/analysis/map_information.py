"""Score and information of a pattern's affine map, beam, background and codes, summed over its disks. Compiled.

The score is that of the frame itself. The information is that of the mean pattern in the frame's rotation, known per
disk and scaled to the frame: that of a disk's place by what the disk's own edges say now, that of fills by what its
pixels count.

In this order stand the map's four entries row by row, the beam's x and y, the background's share, and the codes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .disk_kernels import project
from .kernels import kernel
from .window_likelihood import of_window, weigh


class Room(NamedTuple):
    """Arrays that `add_information` works in."""

    weight: np.ndarray  #: (pixels,) (n - λ)/v in a window
    inverse: np.ndarray  #: (pixels,) 1/v
    moments: np.ndarray  #: (g, b)
    by_code: np.ndarray  #: (K + 1,)
    stretch: np.ndarray  #: (7 + K + 1,)


@kernel
def room(n_disks, size, n_functions, n_codes):  # pragma: no cover - compiled
    """Room for `n_disks` disks in windows of `size` pixels."""
    return Room(
        np.empty(size, np.float32),
        np.empty(size, np.float32),
        np.empty((n_disks, n_functions), np.float32),
        np.empty(n_codes, np.float32),
        np.empty(7 + n_codes),
    )


@kernel(fastmath=True)
def add_information(
    matrix, score, room, at, disks, counts, lam, good, least, dose, templates, fills, known, place_known, level_known,
    reflections, rows,
):  # fmt: skip  # pragma: no cover - compiled
    """Add what disks say to `score` (7 + K + 1,) and to `matrix` (7 + K + 1, 7 + K + 1).

    `counts`, `lam` and `good` are padded images, `least` the variance's floor; `fills`, `known`, `place_known` and
    `level_known` are one rotation's, as of `affine_encoder.encode`.

    Returns
    -------
    float
        By how much the disks would rather lie elsewhere, each on its own, squared, over its variance.
    int
        How many numbers that sums over.
    """
    total, count = len(score), len(fills)
    stretch = room.stretch
    room.moments[:] = 0
    away, freedom = 0.0, 0
    for g in disks:
        if not at.seen[g]:
            continue
        functions = templates[at.phase_y[g], at.phase_x[g], 0]
        weigh(room.weight, room.inverse, counts, lam, good, least, at.row[g], at.column[g], rows)
        sx, sy, place, level = of_window(room.weight, room.inverse, at.by_x[g], at.by_y[g], functions[0])
        project(room.moments[g], functions, room.weight)
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
        j = known[g]
        xx, xy, yy = p * p * dose * j[4, 4], p * p * dose * j[5, 4], p * p * dose * j[5, 5]
        det = xx * yy - xy * xy
        if det > 0:
            away += (sx * sx * yy - 2 * sx * sy * xy + sy * sy * xx) / det
            freedom += 2
        stretch[:6] = p
        stretch[6:] = f
        for i in range(total):
            row, of, by = matrix[i], j[i], stretch[i] * dose
            for k in range(total):
                row[k] += by * stretch[k] * of[k]
    project(room.by_code, fills.reshape(count, -1), room.moments.reshape(-1))
    for k in range(count):
        score[7 + k] += room.by_code[k] * dose
    return away, freedom
