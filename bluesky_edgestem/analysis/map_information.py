"""Score and information of a pattern's affine map, beam, background and codes, summed over its disks. Compiled.

The score is that of the frame itself. The information is that of the mean pattern in the frame's rotation, known per
disk and scaled to the frame: that of a disk's place by what the disk's own edges say now, that of fills by what its
pixels count.

In this order stand the map's four entries row by row, the beam's x and y, the background's share, and the codes. A
disk's information is packed: what is of map and beam alone, what is between those and the rest, and what is of the
rest. Each part is stretched by one number, and so added as fast as it can be read.
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
    moments: np.ndarray  #: (g b,), of the disks in question first
    by_code: np.ndarray  #: (K + 1,)
    information: np.ndarray  #: (m,), packed


#: Numbers of map and beam.
_MAP = 6
#: Parts are filled up with zeros to multiples of this: of what is left over from whole vectors, each number takes as
#: long as a vector.
_TOGETHER = 64


@kernel
def _parts(count):  # pragma: no cover - compiled
    """Where the second and the third part begin, and the end, of `count` numbers beside map and beam."""
    first = (_MAP * (_MAP + 1) // 2 + _TOGETHER - 1) // _TOGETHER * _TOGETHER
    second = first + (_MAP * count + _TOGETHER - 1) // _TOGETHER * _TOGETHER
    return first, second, second + (count * (count + 1) // 2 + _TOGETHER - 1) // _TOGETHER * _TOGETHER


def packed(information: np.ndarray) -> np.ndarray:
    """The lower triangle of symmetric matrices (..., 7 + K + 1, 7 + K + 1), as `add_information` takes it, float32."""
    size = information.shape[-1]
    first, second, end = _parts(size - _MAP)
    out = np.zeros((*information.shape[:-2], end), np.float32)
    row, column = np.tril_indices(size)
    for start, of in ((0, row < _MAP), (first, (row >= _MAP) & (column < _MAP)), (second, column >= _MAP)):
        out[..., start : start + of.sum()] = information[..., row[of], column[of]]
    return out


@kernel
def room(n_disks, size, n_functions, n_codes):  # pragma: no cover - compiled
    """Room for `n_disks` disks in windows of `size` pixels."""
    return Room(
        np.zeros(size, np.float32),
        np.zeros(size, np.float32),
        np.empty(n_disks * n_functions, np.float32),
        np.empty(n_codes, np.float32),
        np.empty(_parts(1 + n_codes)[2], np.float32),
    )


@kernel(fastmath=True)
def add_information(
    matrix, score, room, at, disks, weight, inverse, dose, functions, fills, known, place_known, level_known,
    reflections, rows,
):  # fmt: skip  # pragma: no cover - compiled
    """Add what disks say to `score` (7 + K + 1,) and to the lower triangle of `matrix` (7 + K + 1, 7 + K + 1).

    `weight` and `inverse` are padded images of (n - λ)/v and 1/v; `functions` the templates, flat; `fills`
    (K + 1, disks, b) are the frame's, flat, of one electron, in the detector's axes; `known`, `place_known` and
    `level_known` one rotation's, as of `affine_encoder.encode`, `known` packed.

    Returns
    -------
    float
        By how much the disks would rather lie elsewhere, each on its own, squared, over its variance.
    int
        How many numbers that sums over.
    """
    count = len(room.by_code)
    size, n_functions = len(room.weight), len(room.moments) // len(at.seen)
    information = room.information
    first, second, end = _parts(1 + count)
    information[:] = 0
    moments = room.moments[: len(disks) * n_functions]
    moments[:] = 0
    away, freedom = 0.0, 0
    for i, g in enumerate(disks):
        if not at.seen[g]:
            continue
        start = (at.phase_y[g] * PHASES + at.phase_x[g]) * 3 * n_functions * size
        cut(room.weight, weight, at.row[g], at.column[g], rows)
        cut(room.inverse, inverse, at.row[g], at.column[g], rows)
        sx, sy, place, level = of_window(room.weight, room.inverse, at.by_x, at.by_y, g * size, functions, start)
        project(moments, i * n_functions, functions, start, n_functions, room.weight)
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
        pp, pf, ff = np.float32(p * p * dose), np.float32(p * f * dose), np.float32(f * f * dose)
        disk = np.uint64(g)
        # Where (4, 4), (5, 4) and (5, 5) are, of the beam's place.
        xx, xy, yy = pp * known[disk, 14], pp * known[disk, 19], pp * known[disk, 20]
        det = xx * yy - xy * xy
        if det > 0:
            away += (sx * sx * yy - 2 * sx * sy * xy + sy * sy * xx) / det
            freedom += 2
        for k in range(np.uint64(first)):
            information[k] += pp * known[disk, k]
        for k in range(np.uint64(first), np.uint64(second)):
            information[k] += pf * known[disk, k]
        for k in range(np.uint64(second), np.uint64(end)):
            information[k] += ff * known[disk, k]
    at_map, at_between, at_rest = 0, first, second
    for i in range(len(score)):
        for k in range(i + 1):
            if i < _MAP:
                matrix[i, k] += information[at_map]
                at_map += 1
            elif k < _MAP:
                matrix[i, k] += information[at_between]
                at_between += 1
            else:
                matrix[i, k] += information[at_rest]
                at_rest += 1
    project(room.by_code, 0, fills, 0, count, moments)
    for k in range(count):
        score[7 + k] += room.by_code[k] * dose
    return away, freedom
