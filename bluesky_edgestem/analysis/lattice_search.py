"""Where a known lattice lies in a frame, to about a pixel, for any rotation. Compiled.

A site counts by the square root of the electrons in a square inside its disk, which weighs bright and dim disks alike.
The best rotation is sought over all that the lattice's symmetry leaves; around it, rotation and the beam's place by a
pattern search, and once more with squares as wide as the disks, which lose counts as soon as a disk is off. Strain is
left to what comes after: one of 2 % moves the outermost disks by less than their radius, and what fills the disks moves
squares as much.
"""

from __future__ import annotations

import numpy as np

from .kernels import kernel


def symmetry(vectors: np.ndarray, tolerance: float = 0.04) -> int:
    """How many rotations by equal parts of a turn map a lattice (2, 2) onto itself: 2, 4 or 6."""
    for fold in (6, 4):
        c, s = np.cos(2 * np.pi / fold), np.sin(2 * np.pi / fold)
        index = vectors @ np.array([[c, s], [-s, c]]) @ np.linalg.inv(vectors)
        if np.abs(index - np.rint(index)).max() < tolerance:
            return fold
    return 2


def angles(fold: int, radius: float, reach: float) -> np.ndarray:
    """Rotations to try [rad], from 0 outwards, half a disk's radius apart at the frame's edge."""
    step = 0.5 * radius / reach
    count = int(np.ceil(np.pi / fold / step))
    each = np.arange(1, count + 1) * (np.pi / fold / count)
    return np.concatenate([[0.0], np.stack([each, -each], 1).ravel()])[:-1]


@kernel(fastmath=True)
def _score(sums, reflections, m, cx, cy, half):  # pragma: no cover - compiled
    ny, nx = sums.shape[0] - 1, sums.shape[1] - 1
    total, side = 0.0, np.uint64(2 * half + 1)
    for g in range(len(reflections)):
        x = int(np.floor(cx + m[0] * reflections[g, 0] + m[1] * reflections[g, 1] + 0.5)) - half
        y = int(np.floor(cy + m[2] * reflections[g, 0] + m[3] * reflections[g, 1] + 0.5)) - half
        if x < 0 or y < 0 or x >= nx - 2 * half or y >= ny - 2 * half:
            continue
        left, low = np.uint64(x), np.uint64(y)  # unsigned, as in `disk_kernels`
        right, high = left + side, low + side
        total += np.sqrt(sums[high, right] - sums[low, right] - sums[high, left] + sums[low, left])
    return total


@kernel(fastmath=True)
def _climb(sums, reflections, m, trial, half, reach, step):  # pragma: no cover - compiled
    """Move map and beam `m` (6,) to where the score is highest, by steps of beam and rotation [pixels at `reach`]."""
    best = _score(sums, reflections, m, m[4], m[5], half)
    for _ in range(4):
        for _ in range(2):
            for kind in range(3):
                for sign in (-1.0, 1.0):
                    move = sign * step
                    trial[:] = m
                    if kind == 2:
                        e = move / reach
                        trial[0], trial[1] = m[0] - e * m[2], m[1] - e * m[3]
                        trial[2], trial[3] = m[2] + e * m[0], m[3] + e * m[1]
                    else:
                        trial[4 + kind] += move
                    score = _score(sums, reflections, trial, trial[4], trial[5], half)
                    if score > best:
                        best = score
                        m[:] = trial
        step *= 0.5


@kernel(fastmath=True)
def search(
    frames, good, reflections, turns, centre, half, wide, spacing, reach, transform, found
):  # pragma: no cover - compiled
    """Find the lattice in frames (n, ny, nx); fills `transform` (n, 2, 2) and `found` (n, 2).

    `reflections` (g, 2) are sites that stay in the frame in every rotation, `turns` (t,) the rotations to try [rad],
    `centre` (2,) about where the beam is, `half` and `wide` half the squares' sides, `spacing` the lattice's, `reach`
    the outermost site's distance [pixels].
    """
    n_frames, ny, nx = frames.shape
    sums = np.zeros((ny + 1, nx + 1), np.int64)
    m, trial = np.empty(6), np.empty(6)
    one = np.uint64(1)
    for n in range(n_frames):
        frame = np.uint64(n)
        for row in range(np.uint64(ny)):
            total = np.int64(0)
            for k in range(np.uint64(nx)):
                total += np.int64(frames[frame, row, k]) * (good[row, k] > 0)
                sums[row + one, k + one] = sums[row, k + one] + total
        best = -1e300
        for t in range(len(turns)):
            c, s = np.cos(turns[t]), np.sin(turns[t])
            trial[0], trial[1], trial[2], trial[3] = c, -s, s, c
            score = _score(sums, reflections, trial, centre[0], centre[1], half)
            if score > best:
                best = score
                m[:4] = trial[:4]
        m[4], m[5] = centre[0], centre[1]
        _climb(sums, reflections, m, trial, half, reach, spacing / 6)
        _climb(sums, reflections, m, trial, wide, reach, spacing / 12)
        transform[n, 0, 0], transform[n, 0, 1], transform[n, 1, 0], transform[n, 1, 1] = m[0], m[1], m[2], m[3]
        found[n, 0], found[n, 1] = m[4], m[5]
