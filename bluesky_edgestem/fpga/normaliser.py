"""What features are divided by: weights whose sum over a frame's bins is that of its Bragg disks, without background.

Divided by all the electrons outside of the incident beam, a feature would depend on how many of them are background:
the dense layers would have to undo that product for each output. With disks weighed
positive, and what lies between them negative, the sum goes with the disks alone, and strain, rotation and phase are
linear in the features to first order.
"""

from __future__ import annotations

import numpy as np

from .frontend import CORE, Frontend
from .symmetry import VARIANTS
from .teaching import Lessons

#: Electrons per pattern of which the sum is to be the steadiest: with fewer, what is between the disks counts less.
DOSE = 3e4


def normaliser(lessons: Lessons, frontend: Frontend, bits: int) -> np.ndarray:
    """Weights (CORE²,) int32 of so many `bits` with the sign; 0 in the incident beam.

    Of all weights w those for which the sum over bins n errs least from the same for every pattern, ⟨(w·n - 1)²⟩, with
    the variance of counting at `DOSE` electrons; the same again for turned and mirrored patterns, and in a few bits.
    """
    outer = frontend.outer
    expected = lessons.expected[:, outer].astype(np.float32) / 1000
    mean = expected.mean(0)
    moments = (expected.T @ expected / len(expected)).astype(float) + np.diag(np.maximum(mean, 1e-9) / DOSE)
    plain = np.zeros(CORE**2)
    plain[outer] = np.linalg.solve(moments, mean)
    even = np.mean([variant.bins(plain[None])[0] for variant in VARIANTS], 0)
    most = 2 ** (bits - 1) - 1

    def at(unit: float) -> np.ndarray:
        return np.clip(np.round(even / unit), -most, most)

    def error(unit: float) -> float:
        weights = at(unit)[outer]
        sums = expected @ weights
        return float((sums.var() + np.square(weights) @ mean / DOSE) / max(sums.mean(), 1e-9) ** 2)

    units = np.abs(even).max() / most * np.linspace(0.1, 1.0, 60)
    return at(min(units, key=error)).astype(np.int32)
