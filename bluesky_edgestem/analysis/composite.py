"""The energy over the field of view as a composite: elastic energies of the phases, of Gaussian processes over the
strain.

The energy's posterior follows by matching moments, to the second order in the strain's variance Σ, with the gradient
g and the curvature H of the elastic energy f at the mean strain:

    mean      f + ½ tr(HΣ)
    variance  gᵀΣg + ½ tr((HΣ)²)  +  that of f itself  +  that of not knowing the phase and the rotation

Source: R. Astudillo, P. I. Frazier, Bayesian optimization of composite functions, ICML 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, owens_t

from . import crystals
from .acquisition import Channel
from .elasticity import MODES, ElasticModel, curvatures, fit_elastic_model, term_slopes, terms
from .fields import Field, Kernel, calibrated, label_field
from .measurements import StrainData

_LABEL_NOISE = 0.02  # variance of a phase's label of ±1, and of cos 6θ and sin 6θ
_NO_NOISE_YET = 1e-3  # standard deviation expected of a strain before the first is measured


@dataclass(frozen=True)
class EnergyPosterior:
    """The energy at k positions, and what it owes to what.

    Attributes
    ----------
    mean, variance : (k,) arrays
        Of the energy [eV, eV²].
    phase_variance : (k,) array
        The part of the variance that is due to not knowing the phase [eV²].
    slope2, curvature2 : (k, 3) arrays
        Squares of the energy's first and second derivative by each strain mode [eV²].
    """

    mean: np.ndarray
    variance: np.ndarray
    phase_variance: np.ndarray
    slope2: np.ndarray
    curvature2: np.ndarray


class CompositeSurrogate:
    """The posterior at one state of the data.

    Parameters
    ----------
    data : StrainData
        What was measured and calculated; may be empty.
    kernels : sequence of 3 Kernel
    levels : (3,) array
        Kernels and means of the strain modes.
    phases : sequence of str
        Formulae of the phases that may occur.
    size : float
        Larger side of the field of view [nm].
    resolution : float
        Resolution of the probe [nm]: over it, the energy is averaged across a phase boundary.
    """

    def __init__(
        self,
        data: StrainData,
        kernels: Sequence[Kernel],
        levels: np.ndarray,
        phases: Sequence[str],
        size: float,
        resolution: float,
    ):
        self.phases, self.resolution = tuple(phases), resolution
        self.strain = calibrated(
            [
                Field(kernel, data.positions, data.modes[:, k], data.noise[:, k], levels[k])
                for k, kernel in enumerate(kernels)
            ]
        )
        #: What the next measurement of each mode is expected to have as variance.
        self.noise = np.median(data.noise, axis=0) if len(data) else _NO_NOISE_YET**2 * np.sum(MODES**2, axis=1)
        turn = np.column_stack([np.cos(6 * data.rotation), np.sin(6 * data.rotation)])
        self.hexad = label_field(data.positions, turn, _LABEL_NOISE, size)
        self.phase = label_field(data.positions, _phase_labels(data, self.phases), _LABEL_NOISE, size)
        #: The elastic energy of each phase.
        self.models = [_fit_phase(data, phase) for phase in self.phases]

    def predict(self, at: np.ndarray) -> EnergyPosterior:
        """The posterior at positions (k, 2) [nm]."""
        means, variances = zip(*(process.predict(at) for process in self.strain), strict=True)
        modes, mode_variance = np.stack(means, axis=-1), np.stack(variances, axis=-1)
        hexad = self.hexad.mean(at)
        length = np.linalg.norm(hexad, axis=1)
        hexad /= np.maximum(length, 1.0)[:, None]
        unsure = 1 - np.minimum(length, 1.0)
        share, unknown = self._phase_shares(at)

        mean, square, within = np.zeros((3, len(at)))
        slope2, curvature2 = np.zeros((2, len(at), 3))
        for p, phase, model in zip(share.T, self.phases, self.models, strict=True):
            scale = crystals.REFERENCE.a / crystals.monolayer(phase).a
            # Relative to the phase's own lattice: (1 + ε) a0/a - 1, in modes.
            own = scale * modes + np.array([2 * (scale - 1), 0.0, 0.0])
            slope = scale * (term_slopes(own, hexad) @ model.coefficients)
            curvature = scale**2 * curvatures(own, hexad, model.coefficients)
            energy, variance = second_order_moments(
                terms(own, hexad) @ model.coefficients, slope, curvature, mode_variance
            )
            # An unknown rotation leaves the sign of the three-fold term open.
            three_fold = model.coefficients[6] * unsure * np.hypot(own[:, 1], own[:, 2]) ** 3
            within += p * (variance + model.sd(own, hexad) ** 2 + 0.5 * three_fold**2)
            mean += p * energy
            square += p * energy**2
            slope2 += p[:, None] * slope**2
            curvature2 += p[:, None] * np.einsum("kii->ki", curvature) ** 2
        between = unknown * np.maximum(square - mean**2, 0.0)
        return EnergyPosterior(mean, within + between, between, slope2, curvature2)

    def channels(self, at: np.ndarray, posterior: EnergyPosterior) -> list[Channel]:
        """What a measurement at one of `at` (m, 2) tells of the others: the three strain modes, and the phase."""
        made = [
            Channel(process.covariance(at), float(noise), posterior.slope2[:, k], posterior.curvature2[:, k])
            for k, (process, noise) in enumerate(zip(self.strain, self.noise, strict=True))
        ]
        if len(self.phases) > 1:
            covariance = self.phase.covariance(at)
            slope2 = posterior.phase_variance / np.maximum(np.diagonal(covariance), 1e-9)
            made.append(Channel(covariance, _LABEL_NOISE, slope2, np.zeros(len(at))))
        return made

    def _phase_shares(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expected share of each phase under the probe (k, phases), and the part (k,) of p (1 - p) that is unknown.

        A label f ~ N(m, v) is above the middle in a share Φ(f / s) of the probe, where s is how much m changes across
        it. Of the share, the mean is p = Φ(a), a = m / √(v + s²), and the variance Φ₂(a, a; r) - p² with r = v / (v +
        s²): without s this were p (1 - p), and at a boundary no measurement would ever lower it.
        """
        mean, variance = self.phase.predict(at)
        spread = np.zeros_like(mean)
        for step in self.resolution * np.eye(2):
            spread += 0.25 * (self.phase.mean(at + step) - self.phase.mean(at - step)) ** 2
        total = variance[:, None] + spread
        share, share_variance = probit_moments(mean / np.sqrt(total), variance[:, None] / total)
        unknown = np.sum(share_variance, axis=1) / np.maximum(np.sum(share * (1 - share), axis=1), 1e-12)
        return share / share.sum(axis=1, keepdims=True), np.clip(unknown, 0.0, 1.0)


