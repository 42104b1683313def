"""What counts say of the rates expected, in the windows of single disks and in the whole frame. Compiled.

Images are padded, as in `disk_kernels`.
"""

from __future__ import annotations

import numpy as np

from .kernels import kernel


@kernel(fastmath=True)
def padded(out, image, good, pad):  # pragma: no cover - compiled
    """Set the inside of a padded image to what good pixels hold; returns its sum, and the most in a pixel of all."""
    ny, nx = image.shape
    total, most = 0.0, image[0, 0]
    for row in range(ny):
        line, g, to = image[row], good[row], out[row + pad, pad : pad + nx]
        part = np.float32(0.0)
        for k in range(nx):
            to[k] = np.float32(line[k]) * g[k]
            part += to[k]
        for k in range(nx):
            most = max(most, line[k])
        total += part
    return total, most


@kernel(fastmath=True)
def weigh(w, q, counts, lam, good, least, row0, col0, rows):  # pragma: no cover - compiled
    """``(n - λ)/v`` and ``1/v`` of a window, flat; v is λ, but no less than a floor: no count is impossible."""
    top, at = np.uint64(row0), np.uint64(0)
    for row in range(np.uint64(len(rows))):
        left, long = np.uint64(col0 + rows[row, 0]), np.uint64(rows[row, 1] - rows[row, 0])
        n, line, g = counts[top + row], lam[top + row], good[top + row]
        for k in range(long):
            q[at + k] = g[left + k] / max(line[left + k], least)
        for k in range(long):
            w[at + k] = (n[left + k] - line[left + k]) * q[at + k]
        at += long


@kernel(fastmath=True)
def of_window(w, q, dx, dy, level):  # pragma: no cover - compiled
    """Score of a disk's place along x and y, information of the place, and of its level."""
    sx, sy, place, inside = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for k in range(w.shape[0]):
        sx += w[k] * dx[k]
        sy += w[k] * dy[k]
        place += q[k] * (dx[k] * dx[k] + dy[k] * dy[k])
        inside += q[k] * level[k] * level[k]
    return sx, sy, place, inside


@kernel(fastmath=True)
def of_frame(counts, lam, good, least, table, shift_x, shift_y, margin, pad):  # pragma: no cover - compiled
    """Pearson's Σ (n - λ)²/v over the number of pixels, and the score Σ (n - λ)/v · b of the background."""
    ny, nx = lam.shape[0] - 2 * pad, lam.shape[1] - 2 * pad
    ix = int(np.floor(margin - min(max(shift_x, -margin + 1.0), margin - 1.0) + 0.5))
    iy = int(np.floor(margin - min(max(shift_y, -margin + 1.0), margin - 1.0) + 0.5))
    total, score, number = 0.0, 0.0, 1e-9
    for row in range(ny):
        inside = slice(pad, pad + nx)
        n, line, g = counts[row + pad, inside], lam[row + pad, inside], good[row + pad, inside]
        b = table[row + iy, ix : ix + nx]
        part, along, counted = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for k in range(nx):
            left = n[k] - line[k]
            w = left * g[k] / max(line[k], least)
            part += w * left
            along += w * b[k]
            counted += g[k]
        total += part
        score += along
        number += counted
    return total / number, score
