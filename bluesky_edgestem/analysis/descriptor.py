"""What a diffraction pattern says of the atoms under the beam."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FeatureDescriptors:
    """Atomic-structure descriptors of `n` patterns, each with its uncertainty.

    Strain is infinitesimal, in image axes, relative to the reference lattice of `analysis.crystals`; the deformation is
    ``F = (1 + strain) R(rotation)``. Rotation is known modulo 60° and lies in (-π/6, π/6].
    """

    strain: np.ndarray  #: (n, 3) exx, eyy, exy
    covariance: np.ndarray  #: (n, 3, 3) of `strain`
    rotation: np.ndarray  #: (n,) [rad]
    rotation_sd: np.ndarray  #: (n,) [rad]
    phases: tuple[str, ...]  #: the phases that the network tells apart
    phase_probability: np.ndarray  #: (n, len(phases))
    flagged: np.ndarray  #: (n,) str; empty where the network knows, otherwise why it does not

    def __len__(self) -> int:
        return len(self.strain)

    @property
    def phase(self) -> np.ndarray:
        """The most probable phase of each pattern, (n,) str."""
        return np.array(self.phases)[self.phase_probability.argmax(axis=1)]

    @property
    def strain_sd(self) -> np.ndarray:
        """Standard deviation of each strain component, (n, 3)."""
        return np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2))
