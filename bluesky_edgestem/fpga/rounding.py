"""Weights of few bits: they are rounded one after the other, and those still to come make up for what that changes.

After Frantar, Ashkboos, Hoefler and Alistarh, "GPTQ: accurate post-training quantization", ICLR 2023
(arXiv:2210.17323), which solves for one layer what Hassibi and Stork's optimal brain surgeon does for a network.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from .frontend import ATTENUATION, CORE, Frontend
from .symmetry import VARIANTS
from .teaching import Lessons

DOSE = 1e5  #: electrons per pattern whose counting noise filters are to pass as little of as before
FINEST = 9  #: bits behind the point of the smallest unit of a neuron's weights: with more, TensorFlow would round sums
UNITS = np.linspace(0.2, 0.9, 8)  #: that are tried, over the one in which the largest weight is just held


def covariance(lessons: Lessons, frontend: Frontend, normaliser: np.ndarray) -> np.ndarray:
    """Of what filters weigh, (CORE², CORE²): bins over the normaliser's sum, in all variants, with counting noise."""
    bins = lessons.expected.astype(np.float32) / 1000
    shares = np.where(frontend.outer, 1.0, 2.0**-ATTENUATION).astype(np.float32)
    sums = np.maximum(bins @ normaliser.astype(np.float32), 1e-6)[:, None]
    seen = bins * shares / sums
    moments, mean = seen.T @ seen / len(seen), seen.mean(0)
    moments[np.diag_indices(CORE**2)] += (bins * shares**2 / sums**2).mean(0) / DOSE
    total, middle = np.zeros(moments.shape), np.zeros(CORE**2)
    for variant in VARIANTS:
        order = variant.bins(np.arange(CORE**2)[None])[0]
        total += moments[np.ix_(order, order)] / len(VARIANTS)
        middle += mean[order] / len(VARIANTS)
    # A mean may change: the dense layers take it off.
    return total - np.outer(middle, middle)


def rounded(filters: np.ndarray, covariance: np.ndarray, bits: int) -> np.ndarray:
    """Whole numbers (CORE², n) int32 of `bits` bits with the sign, each column proportional to a filter (CORE², n).

    Of units tried for each filter the one whose feature errs least, over what the covariance (CORE², CORE²) tells.
    """
    most = 2 ** (bits - 1) - 1
    best, least = np.zeros(filters.shape, np.int32), np.full(filters.shape[1], np.inf)
    influence = _influence(covariance)
    for of_largest in UNITS:
        whole = _in_turn(filters, np.abs(filters).max(0) * of_largest / most, most, *influence)
        # Of any size: what is wanted of a feature is that it goes with the filter's.
        common = np.einsum("pk,pq,qk->k", whole, covariance, filters, optimize=True)
        own = np.maximum(np.einsum("pk,pq,qk->k", whole, covariance, whole, optimize=True), 1e-30)
        lost = -(common**2) / own
        better = lost < least
        best[:, better], least[better] = whole[:, better], lost[better]
    return best


def units_of(weights: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """The power of two in which the weights (inputs, n) of each neuron, of `bits` (n,) each, err least, (n,)."""
    most = 2 ** (np.asarray(bits) - 1) - 1
    units = 2.0 ** -np.arange(FINEST - 15, FINEST + 1)[:, None, None]
    errors = np.square(np.clip(np.round(weights / units), -most, most) * units - weights).sum(1)
    # Of equal ones, as for a neuron without weights, the coarsest.
    return units[np.argmin(errors, 0), 0, 0]


def in_units(weights: np.ndarray, covariance: np.ndarray, units: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Whole numbers (inputs, n) of weights (inputs, n) in units (n,), none above `most` (n,); zeros stay.

    `covariance` (inputs, inputs) is that of what they weigh.
    """
    return _in_turn(weights, units, most, *_influence(covariance))


def dense(weights: np.ndarray, reads: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Weights (inputs, n) of a dense layer, rounded to `bits` (n,) each over what it reads (patterns, inputs)."""
    units = units_of(weights, bits)
    return in_units(weights, np.cov(reads.T), units, 2 ** (bits - 1) - 1) * units


def _influence(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order in which inputs are rounded, and what an error in each has the others do, by the inverse covariance."""
    order = np.argsort(-np.diag(covariance))
    inner = covariance[np.ix_(order, order)]
    inner = inner + np.eye(len(inner)) * 1e-4 * np.diag(inner).mean()
    lower = cholesky(inner[::-1, ::-1], lower=True)
    return order, solve_triangular(lower, np.eye(len(inner)), lower=True)[::-1, ::-1]


def _in_turn(
    weights: np.ndarray, units: np.ndarray, most: int | np.ndarray, order: np.ndarray, upper: np.ndarray
) -> np.ndarray:
    left = weights[order].T.astype(float)
    kept, whole = left != 0, np.zeros(left.shape)
    for i in range(left.shape[1]):
        whole[:, i] = np.clip(np.rint(left[:, i] / units), -most, most) * kept[:, i]
        error = (left[:, i] - units * whole[:, i]) / upper[i, i]
        left[:, i + 1 :] -= error[:, None] * upper[i, i + 1 :]
    out = np.zeros(weights.shape)
    out[order] = whole.T
    return out
