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

#: Where the information of map and beam stands among the sums over disks, 6 by 6, lower half.
_SQUARES = np.array(
    [
        [0, 0, 0, 0, 0, 0],
        [1, 2, 0, 0, 0, 0],
        [3, 4, 6, 0, 0, 0],
        [4, 5, 7, 8, 0, 0],
        [9, 10, 11, 12, 15, 0],
        [11, 12, 13, 14, 16, 17],
    ]
)


class Room(NamedTuple):
    """Arrays that `add_information` works in."""

    weight: np.ndarray  #: (pixels,) (n - λ)/v in a window
    inverse: np.ndarray  #: (pixels,) 1/v
    moments: np.ndarray  #: (b,)
    local: np.ndarray  #: (K + 1,)
    squares: np.ndarray  #: (18,)


@kernel
def room(size, n_functions, n_codes):  # pragma: no cover - compiled
    """Room for windows of `size` pixels."""
    return Room(
        np.empty(size, np.float32),
        np.empty(size, np.float32),
        np.empty(n_functions, np.float32),
        np.empty(n_codes, np.float32),
        np.empty(18),
    )


@kernel(fastmath=True)
def add_information(
    matrix, score, room, at, disks, counts, lam, good, least, dose, templates, fills, known, place_known, level_known,
    reflections, width,
):  # fmt: skip  # pragma: no cover - compiled
    """Add what disks say to `score` (7 + K + 1,) and to the lower half of `matrix` (7 + K + 1, 7 + K + 1).

    `counts`, `lam` and `good` are padded images, `least` the variance's floor; `fills`, `known`, `place_known` and
    `level_known` are one rotation's, as of `affine_encoder.encode`.

    Returns
    -------
    float
        By how much the disks would rather lie elsewhere, each on its own, squared, over its variance.
    int
        How many numbers that sums over.
    """
    count = fills.shape[1]
    total = 7 + count
    squares, local = room.squares, room.local
    squares[:] = 0
    away, freedom = 0.0, 0
    for g in disks:
        if not at.seen[g]:
            continue
        functions = templates[at.phase_y[g], at.phase_x[g]]
        weigh(room.weight, room.inverse, counts, lam, good, least, at.row[g], at.column[g], width)
        sx, sy, place, level = of_window(room.weight, room.inverse, at.by_x[g], at.by_y[g], functions[0])
        project(room.moments, functions, room.weight)
        project(local, fills[g], room.moments)
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
        for k in range(count):
            score[7 + k] += local[k] * dose
        j = known[g]
        xx, xy, yy = p * p * dose * j[0, 0], p * p * dose * j[1, 0], p * p * dose * j[1, 1]
        det = xx * yy - xy * xy
        if det > 0:
            away += (sx * sx * yy - 2 * sx * sy * xy + sy * sy * xx) / det
            freedom += 2
        squares[0] += gx * gx * xx
        squares[1] += gx * gy * xx
        squares[2] += gy * gy * xx
        squares[3] += gx * gx * xy
        squares[4] += gx * gy * xy
        squares[5] += gy * gy * xy
        squares[6] += gx * gx * yy
        squares[7] += gx * gy * yy
        squares[8] += gy * gy * yy
        squares[9] += gx * xx
        squares[10] += gy * xx
        squares[11] += gx * xy
        squares[12] += gy * xy
        squares[13] += gx * yy
        squares[14] += gy * yy
        squares[15] += xx
        squares[16] += xy
        squares[17] += yy
        across, within = p * f * dose, f * f * dose
        for k in range(1 + count):
            row, of = matrix[6 + k], j[2 + k]
            bx, by = across * of[0], across * of[1]
            row[0] += bx * gx
            row[1] += bx * gy
            row[2] += by * gx
            row[3] += by * gy
            row[4] += bx
            row[5] += by
            if k > 0:
                to, part = row[6:total], of[2:]
                for b in range(1 + count):
                    to[b] += within * part[b]
    for i in range(6):
        for k in range(i + 1):
            matrix[i, k] += squares[_SQUARES[i, k]]
    return away, freedom