def second_order_moments(
    value: np.ndarray, slope: np.ndarray, curvature: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of a quadratic function of independent normal variables; exact.

    Parameters
    ----------
    value : (k,) array
        The function at the variables' mean.
    slope, curvature : (k, d), (k, d, d) arrays
        Its derivatives there.
    variance : (k, d) array
        Of the variables.
    """
    mean = value + 0.5 * np.einsum("kii,ki->k", curvature, variance)
    linear = np.sum(slope**2 * variance, axis=1)
    return mean, linear + 0.5 * np.einsum("kij,ki,kj->k", curvature**2, variance, variance)


def probit_moments(argument: np.ndarray, correlation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean Φ(a) and variance Φ₂(a, a; r) - Φ(a)² of Φ((m + e)/s) for e ~ N(0, v); a = m/√(v + s²), r = v/(v + s²).

    Source: D. B. Owen, Ann. Math. Statist. 27, 1075 (1956), for Φ₂ in terms of his function T.
    """
    mean = ndtr(argument)
    joint = mean - 2 * owens_t(argument, np.sqrt((1 - correlation) / (1 + correlation)))
    return mean, np.maximum(joint - mean**2, 0.0)


def _fit_phase(data: StrainData, phase: str) -> ElasticModel:
    done = (data.phase == phase) & np.isfinite(data.energy)
    own = crystals.phase_strain(data.strain[done], data.rotation[done], phase)
    return fit_elastic_model(own, data.energy[done], data.gradient[done])


def _phase_labels(data: StrainData, phases: Sequence[str]) -> np.ndarray:
    """(n, phases) labels from -1 (surely not) to 1 (surely)."""
    others = (1 - data.phase_probability) / max(len(phases) - 1, 1)
    chance = [np.where(data.phase == phase, data.phase_probability, others) for phase in phases]
    return 2 * np.stack(chance, axis=-1) - 1
