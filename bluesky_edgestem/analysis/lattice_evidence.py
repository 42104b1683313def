"""Whether a frame shows a lattice at all: more in its disks than around them, the direct beam's left out.

A scan often reaches beyond the crystal, into vacuum or onto its support. There, some rotation fits as well as any, and
what is learned of such frames blurs what is learned of the crystal.
"""

from __future__ import annotations

import numpy as np

from .base_pattern import BasePattern
from .kernels import in_parts, kernel

#: Excess that chance makes, over its standard deviation, where the best of many rotations was chosen; and that which a
#: support's diffuse rings make, over all that the disks hold.
_CHANCE, _DIFFUSE = 4.5, 0.1
#: The ring around a disk begins so many pixels outside of it, for blur and for what the search leaves, and ends there.
_CLEAR, _RING, _ROOM = 1.0, 1.5, 2.0
#: Disks that are looked at, those nearest to the beam.
_MOST = 24


@kernel
def _sums(frame, good, rows, columns, row, column):  # pragma: no cover - compiled
    """Counts on good pixels, and how many those are, at places around one; some may be outside the frame."""
    ny, nx = frame.shape
    counts, pixels = 0.0, 0.0
    for i in range(len(rows)):
        y, x = row + rows[i], column + columns[i]
        if 0 <= y < ny and 0 <= x < nx:
            counts += good[y, x] * frame[y, x]
            pixels += good[y, x]
    return counts, pixels


@kernel
def _excess(frames, good, transform, centre, neighbours, reflections, radius, clear, outer, excess, variance, held):
    # pragma: no cover - compiled
    """Fill `excess` (n,) with what disks hold over the rings around them, `variance` (n,) and all that they hold.

    Rings leave out what is in the `neighbours` (k, 2), places of the sites around one.
    """
    n_frames, ny, nx = frames.shape
    reach = int(np.ceil(outer))
    most = (2 * reach + 1) ** 2
    rows, columns = np.empty((2, most), np.int64), np.empty((2, most), np.int64)
    count = np.zeros(2, np.int64)
    for n in range(n_frames):
        m = transform[n]
        count[:] = 0
        for y in range(-reach, reach + 1):
            for x in range(-reach, reach + 1):
                away = x * x + y * y
                if away > outer**2 or radius**2 < away <= (radius + clear) ** 2:
                    continue
                of = 0 if away <= radius**2 else 1
                alone = True
                for k in range(len(neighbours)):
                    if of == 1:
                        sx = m[0, 0] * neighbours[k, 0] + m[0, 1] * neighbours[k, 1] - x
                        sy = m[1, 0] * neighbours[k, 0] + m[1, 1] * neighbours[k, 1] - y
                        alone = alone and sx * sx + sy * sy > (radius + clear) ** 2
                if alone:
                    rows[of, count[of]], columns[of, count[of]] = y, x
                    count[of] += 1
        excess[n], variance[n], held[n] = 0.0, 1.0, 0.0
        seen = 0
        for g in range(len(reflections)):
            gx, gy = reflections[g, 0], reflections[g, 1]
            column = int(np.rint(centre[n, 0] + m[0, 0] * gx + m[0, 1] * gy))
            row = int(np.rint(centre[n, 1] + m[1, 0] * gx + m[1, 1] * gy))
            if row < 0 or column < 0 or row >= ny or column >= nx:
                continue
            inside, pixels = _sums(frames[n], good, rows[0, : count[0]], columns[0, : count[0]], row, column)
            around, ring = _sums(frames[n], good, rows[1, : count[1]], columns[1, : count[1]], row, column)
            # Of others too little is in the frame.
            if pixels > 0.5 * count[0] and ring > 0.25 * count[1]:
                part = pixels / ring
                excess[n] += inside - part * around
                variance[n] += inside + part**2 * around
                held[n] += inside
                seen += 1
            if seen == _MOST:
                break


def lattice_evidence(base: BasePattern, frames: np.ndarray, transform: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """How much more the disks of a lattice hold than what is around them, over what chance and a support make.

    Parameters
    ----------
    base : BasePattern
    frames : (n, ny, nx) unsigned integers
    transform, centre : (n, 2, 2), (n, 2)
        Maps and beams, finite, as `search` found them or better.

    Returns
    -------
    (n,) float
        A frame that shows the lattice has more than one; one that holds half of no disk but the direct beam has 0.
    """
    around = np.array([(h, k) for h in (-1, 0, 1) for k in (-1, 0, 1) if (h, k) != (0, 0)], float) @ base.vectors
    radius, outer = base.aperture.radius, _RING * base.aperture.radius + _ROOM
    around = around[np.linalg.norm(around, axis=1) < 1.1 * (outer + radius + _CLEAR)]  # others are out of reach
    off_beam = base.reflections[(base.index != 0).any(1)]
    off_beam = off_beam[np.argsort(np.linalg.norm(off_beam, axis=1), kind="stable")]
    excess, variance, held = np.zeros((3, len(frames)))

    def part(p: slice) -> None:
        _excess(
            frames[p], base.good, transform[p], centre[p], around, off_beam, radius, _CLEAR, outer, excess[p],
            variance[p], held[p],
        )  # fmt: skip

    in_parts(len(frames), part)
    return np.maximum(excess, 0.0) / (_CHANCE * np.sqrt(variance) + _DIFFUSE * held)
