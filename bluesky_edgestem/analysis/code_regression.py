"""What the strongest codes of a frame say of the others.

What fills disks depends on few conditions, thickness and tilt before all: the codes of a scan lie near a surface of few
dimensions, and the fainter ones are functions of the strongest. These are fitted over all frames, as polynomials, and
with what single frames are off by (empirical Bayes) they tell a code better than one frame's counts do. Fills of
fainter modes are learned from far fewer electrons for it.
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
#: A code is not told better than to this variance, by whatever the surface says.
_LEAST = 1e-3


def surface(leading: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Orthonormal columns (n, f) of weighted polynomials in standardised codes (n, l); none where frames are few."""
    n, count = leading.shape
    terms = [combination for d in range(_DEGREE + 1) for combination in combinations_with_replacement(range(count), d)]
    degree = max((len(t) for t in terms if sum(len(s) <= len(t) for s in terms) * _FRAMES_EACH <= n), default=-1)
    leading = np.clip(leading, -_FARTHEST, _FARTHEST)
    columns = [weight * np.prod(leading[:, list(t)], 1) for t in terms if len(t) <= degree]
    return np.linalg.qr(np.stack(columns, 1))[0] if columns else np.zeros((n, 0))


def informed(codes: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes by what other frames say of them, too.

    Parameters
    ----------
    codes : array (n, K + 1)
        Brightness, and that times codes of mean 0 and standard deviation 1, each frame's own.
    covariance : array (n, 7 + K + 1, 7 + K + 1)
        As of `disk_scoring.coded_step`, with codes of order one beforehand.

    Returns
    -------
    codes, covariance
        The same with what is known of all but the first `LEADING` codes.
    """
    z, n = codes[:, 1:] / codes[:, :1], len(codes)
    known = np.einsum("nkk->nk", covariance[:, 8:, 8:]) / codes[:, :1] ** 2
    known = np.clip(known, 1e-6, 0.98)
    # What the counts alone say, without that codes are of order one.
    noise, alone = known / (1 - known), z / (1 - known)
    weight = 1 / (1 + noise[:, LEADING:].mean(1)) if z.shape[1] > LEADING else np.ones(n)
    basis = surface(z[:, :LEADING], weight)
    told = basis @ (basis.T @ (weight[:, None] * alone)) / weight[:, None]
    # What is left over is noise and what frames are off by; the polynomials have their part of both.
    fitted = basis.shape[1] / n
    left = ((weight[:, None] * (alone - told)) ** 2).sum(0) / ((1 - fitted) * (weight**2).sum())
    off = left - (weight[:, None] ** 2 * noise).sum(0) / (weight**2).sum()
    off = np.maximum(off, _LEAST) + fitted * left
    variance = 1 / (1 / noise + 1 / off)
    better = (alone / noise + told / off) * variance
    better[:, :LEADING], variance[:, :LEADING] = z[:, :LEADING], known[:, :LEADING]
    scale = np.ones(covariance.shape[:2])
    scale[:, 8:] = np.sqrt(variance / known)
    codes = np.concatenate([codes[:, :1], better * codes[:, :1]], 1)
    return codes, covariance * scale[:, :, None] * scale[:, None, :]
