"""The crystal over the field of view, as the feature descriptors tell it: strain, rotation and phase, without energies.

It is apart from the energies so that it can be made while they are still computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, owens_t

from .amplitudes import calibrated
from .elasticity import MODES
from .fields import Field, Kernel, label_field
from .measurements import StrainData

LABEL_NOISE = 0.02
"""Variance of a phase's label of ±1, and of cos 6θ and sin 6θ."""

_NO_NOISE_YET = 1e-3  # standard deviation expected of a strain before the first is measured


@dataclass(frozen=True)
class LocalState:
    """The crystal at k positions.

    Attributes
    ----------
    modes, mode_variance : (k, 3) arrays
        Mean and variance of the strain modes (see `elasticity`).
    hexad : (k, 2) array
        Mean of cos 6θ and sin 6θ of the rotation, no longer than 1.
    unsure : (k,) array
        What the mean hexad lacks to the length of 1: 0 where the rotation is known, 1 where it is not.
    share : (k, phases) array
        Expected share of each phase under the probe.
    unknown : (k,) array
        The part of share (1 - share) that further measurements could tell.
    """

    modes: np.ndarray
    mode_variance: np.ndarray
    hexad: np.ndarray
    unsure: np.ndarray
    share: np.ndarray
    unknown: np.ndarray


class Sheet:
    """The posterior of the crystal at one state of the data.

    Parameters
    ----------
    data : StrainData
        What was measured; may be empty. Energies are not looked at.
    kernels : sequence of 3 Kernel
    levels : (3,) array
        Kernels and means of the strain modes.
    phases : sequence of str
        Formulae of the phases that may occur.
    size : float
        Larger side of the field of view [nm].
    resolution : float
        Resolution of the probe [nm]: over it, the phase is averaged.
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
        self.data, self.phases, self.resolution = data, tuple(phases), resolution
        fields = [
            Field(kernel, data.positions, data.modes[:, k], data.noise[:, k], levels[k])
            for k, kernel in enumerate(kernels)
        ]
        self.strain = calibrated(fields, size)
        #: What the next measurement of each mode is expected to have as variance.
        self.noise = np.median(data.noise, axis=0) if len(data) else _NO_NOISE_YET**2 * np.sum(MODES**2, axis=1)
        turn = np.column_stack([np.cos(6 * data.rotation), np.sin(6 * data.rotation)])
        self.hexad = label_field(data.positions, turn, LABEL_NOISE, size)
        self.phase = label_field(data.positions, _phase_labels(data, self.phases), LABEL_NOISE, size)

    def at(self, positions: np.ndarray) -> LocalState:
        """The crystal at positions (k, 2) [nm]."""
        means, variances = zip(*(process.predict(positions) for process in self.strain), strict=True)
        hexad = self.hexad.mean(positions)
        length = np.linalg.norm(hexad, axis=1)
        share, unknown = self._phase_shares(positions)
        return LocalState(
            modes=np.stack(means, axis=-1),
            mode_variance=np.stack(variances, axis=-1),
            hexad=hexad / np.maximum(length, 1.0)[:, None],
            unsure=1 - np.minimum(length, 1.0),
            share=share,
            unknown=unknown,
        )

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


def probit_moments(argument: np.ndarray, correlation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean Φ(a) and variance Φ₂(a, a; r) - Φ(a)² of Φ((m + e)/s) for e ~ N(0, v); a = m/√(v + s²), r = v/(v + s²).

    Source: D. B. Owen, Ann. Math. Statist. 27, 1075 (1956), for Φ₂ in terms of his function T.
    """
    mean = ndtr(argument)
    joint = mean - 2 * owens_t(argument, np.sqrt((1 - correlation) / (1 + correlation)))
    return mean, np.maximum(joint - mean**2, 0.0)


def _phase_labels(data: StrainData, phases: Sequence[str]) -> np.ndarray:
    """(n, phases) labels from -1 (surely not) to 1 (surely)."""
    others = (1 - data.phase_probability) / max(len(phases) - 1, 1)
    chance = [np.where(data.phase == phase, data.phase_probability, others) for phase in phases]
    return 2 * np.stack(chance, axis=-1) - 1
