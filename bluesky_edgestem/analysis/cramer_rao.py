"""How well strain can be known from a pattern at all: the Cramér–Rao bound of the multislice forward model.

Counts are Poisson distributed with mean ``dose * p``; the Fisher information per electron is ``Σ ∂p ∂pᵀ / p`` over the
pixels (Kay, *Fundamentals of Statistical Signal Processing*, vol. 1, ch. 3), and no unbiased estimate has a
covariance below its inverse. Rotation, beam centre and total intensity are free: they are estimated along, and their
share of the information is not counted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from . import crystals
from .diffraction import cbed, detected, patch_extent
from .optics import Optics

#: What a pattern depends on, in the order of the information matrix.
PARAMETERS = ("exx", "eyy", "exy", "rotation", "centre_x", "centre_y", "log_total")

#: Steps of the central differences, small against the width of a disk's edge: strain, rotation [rad], centre [pixels].
#: The outermost reflections move by about a tenth of a pixel.
STEPS = (2e-3, 2e-3, 2e-3, 2e-3, 0.1, 0.1)


def poisson_information(expected: np.ndarray, derivatives: np.ndarray) -> np.ndarray:
    """Fisher information of Poisson counts.

    Parameters
    ----------
    expected : array (...)
        Mean count of each pixel.
    derivatives : array (k, ...)
        Its derivative by each of k parameters.

    Returns
    -------
    array (k, k)
        ``Σ ∂i ∂j / expected``, over the pixels that can count at all.
    """
    counts = np.asarray(expected, float).ravel()
    slopes = np.asarray(derivatives, float).reshape(len(derivatives), -1)
    seen = counts > 1e-12 * counts.max()
    slopes = slopes[:, seen] / np.sqrt(counts[seen])
    return slopes @ slopes.T


def central_differences(
    expected: Callable[[np.ndarray], np.ndarray], parameters: ArrayLike, steps: Sequence[float]
) -> np.ndarray:
    """Derivatives (k, ...) of `expected` by each of its k parameters, which change by ``± steps``."""
    at = np.asarray(parameters, float)
    slopes = []
    for i, step in enumerate(steps):
        move = np.zeros_like(at)
        move[i] = step
        slopes.append((expected(at + move).astype(float) - expected(at - move).astype(float)) / (2 * step))
    return np.array(slopes)


def pattern_information(
    strain: ArrayLike,
    rotation: float,
    phase_at: Callable[[np.ndarray], np.ndarray],
    optics: Optics,
    origin: Sequence[float] = (0.0, 0.0),
    steps: Sequence[float] = STEPS,
) -> np.ndarray:
    """Fisher information per electron that a diffraction pattern holds, from 13 multislice calculations.

    Parameters
    ----------
    strain : (3,)
        exx, eyy, exy relative to the reference lattice.
    rotation : float
        Rotation of the crystal [rad].
    phase_at : callable
        As of `crystals.monolayer_atoms`: positions (n, 2) [Å] from the beam's axis to the formula there.
    optics : Optics
        Beam and detector.
    origin : (2,)
        Where the beam is within the primitive cell, in fractions of its vectors.
    steps : (6,)
        Of the central differences, in the order of `PARAMETERS`.

    Returns
    -------
    array (7, 7)
        In the order of `PARAMETERS`; times the dose it is the information of that many electrons.
    """
    extent = patch_extent(optics)

    def expected(at: np.ndarray) -> np.ndarray:
        atoms = crystals.monolayer_atoms(at[:3].tolist(), float(at[3]), extent, phase_at, origin)
        shift = (float(at[4]), float(at[5]))
        return detected(cbed(atoms, optics, shift), optics, shift)

    at = np.array([*np.asarray(strain, float), rotation, 0.0, 0.0])
    mean = expected(at)
    return poisson_information(mean, np.concatenate([central_differences(expected, at, steps), mean[None]]))


def bound(information: np.ndarray, dose: float) -> np.ndarray:
    """Least covariance of unbiased estimates of all parameters together, ``(dose · information)^-1``.

    Parameters
    ----------
    information : array (..., k, k)
        Per electron.
    dose : float
        Electrons in the pattern.

    Returns
    -------
    array (..., k, k)
        Its first 3 × 3 block is the strain's, with all the others free.
    """
    if not (np.isfinite(dose) and dose > 0):
        raise ValueError(f"a bound needs a dose above 0 electrons per pattern, got {dose}")
    # Scaled first: strain and pixels differ by orders of magnitude.
    scale = np.sqrt(np.diagonal(information, axis1=-2, axis2=-1))
    outer = scale[..., :, None] * scale[..., None, :]
    return np.linalg.inv(information / outer) / outer / dose


def best_discrimination(one: np.ndarray, other: np.ndarray, dose: float) -> float:
    """How often the likelihood ratio tells two patterns apart that are known but for which of them it is.

    By the Neyman–Pearson lemma nothing can be right more often; with strain, rotation or background to be found along,
    it is less. Normal approximation of the ratio, good where many electrons tell (Kay, vol. 2, ch. 3).

    Parameters
    ----------
    one, other : array (ny, nx)
        Probability that an electron is counted in each pixel.
    dose : float
        Electrons in the pattern.

    Returns
    -------
    float
        Fraction told right, 0.5 to 1, both equally likely beforehand.
    """
    from scipy.special import ndtr

    one, other = np.asarray(one, float), np.asarray(other, float)
    mean = (one + other) / 2
    seen = mean > 0
    separation = np.sqrt(dose * ((one - other)[seen] ** 2 / mean[seen]).sum())
    return float(ndtr(separation / 2))
