"""What a diffraction pattern says of the atoms under the beam."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np


@dataclass(frozen=True)
class FeatureDescriptors:
    """Atomic-structure descriptors of `n` patterns, each with its uncertainty.

    Strain is infinitesimal, in image axes, relative to the reference lattice of the phase's family (of monolayers:
    `analysis.crystals`); the deformation is ``F = (1 + strain) R(rotation)``. Rotation is known modulo what turns the
    lattice into itself, 60° for a hexagonal one, and lies symmetrically about 0: in (-π/6, π/6] there. What may be
    None is so of a source that does not tell it.
    """

    strain: np.ndarray  #: (n, 3) exx, eyy, exy
    covariance: np.ndarray  #: (n, 3, 3) of `strain`
    rotation: np.ndarray  #: (n,) [rad]
    rotation_sd: np.ndarray  #: (n,) [rad]
    phases: tuple[str, ...]  #: the phases that the network tells apart
    phase_probability: np.ndarray  #: (n, len(phases))
    flagged: np.ndarray  #: (n,) str; empty where the network knows, otherwise why it does not
    thickness: np.ndarray | None = None  #: (n,) [nm]; nan where it is unknown
    thickness_sd: np.ndarray | None = None  #: (n,) [nm]
    centre: np.ndarray | None = None  #: (n, 2) where the beam arrives, x and y from the detector's centre [pixels]
    centre_sd: np.ndarray | None = None  #: (n, 2) [pixels]

    @classmethod
    def joined(cls, parts: Sequence[FeatureDescriptors]) -> FeatureDescriptors:
        """Those of several parts of a series, one at least, by one source, as one."""
        columns = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(cls)
            if field.name != "phases" and getattr(parts[0], field.name) is not None
        }
        return cls(phases=parts[0].phases, **columns)

    def __len__(self) -> int:
        return len(self.strain)

    @property
    def phase(self) -> np.ndarray:
        """The most probable phase of each pattern, (n,) str."""
        return np.array(self.phases)[self.phase_probability.argmax(axis=1)]

    def among(self, phases: Sequence[str]) -> FeatureDescriptors:
        """The same where only `phases` may occur: their probabilities, normalised anew.

        Raises
        ------
        ValueError
            If one of `phases` is not told apart here.
        """
        if unknown := [p for p in phases if p not in self.phases]:
            raise ValueError(f"{', '.join(unknown)} is not among the phases told apart: {', '.join(self.phases)}")
        share = self.phase_probability[:, [self.phases.index(p) for p in phases]]
        # A pattern that is certainly of another phase says nothing of which of these it would be.
        total = share.sum(axis=1, keepdims=True)
        even = np.full_like(share, 1 / len(phases))
        share = np.divide(share, total, out=even, where=total > 0)
        return replace(self, phases=tuple(phases), phase_probability=share)

    @property
    def strain_sd(self) -> np.ndarray:
        """Standard deviation of each strain component, (n, 3)."""
        return np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2))
