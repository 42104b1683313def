"""Fewer weights, and of few bits: one after the other goes or is rounded, and others make up for what that changes.

Rounding is after Frantar, Ashkboos, Hoefler and Alistarh, "GPTQ: accurate post-training quantization", ICLR 2023
(arXiv:2210.17323), which solves for one layer what Hassibi and Stork's optimal brain surgeon does for a network.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cholesky, solve_triangular

FINEST = 9  #: bits behind the point of the smallest unit of a neuron's weights: with more, TensorFlow would round sums
UNITS = np.linspace(0.2, 0.9, 8)  #: that are tried, over the one in which the largest weight is just held
SWEEPS = 4  #: times that filters are rounded anew, each with what the others then are


def rounded(filters: np.ndarray, covariance: np.ndarray, bits: int, curvature: np.ndarray) -> np.ndarray:
    """Filters (CORE², n) in whole numbers of `bits` bits with the sign, (CORE², n) int32, each in a unit of its own.

    With errors e = units * whole - filters, tr(eᵀ covariance e curvature), what the loss rises by, is to be least: a
    filter makes up for what rounding others has changed, as far as the loss cannot tell them apart. They are rounded
    in turn, those first that count most, in the best of the units that are tried, and `SWEEPS` times.

    Parameters
    ----------
    filters : array (CORE², n)
    covariance : array (CORE², CORE²)
        Of what they weigh.
    bits : int
    curvature : array (n, n)
        Second derivatives of the loss by features.
    """
    most = 2 ** (bits - 1) - 1
    influence = _influence(covariance)
    whole, errors, seen = np.zeros(filters.shape, np.int32), np.zeros(filters.shape), np.zeros(filters.shape)
    for sweep in range(SWEEPS):
        for k in np.argsort(-np.diag(curvature)):
            others = curvature[k] / curvature[k, k]
            others[k] = 0.0
            wanted = filters[:, k] - errors @ others
            units = np.abs(filters[:, k]).max() * UNITS / most
            tried = _in_turn(np.tile(wanted[:, None], len(units)), units, most, *influence)
            made = units * tried - filters[:, k, None]
            passed = covariance @ made
            beside = seen @ others
            rise = (made * (passed + 2 * beside[:, None])).sum(0)
            best = int(np.argmin(rise))
            before = errors[:, k] @ (seen[:, k] + 2 * beside) if sweep else np.inf
            if rise[best] < before:
                whole[:, k], errors[:, k], seen[:, k] = tried[:, best], made[:, best], passed[:, best]
    return whole


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
    return in_units(weights, covariance_of(reads), units, 2 ** (bits - 1) - 1) * units


def covariance_of(reads: np.ndarray) -> np.ndarray:
    """Of what a layer reads (patterns, inputs), (inputs, inputs), of one input, too."""
    return np.atleast_2d(np.cov(reads.T))


def pruned(weights: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Weights (inputs, n) of a dense layer with fewer and fewer inputs, (inputs + 1, inputs, n).

    In the k-th each neuron has k weights left. Those that matter least go first, and the others make up for them, so
    that what the neuron adds up to changes as little as it can over inputs of that covariance (inputs, inputs).
    (Hassibi and Stork, "Second order derivatives for network pruning: optimal brain surgeon", NIPS 5, 164 (1992).)
    """
    n_inputs, n = weights.shape
    inverse = np.tile(np.linalg.inv(_damped(covariance)), (n, 1, 1))
    left, alive, each = weights.T.astype(float), np.ones((n, n_inputs), bool), np.arange(n)
    out = np.empty((n_inputs + 1, n_inputs, n))
    out[n_inputs] = weights
    for k in reversed(range(n_inputs)):
        own = np.where(alive, np.einsum("nii->ni", inverse), 1.0)
        which = np.argmin(np.where(alive, np.square(left) / own, np.inf), 1)
        column = inverse[each, which]
        pivot = column[each, which]
        left -= (left[each, which] / pivot)[:, None] * column
        inverse -= column[:, :, None] * (column / pivot[:, None])[:, None]
        alive[each, which] = False
        left[~alive] = 0.0
        out[k] = left.T
    return out


def _damped(covariance: np.ndarray) -> np.ndarray:
    """With something added to each variance, so that it has an inverse, be all of them zero."""
    return covariance + np.eye(len(covariance)) * max(1e-4 * np.diag(covariance).mean(), 1e-12)


def _influence(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order in which inputs are rounded, and what an error in each has the others do, by the inverse covariance."""
    order = np.argsort(-np.diag(covariance))
    inner = _damped(covariance[np.ix_(order, order)])
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
