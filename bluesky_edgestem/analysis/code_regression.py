"""What the strongest codes of a frame say of the others.

What fills disks depends on few conditions, thickness and tilt before all: the codes of a scan lie near a surface of few
dimensions, and most of what the fainter ones do is a function of the strongest. It is fitted over all frames, as
polynomials, and with how far single frames are off (empirical Bayes) it takes the place of what was supposed of a code
beforehand. Fills of fainter modes are learned from far fewer electrons for it.
"""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np

#: Codes that the others are functions of, and degree of the polynomials.
LEADING, _DEGREE = 5, 4
#: Frames for each coefficient, at least; with fewer, the degree is lower.
_FRAMES_EACH = 16
#: Standardised codes count as no farther than this from zero: polynomials grow fast.
_FARTHEST = 4.0
#: Polynomials that differ by less than this, of the largest, are one: strong codes can be functions of each other.
_ALIKE = 1e-3
#: Least variance of how far frames are from the surface.
_LEAST = 1e-3


def surface(leading: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Orthonormal columns (n, f) of weighted polynomials in standardised codes (n, l); none where frames are few."""
    n, count = leading.shape
    terms = [combination for d in range(_DEGREE + 1) for combination in combinations_with_replacement(range(count), d)]
    degree = max((len(t) for t in terms if sum(len(s) <= len(t) for s in terms) * _FRAMES_EACH <= n), default=-1)
    leading = np.clip(leading, -_FARTHEST, _FARTHEST)
    columns = [weight * np.prod(leading[:, list(t)], 1) for t in terms if len(t) <= degree]
    if not columns:
        return np.zeros((n, 0))
    scaled = np.stack(columns, 1) / np.maximum(np.linalg.norm(columns, axis=1), 1e-30)
    u, s, _ = np.linalg.svd(scaled, full_matrices=False)
    return u[:, s > _ALIKE * s[0]]


def told(z: np.ndarray, noise: np.ndarray, basis: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What all other frames say of each frame's codes, and its variance, both (n, k).

    Parameters
    ----------
    z, noise : array (n, k)
        Codes as each frame's own counts have them, and their variance.
    basis : array (n, f)
        Of `surface`, with the same `weight` (n,).
    """
    fit = basis @ (basis.T @ (weight[:, None] * z)) / weight[:, None]
    own = np.square(basis).sum(1)  # how much of its fit is the frame itself
    share = np.square(weight) / np.square(weight).sum()
    # What is left over is noise and how far frames are off; the polynomials have their part of both.
    left = share @ np.square(z - fit) / max(1 - basis.shape[1] / len(z), 0.1)
    off = np.maximum(left - share @ noise, _LEAST)
    others = np.minimum(own, 0.99)[:, None]
    fit = (fit - others * z) / (1 - others)
    return fit, off + left * (share.mean() / share)[:, None] * others / (1 - others)


def informed(codes: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How estimates move, and their covariance, with what other frames say of the codes.

    Parameters
    ----------
    codes : array (n, K + 1)
        Brightness, and that times codes of mean 0 and standard deviation 1, each frame's own.
    covariance : array (n, 7 + K + 1, 7 + K + 1)
        As of `disk_scoring.coded_step`, with codes of order one beforehand.

    Returns
    -------
    step : array (n, 7 + K + 1)
        Of map, beam, background and codes.
    covariance : array (n, 7 + K + 1, 7 + K + 1)
    """
    faint = slice(8 + LEADING, None)
    z, brightness = codes[:, 1:] / codes[:, :1], codes[:, :1]
    if z.shape[1] <= LEADING:
        return np.zeros(covariance.shape[:2]), covariance
    among = covariance[:, faint, faint]
    known = np.clip(np.einsum("nkk->nk", among) / brightness**2, 1e-6, 0.98)
    # What the counts alone say, without that codes are of order one.
    noise, alone = known / (1 - known), z[:, LEADING:] / (1 - known)
    weight = 1 / (1 + noise.mean(1))
    expected, variance = told(alone, noise, surface(z[:, :LEADING], weight), weight)
    # In the place of a mean of 0 and a variance of 1.
    more = (1 / variance - 1) / brightness**2
    push = ((expected - z[:, LEADING:]) / variance + z[:, LEADING:]) / brightness
    inner = np.eye(z.shape[1] - LEADING) + more[:, :, None] * among
    covariance = covariance - covariance[:, :, faint] @ np.linalg.solve(inner, more[:, :, None] * covariance[:, faint])
    return (covariance[:, :, faint] @ push[..., None])[..., 0], covariance
