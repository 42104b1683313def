"""The aperture of a scan's disks, its radius and how it is blurred, from the scan's frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from .base_pattern import BasePattern
from .disk_aperture import Aperture
from .disk_scoring import Estimates, coded_step, free_step
from .fill_learning import improved

#: What is expected at least of a pixel near the disks, over a frame's mean.
_LEAST_EXPECTED = 0.01
#: Least and greatest radius, spread [pixels] and shared part that an aperture can have.
_LEAST, _MOST = np.array([1.5, 0.05, 0.0]), np.array([np.inf, 3.0, 1.0])
#: By how much each is varied to see which are the most likely.
_VARIED = np.array([0.05, 0.05, 0.25])
#: No farther than this many times as much at once: of fills that are not learned yet the likelihood is no parabola.
_FARTHEST = 1.0


def _brightest(base: BasePattern, at: Estimates, fills: np.ndarray) -> np.ndarray:
    """Pixels (n, ny, nx) at and around the brightest whole disks, which hold half of the electrons between them."""
    level = fills[:, :, 0].mean(0)
    order = np.argsort(-level)
    some = order[: 1 + np.searchsorted(np.cumsum(np.maximum(level[order], 0)), level.clip(0).sum() / 2)]
    places = at.centre[:, None] + np.einsum("nij,gj->ngi", at.transform, base.reflections[some])
    inner = base.aperture.radius + 1.0
    y, x = np.indices(base.shape)
    near = np.zeros((len(places), *base.shape), bool)
    for n, frame in enumerate(places):
        for px, py in frame:
            if inner < px < base.shape[1] - 1 - inner and inner < py < base.shape[0] - 1 - inner:
                near[n] |= (x - px) ** 2 + (y - py) ** 2 < (base.aperture.half + 1) ** 2
    return near


def _aperture(p: Sequence[float] | np.ndarray, degree: int) -> Aperture:
    """Of a radius, a spread and a shared part, as far as there can be such."""
    radius, spread, shared = np.clip(p, _LEAST, _MOST)
    return Aperture(float(radius), float(spread), float(shared), degree)


def first_aperture(
    base: BasePattern, frames: np.ndarray, at: Estimates, fills: np.ndarray, prior: tuple[np.ndarray, np.ndarray]
) -> Aperture:
    """Radius and spread that make the counts of the brightest disks most likely, with fills of half of them.

    Fills of all would fit noise, and the sharper the disks the better; the half that they do not know takes that back.
    Pearson's statistic would not do: of few counts it is the less, the more is expected around the disks.
    """
    from scipy.optimize import minimize

    degree = base.aperture.degree
    half = np.random.default_rng(0).binomial(frames, 0.5).astype(frames.dtype)
    start = replace(at, background=at.background / 2, dose=at.dose / 2)
    least = _LEAST_EXPECTED * frames.mean((1, 2), keepdims=True)
    counted = base.good * _brightest(base, at, fills)

    def cost(p):
        aperture = _aperture([*p, base.aperture.shared], degree)
        trial, moved, filled = replace(base, aperture=aperture), start, fills
        for _ in range(2):
            moved, filled, _, _ = free_step(trial, half, moved, filled, *prior)
        drawn = trial.draw_filled(moved.transform, moved.centre, filled * at.dose[:, None, None], at.background)
        expected = np.maximum(drawn, least)
        return float((counted * (expected - frames * np.log(expected))).sum(dtype=float) / len(frames))

    known = np.array([base.aperture.radius, base.aperture.spread])
    simplex = known + np.array([[0, 0], [0.25, 0.0], [0.0, 0.3]])
    best = minimize(
        cost, known, method="Nelder-Mead", options={"initial_simplex": simplex, "xatol": 0.01, "maxfev": 30}
    ).x
    return _aperture([*best, base.aperture.shared], degree)


def _likelihood(
    base: BasePattern, frames: np.ndarray, at: Estimates, codes: np.ndarray, aperture: Aperture, counted: np.ndarray
) -> float:
    """Log-likelihood of the pixels `counted` with another aperture, once maps, codes and fills have gone with it."""
    grown = (base.aperture.radius / aperture.radius) ** 2
    trial = replace(base, aperture=aperture, fills=base.fills * grown)
    at, codes, covariance, _ = coded_step(trial, frames, at, codes)
    trial, at = improved(trial, frames, at, codes, covariance)
    at, codes, _, _ = coded_step(trial, frames, at, codes)
    drawn = trial.draw(at.transform, at.centre, codes, at.background)
    expected = np.maximum(drawn, _LEAST_EXPECTED * frames.mean((1, 2), keepdims=True))
    return float((counted * (frames * np.log(expected) - expected)).sum(dtype=float))


def _uphill(
    likelihood: Callable[[np.ndarray], float],
    known: np.ndarray,
    varied: np.ndarray,
    least: np.ndarray,
    most: np.ndarray,
) -> np.ndarray:
    """Where a likelihood is greatest between least and most, by its parabola around what is known."""
    n = len(known)
    known = np.clip(known, least + varied, most - varied)

    def found(*moves: int) -> float:
        moved = known.copy()
        for move in moves:
            moved[abs(move) - 1] += np.sign(move) * varied[abs(move) - 1]
        return likelihood(moved)

    axes = range(1, n + 1)
    none, up, down = found(), [found(i) for i in axes], [found(-i) for i in axes]
    slope = (np.array(up) - down) / 2
    bend = np.diag(np.array(up) + down - 2 * none)
    for i, j in combinations(range(n), 2):
        bend[i, j] = bend[j, i] = found(i + 1, j + 1) - up[i] - up[j] + none
    # Uphill, also where the likelihood is not concave: by its curvature along each axis, whatever the sign.
    values, vectors = np.linalg.eigh(bend)
    bend = (vectors * -np.maximum(np.abs(values), 1e-9)) @ vectors.T
    low, high = np.maximum((least - known) / varied, -_FARTHEST), np.minimum((most - known) / varied, _FARTHEST)
    free, step = np.ones(n, bool), np.zeros(n)
    for _ in range(n):  # what would go farther than it can stays there
        step[free] = -np.linalg.solve(bend[np.ix_(free, free)], slope[free] + bend[np.ix_(free, ~free)] @ step[~free])
        free &= (low < step) & (step < high)
        step = np.clip(step, low, high)
    return known + step * varied


def refined_aperture(base: BasePattern, frames: np.ndarray, at: Estimates, codes: np.ndarray) -> tuple[Aperture, bool]:
    """Radius and blur that are most likely with fills that all frames share, and whether those known were near.

    An error of a hundredth of a pixel shows: disks that grow dimmer outwards would be taken for displaced, by the
    contrast of their edges times the error, all inwards.
    """
    was = np.array([base.aperture.radius, base.aperture.spread, base.aperture.shared])
    counted = base.good * _brightest(base, at, base.fills[:1])

    def likelihood(p: np.ndarray) -> float:
        return _likelihood(base, frames, at, codes, _aperture(p, base.aperture.degree), counted)

    first = _uphill(likelihood, was, _VARIED, _LEAST, _MOST)
    # Radius and spread once more with the part between pixels that was found: around another, they are others.
    shared = first[2]
    two = _uphill(lambda p: likelihood(np.append(p, shared)), first[:2], _VARIED[:2] / 2, _LEAST[:2], _MOST[:2])
    near = bool((np.abs(np.append(two, shared) - was) < _VARIED / 2).all())
    return _aperture(np.append(two, shared), base.aperture.degree), near
