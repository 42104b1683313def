"""Which positions to measure next: those that take the most variance out of the energy map, each pick knowing the
others.

A measurement at j of a quantity with posterior covariance C and noise σ² lowers its variance at x by

    δ(x, j) = C(x, j)² / (C(j, j) + σ²),

whatever value it finds. For an energy that is quadratic in independent quantities, with slope g and curvature h at x,
the energy's variance is expected to fall by g² δ + ½ h² δ² (the variance of its posterior mean; exact). The best j is
taken, C is downdated by the rank-one term that the measurement will bring, and so on: the closed form, in place of
botorch's qNegIntegratedPosteriorVariance, which conditions a model for every candidate.

A run ends on the largest standard deviation of the field, so that cells above the target count more than those below.

Sources: D. A. Cohn, Z. Ghahramani, M. I. Jordan, J. Artif. Intell. Res. 4, 129 (1996), for the integrated variance;
R. Astudillo, P. I. Frazier, ICML 2019, for the acquisition through a composite function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BELOW_TARGET = 0.05  # weight of a cell that has met the target, against one at twice the target's variance
_MARGIN = 0.8  # of the target: where a cell begins to count, so that it ends below the target and not at it


@dataclass(frozen=True)
class Channel:
    """One quantity that a measurement tells, over the m positions that take part.

    Attributes
    ----------
    covariance : (m, m) array
        Posterior covariance of the quantity between the positions.
    noise : float
        Variance that the next measurement is expected to have.
    slope2, curvature2 : (m,) array
        Squares of the energy's first and second derivative by the quantity.
    """

    covariance: np.ndarray
    noise: float
    slope2: np.ndarray
    curvature2: np.ndarray


def emphasis(variance: np.ndarray, target_sd: float) -> np.ndarray:
    """Weight of each cell, from its energy variance (m,) [eV²] and the target [eV]: the excess over the target."""
    excess = variance / (_MARGIN * target_sd) ** 2 - 1
    return np.maximum(excess, _BELOW_TARGET)


def choose(
    channels: Sequence[Channel],
    variance: np.ndarray,
    target_sd: float,
    allowed: np.ndarray,
    positions: np.ndarray,
    spacing: float,
    count: int,
) -> np.ndarray:
    """Pick positions one after the other, each for the largest weighted fall of the energy's variance.

    Parameters
    ----------
    channels : sequence of Channel
        What one measurement tells. Their covariances are overwritten.
    variance : (m,) array
        Present variance of the energy [eV²].
    target_sd : float
        Standard deviation aimed at [eV].
    allowed : (m,) bool array
        Positions that may be picked; the others count in the sum only.
    positions : (m, 2) array
        x, y [nm].
    spacing : float
        Least distance between two picks [nm].
    count : int
        How many to pick.

    Returns
    -------
    (k,) int array
        Indices in the order of picking; k < count only where nothing allowed is left.
    """
    allowed = allowed.copy()
    variance = variance.astype(channels[0].covariance.dtype)
    fallen = [np.zeros_like(variance) for _ in channels]
    picks: list[int] = []
    while len(picks) < count and allowed.any():
        weight = emphasis(variance, target_sd)
        gain = np.zeros_like(variance)
        for channel, fall in zip(channels, fallen, strict=True):
            slope = weight * (channel.slope2 + channel.curvature2 * fall)
            gain += expected_fall(channel, slope, weight * channel.curvature2)
        pick = int(np.argmax(np.where(allowed, gain, -np.inf)))
        picks.append(pick)
        allowed &= np.hypot(*(positions - positions[pick]).T) >= spacing
        allowed[pick] = False
        for channel, fall in zip(channels, fallen, strict=True):
            delta = downdate(channel, pick)
            variance -= (channel.slope2 + channel.curvature2 * fall) * delta + 0.5 * channel.curvature2 * delta**2
            fall += delta
    return np.array(picks, dtype=int)


def expected_fall(channel: Channel, slope2: np.ndarray, curvature2: np.ndarray) -> np.ndarray:
    """(m,) summed fall g² δ + ½ h² δ² of the energy's variance for a measurement at each position; g², h² are (m,)."""
    diagonal = np.diagonal(channel.covariance) + channel.noise
    square = channel.covariance**2
    gain = (slope2 @ square) / diagonal
    square *= square
    return gain + 0.5 * (curvature2 @ square) / diagonal**2


def downdate(channel: Channel, pick: int) -> np.ndarray:
    """Condition the covariance, in place, on a measurement at `pick`; returns the (m,) fall of its variance."""
    column = channel.covariance[:, pick].copy()
    total = column[pick] + channel.noise
    channel.covariance[...] -= np.outer(column, column / total)
    return column**2 / total
