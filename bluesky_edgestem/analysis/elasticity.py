"""Elastic energy of a two-dimensional crystal of the point group D3h: a polynomial in the strain, fitted to DFT.

Strain enters as its *modes*, the dilatation t and the two shears u and v:

    t = exx + eyy,    u = exx - eyy,    v = 2 exy.

Under a rotation by φ, t stays and u + iv turns by 2φ. A D3h crystal therefore allows, up to the fourth order,

    1, t | t², q | t³, tq, w | t⁴, t²q, q², tw      with  q = u² + v²,  w = Re[(u + iv)³ exp(-6iθ)],

where θ is the rotation of the zigzag direction from x. Only w sees the rotation, and only modulo 60°, which is all
that a six-fold diffraction pattern tells. The energy is linear in the coefficients, so that energies and gradients
(stress) of DFT determine them by conjugate Bayesian regression.

The modes also make the noise of a strain measurement nearly diagonal: for a six-fold pattern its covariance is an
isotropic tensor, which is diagonal in (t, u, v) though not in (exx, eyy, exy). What is left beside it is dropped.

Sources: X. Wei, B. Fragneaud, C. A. Marianetti, J. W. Kysar, Phys. Rev. B 80, 205407 (2009), and for MoS2 R. C. Cooper
et al., Phys. Rev. B 87, 035423 (2013), for the expansion; C. M. Bishop, Pattern Recognition and Machine Learning
(2006), section 3.3, for the regression.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MODES = np.array([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 2.0]])
"""(3, 3) matrix that takes (exx, eyy, exy) to the modes (t, u, v)."""

TERMS = ("1", "t", "t2", "q", "t3", "tq", "w", "t4", "t2q", "q2", "tw")
"""Names of the polynomial's terms, in the order of its coefficients."""

