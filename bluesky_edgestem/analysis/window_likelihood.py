"""What counts say of the rates expected, in the windows of single disks and in the whole frame. Compiled.

Images are padded, as in `disk_kernels`.
"""

from __future__ import annotations

import numpy as np

from .kernels import kernel


@kernel(fastmath=True)
def padded(out, image, good, pad):  # pragma: no cover - compiled
    """Set the inside of a padded image to what good pixels hold; returns its sum, and the most in a pixel of all."""
    rows, columns, edge = np.uint64(image.shape[0]), np.uint64(image.shape[1]), np.uint64(pad)
    total, most = 0.0, image[0, 0]
    for row in range(rows):
        part = np.float32(0.0)
        for k in range(columns):
            held = np.float32(image[row, k]) * good[row, k]
            out[row + edge, edge + k] = held
            part += held
        for k in range(columns):
            most = max(most, image[row, k])
        total += part
    return total, most


@kernel(fastmath=True)
def weigh(weight, inverse, counts, lam, good, least, row0, col0, rows):  # pragma: no cover - compiled
    """``(n - λ)/v`` and ``1/v`` in a disk's window; v is λ, but no less than a floor: no count is impossible."""
    row, left0 = np.uint64(row0), np.uint64(col0)
    for i in range(np.uint64(len(rows))):
        for k in range(left0 + np.uint64(rows[i, 0]), left0 + np.uint64(rows[i, 1])):
            inverse[row, k] = good[row, k] / max(lam[row, k], least)
            weight[row, k] = (counts[row, k] - lam[row, k]) * inverse[row, k]
        row += np.uint64(1)


@kernel(fastmath=True)
def of_window(w, q, by_x, by_y, first, functions, start):  # pragma: no cover - compiled
    """Score of a disk's place along x and y, information of the place, and of its level, the function at `start`."""
    sx, sy, place, inside = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
    of, at = np.uint64(first), np.uint64(start)
    for k in range(np.uint64(len(w))):
        dx, dy, level = by_x[of + k], by_y[of + k], functions[at + k]
        sx += w[k] * dx
        sy += w[k] * dy
        place += q[k] * (dx * dx + dy * dy)
        inside += q[k] * level * level
    return sx, sy, place, inside


@kernel(fastmath=True)
def of_frame(
    weight, inverse, counts, lam, good, least, table, shift_x, shift_y, margin, pad
):  # pragma: no cover - compiled
    """``(n - λ)/v`` and ``1/v``; Pearson's Σ (n - λ)²/v over the number of pixels, and the background's score."""
    rows, columns, edge = np.uint64(lam.shape[0] - 2 * pad), np.uint64(lam.shape[1] - 2 * pad), np.uint64(pad)
    left = np.uint64(int(np.floor(margin - min(max(shift_x, -margin + 1.0), margin - 1.0) + 0.5)))
    top = np.uint64(int(np.floor(margin - min(max(shift_y, -margin + 1.0), margin - 1.0) + 0.5)))
    total, score, number = 0.0, 0.0, 1e-9
    for i in range(rows):
        row = i + edge
        part, along, counted = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for k in range(columns):
            at = edge + k
            off = counts[row, at] - lam[row, at]
            q = good[row, at] / max(lam[row, at], least)
            w = off * q
            inverse[row, at] = q
            weight[row, at] = w
            part += w * off
            along += w * table[i + top, left + k]
            counted += good[row, at]
        total += part
        score += along
        number += counted
    return total / number, score
