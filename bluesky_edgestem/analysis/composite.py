"""The energy over the field of view as a composite: elastic energies of the phases, of Gaussian processes over the
strain.

The energy's posterior follows by matching moments, to the second order in the strain's variance Σ, with the gradient
g and the curvature H of the elastic energy f at the mean strain:

    mean      f + ½ tr(HΣ)
    variance  gᵀΣg + ½ tr((HΣ)²)  +  that of f itself  +  that of not knowing the phase and the rotation

Source: R. Astudillo, P. I. Frazier, Bayesian optimization of composite functions, ICML 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import crystals
from .acquisition import Channel
from .elasticity import ElasticModel, curvatures, fit_elastic_model, term_slopes, terms
from .measurements import StrainData
from .sheet import LABEL_NOISE, LocalState, Sheet


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
    sheet : Sheet
        The crystal over the field.
    data : StrainData
        What was calculated; may be empty.
    """

    def __init__(self, sheet: Sheet, data: StrainData):
        self.sheet, self.phases = sheet, sheet.phases
        #: The elastic energy of each phase.
        self.models = [_fit_phase(data, phase) for phase in self.phases]

    def predict(self, at: np.ndarray) -> EnergyPosterior:
        """The posterior at positions (k, 2) [nm]."""
        return self.energy(self.sheet.at(at))

    def energy(self, state: LocalState) -> EnergyPosterior:
        """The posterior where the crystal is in `state`."""
        mean, square, within = np.zeros((3, len(state.modes)))
        slope2, curvature2 = np.zeros((2, len(state.modes), 3))
        for p, phase, model in zip(state.share.T, self.phases, self.models, strict=True):
            scale = crystals.REFERENCE.a / crystals.monolayer(phase).a
            # Relative to the phase's own lattice: (1 + ε) a0/a - 1, in modes.
            own = scale * state.modes + np.array([2 * (scale - 1), 0.0, 0.0])
            slope = scale * (term_slopes(own, state.hexad) @ model.coefficients)
            curvature = scale**2 * curvatures(own, state.hexad, model.coefficients)
            energy, variance = second_order_moments(
                terms(own, state.hexad) @ model.coefficients, slope, curvature, state.mode_variance
            )
            # An unknown rotation leaves the sign of the three-fold term open.
            three_fold = model.coefficients[6] * state.unsure * np.hypot(own[:, 1], own[:, 2]) ** 3
            within += p * (variance + model.sd(own, state.hexad) ** 2 + 0.5 * three_fold**2)
            mean += p * energy
            square += p * energy**2
            slope2 += p[:, None] * slope**2
            curvature2 += p[:, None] * np.einsum("kii->ki", curvature) ** 2
        between = state.unknown * np.maximum(square - mean**2, 0.0)
        return EnergyPosterior(mean, within + between, between, slope2, curvature2)

    def channels(self, at: np.ndarray, posterior: EnergyPosterior) -> list[Channel]:
        """What a measurement at one of `at` (m, 2) tells of the others: the three strain modes, and the phase.

        In single precision: it is enough to tell which position is best, in half the time.
        """
        made = [
            Channel(
                process.covariance(at).astype(np.float32),
                float(noise),
                posterior.slope2[:, k].astype(np.float32),
                posterior.curvature2[:, k].astype(np.float32),
            )
            for k, (process, noise) in enumerate(zip(self.sheet.strain, self.sheet.noise, strict=True))
        ]
        if len(self.phases) > 1:
            covariance = self.sheet.phase.covariance(at).astype(np.float32)
            slope2 = posterior.phase_variance.astype(np.float32) / np.maximum(np.diagonal(covariance), 1e-9)
            made.append(Channel(covariance, LABEL_NOISE, slope2, np.zeros_like(slope2)))
        return made


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


def _fit_phase(data: StrainData, phase: str) -> ElasticModel:
    done = (data.phase == phase) & np.isfinite(data.energy)
    own = crystals.phase_strain(data.strain[done], data.rotation[done], phase)
    return fit_elastic_model(own, data.energy[done], data.gradient[done])