# What is believed of any transition-metal dichalcogenide before its first calculation [eV per formula unit]: its
# relaxed lattice is the one given (so the constant and the slope are small), it is about as stiff as MoS2 (132 and 33
# N/m over 8.8 Å²), and the higher orders are bounded by what keeps a crystal stable to 20 % of strain.
_PRIOR_MEAN = np.array([0.0, 0.0, 22.0, 13.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
_PRIOR_SD = np.array([0.002, 0.3, 11.0, 6.5, 150.0, 150.0, 75.0, 600.0, 600.0, 300.0, 300.0])
#
# What is expected of the residuals, too. Their common size is learnt from the data, their ratio is not: DFT's energies
# lie 0.06 meV rms about the polynomial and its gradients 0.02 eV, which keep an error of their own (see
# `energetics.dft`). With a larger share for the energies, the gradients' error would pull the energies off.
_ENERGY_SD = 1.5e-4  # [eV]
_GRADIENT_SD = 0.05  # [eV]
_PRIOR_COUNT = 4.0  # weight of these two expectations, in observations


def to_modes(strain: np.ndarray) -> np.ndarray:
    """(..., 3) strain (exx, eyy, exy) as modes (t, u, v)."""
    return np.asarray(strain, dtype=float) @ MODES.T


def terms(modes: np.ndarray, hexad: np.ndarray) -> np.ndarray:
    """Terms of the energy polynomial.

    Parameters
    ----------
    modes : (..., 3) array
        Strain modes (t, u, v), relative to the phase's relaxed lattice.
    hexad : (..., 2) array
        cos 6θ and sin 6θ of the crystal's rotation; (1, 0) where the modes are in crystal axes. A mean over an
        uncertain rotation gives the expected term, since the terms are linear in it.

    Returns
    -------
    (..., 11) array
    """
    t, u, v = np.moveaxis(modes, -1, 0)
    c, s = np.moveaxis(hexad, -1, 0)
    q = u * u + v * v
    w = c * (u**3 - 3 * u * v * v) + s * (3 * u * u * v - v**3)
    one = np.ones_like(t)
    return np.stack([one, t, t * t, q, t**3, t * q, w, t**4, t * t * q, q * q, t * w], axis=-1)


def term_slopes(modes: np.ndarray, hexad: np.ndarray) -> np.ndarray:
    """(..., 3, 11) derivatives of the terms by the modes; arguments as for `terms`."""
    t, u, v = np.moveaxis(modes, -1, 0)
    c, s = np.moveaxis(hexad, -1, 0)
    q = u * u + v * v
    w = c * (u**3 - 3 * u * v * v) + s * (3 * u * u * v - v**3)
    wu = 3 * (c * (u * u - v * v) + s * 2 * u * v)
    wv = 3 * (-c * 2 * u * v + s * (u * u - v * v))
    o, one = np.zeros_like(t), np.ones_like(t)
    by_t = [o, one, 2 * t, o, 3 * t * t, q, o, 4 * t**3, 2 * t * q, o, w]
    by_u = [o, o, o, 2 * u, o, 2 * t * u, wu, o, 2 * t * t * u, 4 * q * u, t * wu]
    by_v = [o, o, o, 2 * v, o, 2 * t * v, wv, o, 2 * t * t * v, 4 * q * v, t * wv]
    return np.stack([np.stack(row, axis=-1) for row in (by_t, by_u, by_v)], axis=-2)


def curvatures(modes: np.ndarray, hexad: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """(..., 3, 3) second derivatives of the energy by the modes [eV].

    Parameters
    ----------
    modes, hexad : arrays
        As for `terms`.
    coefficients : (11,) array
        Coefficients of the polynomial [eV].
    """
    t, u, v = np.moveaxis(modes, -1, 0)
    c, s = np.moveaxis(hexad, -1, 0)
    _, _, a, b, d, e, f, g, h, k, m = coefficients
    q = u * u + v * v
    wu = 3 * (c * (u * u - v * v) + s * 2 * u * v)
    wv = 3 * (-c * 2 * u * v + s * (u * u - v * v))
    wuu, wuv = 6 * (c * u + s * v), 6 * (s * u - c * v)
    shear = 2 * (b + e * t + h * t * t)
    hessian = np.empty((*np.shape(t), 3, 3))
    hessian[..., 0, 0] = 2 * a + 6 * d * t + 12 * g * t * t + 2 * h * q
    hessian[..., 0, 1] = hessian[..., 1, 0] = 2 * e * u + 4 * h * t * u + m * wu
    hessian[..., 0, 2] = hessian[..., 2, 0] = 2 * e * v + 4 * h * t * v + m * wv
    hessian[..., 1, 1] = shear + k * (4 * q + 8 * u * u) + (f + m * t) * wuu
    hessian[..., 2, 2] = shear + k * (4 * q + 8 * v * v) - (f + m * t) * wuu
    hessian[..., 1, 2] = hessian[..., 2, 1] = k * 8 * u * v + (f + m * t) * wuv
    return hessian


@dataclass(frozen=True)
class ElasticModel:
    """Posterior of one phase's energy as a function of strain.

    Attributes
    ----------
    coefficients : (11,) array
        Posterior mean of the coefficients [eV per formula unit], in the order of `TERMS`.
    covariance : (11, 11) array
        Their posterior covariance [eV²].
    residual_sd : float
        Standard deviation that an energy keeps about the polynomial [eV].
    count : int
        Calculations that the model rests on.
    """

    coefficients: np.ndarray
    covariance: np.ndarray
    residual_sd: float
    count: int

    def energy(self, strain: np.ndarray) -> np.ndarray:
        """(...) energy [eV] of (..., 3) strain (exx, eyy, exy) in crystal axes, relative to the relaxed lattice."""
        modes = to_modes(strain)
        return terms(modes, _crystal_axes(modes)) @ self.coefficients

    def gradient(self, strain: np.ndarray) -> np.ndarray:
        """(..., 3) derivatives of the energy by exx, eyy and exy [eV]; exy is both off-diagonal entries at once."""
        modes = to_modes(strain)
        return (term_slopes(modes, _crystal_axes(modes)) @ self.coefficients) @ MODES

    def sd(self, modes: np.ndarray, hexad: np.ndarray) -> np.ndarray:
        """(...) standard deviation [eV] of the energy at exactly known modes."""
        phi = terms(modes, hexad)
        return np.sqrt(np.einsum("...i,ij,...j->...", phi, self.covariance, phi) + self.residual_sd**2)


def fit_elastic_model(strain: np.ndarray, energy: np.ndarray, gradient: np.ndarray | None = None) -> ElasticModel:
    """Fit the energy polynomial of one phase to calculations of it.

    The strain is taken as exact: it is the strain that was calculated, whatever measurement it came from. The prior
    is normal in the coefficients and inverse-gamma in one residual variance, of which the gradients' is a fixed
    multiple, so that the posterior is closed.

    Parameters
    ----------
    strain : (n, 3) array
        exx, eyy, exy in crystal axes, relative to the phase's relaxed lattice; n may be 0.
    energy : (n,) array
        Energies per formula unit relative to the relaxed phase [eV].
    gradient : (n, 3) array, optional
        Derivatives by exx, eyy and exy [eV]; rows with nan are left out.

    Returns
    -------
    ElasticModel

    Raises
    ------
    ValueError
        If a strain or an energy is not finite, or the lengths differ.
    """
    strain = np.asarray(strain, dtype=float).reshape(-1, 3)
    energy = np.asarray(energy, dtype=float).reshape(-1)
    if len(strain) != len(energy):
        raise ValueError(f"one energy is needed for each strain: got {len(strain)} strains and {len(energy)} energies")
    if not (np.isfinite(strain).all() and np.isfinite(energy).all()):
        raise ValueError("strain and energy must be finite: leave failed calculations out of the fit")
    modes = to_modes(strain)
    # Each row is divided by its expected residual, which leaves one unknown factor, of order one, common to all.
    rows = [terms(modes, _crystal_axes(modes)) / _ENERGY_SD]
    values = [energy / _ENERGY_SD]
    if gradient is not None:
        gradient = np.asarray(gradient, dtype=float).reshape(-1, 3)
        known = np.isfinite(gradient).all(axis=1)
        slopes = np.einsum("nmk,mj->njk", term_slopes(modes[known], _crystal_axes(modes[known])), MODES)
        rows.append(slopes.reshape(-1, len(TERMS)) / _GRADIENT_SD)
        values.append(gradient[known].ravel() / _GRADIENT_SD)
    # Scaling the unknowns by their prior keeps the normal equations well conditioned: the columns differ by 1e6.
    design = np.concatenate(rows) * _PRIOR_SD
    target = np.concatenate(values) - np.concatenate(rows) @ _PRIOR_MEAN
    precision = np.eye(len(TERMS)) + design.T @ design
    inverse = np.linalg.inv(precision)
    shift = inverse @ (design.T @ target)
    squares = float(np.sum((target - design @ shift) ** 2) + shift @ shift)
    factor = (_PRIOR_COUNT + squares) / (_PRIOR_COUNT + len(target))
    return ElasticModel(
        coefficients=_PRIOR_MEAN + _PRIOR_SD * shift,
        covariance=factor * inverse * np.outer(_PRIOR_SD, _PRIOR_SD),
        residual_sd=_ENERGY_SD * float(np.sqrt(factor)),
        count=len(energy),
    )


def _crystal_axes(modes: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.array([1.0, 0.0]), (*modes.shape[:-1], 2))
