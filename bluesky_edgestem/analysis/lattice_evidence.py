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
#: Disks that are looked at, the brightest, until the evidence is this.
_MOST, _PLAIN = 24, 4.0


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
def _evidence(
    frames, good, transform, centre, reflections, disk, ring, neighbours, clear2, chance, diffuse, most, plain, evidence
):  # pragma: no cover - compiled
    """Fill `evidence` (n,): what disks hold over the rings around them, over what chance and a support make.

    `disk` and `ring` (2, k) are rows and columns of their pixels around a site; of a ring those are left out whose
    squared distance from one of the `neighbours` (s, 2), sites around the first, is less than `clear2`.
    """
    n_frames, ny, nx = frames.shape
    rows, columns = np.empty_like(ring[0]), np.empty_like(ring[0])
    for n in range(n_frames):
        m = transform[n]
        count = 0
        for i in range(ring.shape[1]):
            alone = True
            for k in range(len(neighbours)):
                sx = m[0, 0] * neighbours[k, 0] + m[0, 1] * neighbours[k, 1] - ring[1, i]
                sy = m[1, 0] * neighbours[k, 0] + m[1, 1] * neighbours[k, 1] - ring[0, i]
                alone = alone and sx * sx + sy * sy > clear2
            if alone:
                rows[count], columns[count] = ring[0, i], ring[1, i]
                count += 1
        excess, variance, held, evidence[n] = 0.0, 1.0, 0.0, 0.0
        seen = 0
        for g in range(len(reflections)):
            gx, gy = reflections[g, 0], reflections[g, 1]
            column = int(np.rint(centre[n, 0] + m[0, 0] * gx + m[0, 1] * gy))
            row = int(np.rint(centre[n, 1] + m[1, 0] * gx + m[1, 1] * gy))
            if row < 0 or column < 0 or row >= ny or column >= nx:
                continue
            inside, pixels = _sums(frames[n], good, disk[0], disk[1], row, column)
            around, beside = _sums(frames[n], good, rows[:count], columns[:count], row, column)
            # Of others too little is in the frame.
            if pixels > 0.5 * disk.shape[1] and beside > 0.25 * count:
                part = pixels / beside
                excess += inside - part * around
                variance += inside + part**2 * around
                held += inside
                seen += 1
                evidence[n] = max(excess, 0.0) / (chance * np.sqrt(variance) + diffuse * held)
                if seen == most or evidence[n] > plain:
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
        A frame that shows the lattice has more than one, of which no more is told than that it is `_PLAIN`; one that
        holds half of no disk but the direct beam has 0.
    """
    around = np.array([(h, k) for h in (-1, 0, 1) for k in (-1, 0, 1) if (h, k) != (0, 0)], float) @ base.vectors
    radius, outer = base.aperture.radius, _RING * base.aperture.radius + _ROOM
    around = around[np.linalg.norm(around, axis=1) < 1.1 * (outer + radius + _CLEAR)]  # others are out of reach
    reach = int(np.ceil(outer))
    square = np.indices((2 * reach + 1, 2 * reach + 1)).reshape(2, -1) - reach
    away = np.hypot(*square)
    disk, ring = square[:, away <= radius], square[:, (away > radius + _CLEAR) & (away <= outer)]
    brightest = np.argsort(-base.fills[0, :, 0], kind="stable")
    off_beam = base.reflections[brightest][(base.index[brightest] != 0).any(1)]
    out = np.zeros(len(frames))

    def part(p: slice) -> None:
        _evidence(
            frames[p], base.good, transform[p], centre[p], off_beam, disk, ring, around, (radius + _CLEAR) ** 2,
            _CHANCE, _DIFFUSE, _MOST, _PLAIN, out[p],
        )  # fmt: skip

    in_parts(len(frames), part)
    return out
