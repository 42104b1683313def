"""Steps that learn from those before what the supposed information does not have (L-BFGS). Compiled.

Liu and Nocedal, Math. Program. 45, 503 (1989), with the factored information in the place of the first Hessian.
"""

from __future__ import annotations

import numpy as np

from .cholesky import solve
from .kernels import kernel


@kernel(fastmath={"reassoc", "contract"})
def corrected_step(step, low, scale, score, moves, changes, known, weights, left):  # pragma: no cover - compiled
    """The step that the factored information proposes, corrected by what the last moves did to the score (L-BFGS)."""
    n = len(score)
    for k in range(n):
        left[k] = score[k]
    for i in range(known - 1, -1, -1):
        move, change = moves[i], changes[i]
        along, curved = 0.0, 0.0
        for k in range(n):
            along += move[k] * left[k]
            curved += move[k] * change[k]
        weights[i] = along / curved
        for k in range(n):
            left[k] -= weights[i] * change[k]
    solve(step, low, scale, left)
    for i in range(known):
        move, change = moves[i], changes[i]
        along, curved = 0.0, 0.0
        for k in range(n):
            along += change[k] * step[k]
            curved += move[k] * change[k]
        for k in range(n):
            step[k] += (weights[i] - along / curved) * move[k]


@kernel
def remember(moves, changes, known, move, before, score):  # pragma: no cover - compiled
    """Keep a move and how it changed the score, the oldest forgotten; returns how many are kept."""
    curved, long, far = 0.0, 0.0, 0.0
    for k in range(len(score)):
        change = before[k] - score[k]
        curved += move[k] * change
        long += move[k] * move[k]
        far += change * change
    if not curved > 1e-3 * np.sqrt(long * far):  # the likelihood is not concave along it
        return known
    if known == len(moves):
        for i in range(known - 1):
            moves[i] = moves[i + 1]
            changes[i] = changes[i + 1]
        known -= 1
    moves[known] = move
    changes[known] = before - score
    return known + 1
