"""Small positive definite systems by Cholesky's method, without allocation. Compiled."""

from __future__ import annotations

import numpy as np

from .kernels import kernel


@kernel(fastmath={"reassoc", "contract"})
def factor(matrix, low, scale):  # pragma: no cover - compiled
    """Cholesky's factor of a positive definite matrix, diagonal scaled to one; false if it is not."""
    n = len(matrix)
    for i in range(n):
        if not matrix[i, i] > 0:
            return False
        scale[i] = 1 / np.sqrt(matrix[i, i])
    for i in range(n):
        row = low[i]
        for j in range(i + 1):
            total, other = 0.0, low[j]
            for k in range(j):
                total += row[k] * other[k]
            total = matrix[i, j] * scale[i] * scale[j] - total
            if j < i:
                row[j] = total / other[j]
            elif total > 1e-10:
                row[j] = np.sqrt(total)
            else:
                return False
    return True


@kernel(fastmath={"reassoc", "contract"})
def solve(out, low, scale, vector):  # pragma: no cover - compiled
    """``out = matrix⁻¹ vector`` of a matrix that was factored."""
    n = len(vector)
    for i in range(n):
        total, row = 0.0, low[i]
        for k in range(i):
            total += row[k] * out[k]
        out[i] = (vector[i] * scale[i] - total) / row[i]
    for i in range(n - 1, -1, -1):
        out[i] /= low[i, i]
        row = low[i]
        for k in range(i):
            out[k] -= row[k] * out[i]
    for i in range(n):
        out[i] *= scale[i]
