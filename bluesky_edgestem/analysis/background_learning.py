"""The background of a scan's patterns, from what is counted between the disks.

Its profile is a smooth function of the distance from the beam and no more is said of it: what thermal motion, the
support and the detector scatter have no common form. A Lorentzian and a constant, fitted to patterns with thermal
diffuse scattering, are up to a tenth off near the beam; this is within half a per cent where disks leave room.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .base_pattern import Background, BasePattern
from .disk_scoring import Estimates

#: Parts of the logarithm of the profile, a cubic spline.
_PARTS = 24
#: By how much the logarithm's coefficients bend beforehand: standard deviation of second differences.
_BEND = 0.1
#: Disks end this many standard deviations of the blur outside their radius.
_CLEAR = 3.0
#: Newton's steps at most, none farther than 1.
_STEPS = 30


def smooth_profile(counts: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Density at whole distances from the beam, from counts at these distances.

    Its logarithm is a penalised spline (Eilers and Marx, Statistical Science 11, 89 (1996)), even about the beam, by
    the likelihood of Poisson counts.

    Parameters
    ----------
    counts : array (r,)
        Electrons that were counted, by their distance from the beam, rounded [pixels].
    areas : array (r,)
        Pixels that could have counted them, over all frames.

    Returns
    -------
    array (r,)
        Electrons per pixel.
    """
    from scipy.interpolate import BSpline

    reach = len(counts) - 1
    knots = np.arange(-3, _PARTS + 4) * reach / _PARTS
    basis = BSpline.design_matrix(np.arange(len(counts)), knots, 3).toarray()
    bent = np.diff(np.eye(basis.shape[1]), 2, axis=0)
    # The first coefficients belong to knots on both sides of the beam.
    even = np.zeros((1, basis.shape[1]))
    even[0, [0, 2]] = 1, -1
    bent = np.concatenate([bent, even]) / _BEND
    penalty = bent.T @ bent
    at = np.full(basis.shape[1], np.log(max(counts.sum(), 1.0) / max(areas.sum(), 1.0)))
    for _ in range(_STEPS):
        expected = areas * np.exp(basis @ at)
        score = basis.T @ (counts - expected) - penalty @ at
        step = np.linalg.solve((basis.T * expected) @ basis + penalty, score)
        at = at + np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-6:
            break
    return np.exp(basis @ at)


def learned_background(base: BasePattern, frames: np.ndarray, at: Estimates) -> tuple[Background, np.ndarray]:
    """Background of frames (n, ny, nx) from the pixels between their disks, and its electrons in each, (n,)."""
    y, x = np.indices(base.shape)
    pixels = np.stack([x.ravel(), y.ravel()], -1)
    size = len(base.background.profile)
    counts, areas = np.zeros(size), np.zeros(size)
    seen, by_distance = np.zeros(len(frames)), np.zeros((len(frames), size))
    for n, frame in enumerate(frames):
        off = pixels - at.centre[n]
        index = off @ np.linalg.inv(at.transform[n]).T @ np.linalg.inv(base.vectors)
        away = np.linalg.norm((index - np.rint(index)) @ base.vectors @ at.transform[n].T, axis=1)
        between = (away > base.aperture.radius + _CLEAR * base.aperture.blur) & (base.good.ravel() > 0)
        distance = np.minimum(np.rint(np.hypot(*off[between].T)).astype(int), size - 1)
        of_frame = frame.ravel()[between]
        by_distance[n] = np.bincount(distance, minlength=size)
        counts += np.bincount(distance, of_frame, size)
        areas += by_distance[n]
        seen[n] = of_frame.sum(dtype=float)
    fitted = replace(base.background, profile=smooth_profile(counts, areas))
    in_all = fitted.density(np.hypot(x - base.beam[0], y - base.beam[1])).sum()
    expected = by_distance @ fitted.profile / in_all
    amount = seen / np.maximum(expected, 1e-9)
    shares = amount / at.dose
    share = float(shares.mean())
    noise = np.sqrt(np.mean(amount / np.maximum(expected, 1e-9)) / np.mean(at.dose) ** 2)
    spread = float(np.sqrt(max(shares.var() - noise**2, 0)) / max(share, 1e-9))
    return replace(fitted, share=max(share, 1e-4), spread=float(np.clip(spread, 0.1, 1.0))), amount
