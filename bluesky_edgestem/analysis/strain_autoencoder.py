"""The strain autoencoder: from a scan's own patterns to the affine map of each, without labels or tuning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .affine_readings import AffineReadings


class StrainAutoencoder:
    """A cycle-consistent spatial-transforming autoencoder of diffraction patterns."""

    def __init__(self) -> None:
        self.base_vectors: np.ndarray = np.zeros((2, 2))  #: of the base pattern's lattice, as rows [pixels]
        self.disk_radius: float = 0.0  #: [pixels]
        self.converged: bool = False
        self.why: str = "not trained"  #: why not converged; empty when it has
        self.report: dict[str, Any] = {}  #: what was learned, in figures

    @classmethod
    def train(cls, frames: Any, *, seed: int = 0, progress: Callable[[str], None] | None = None) -> StrainAutoencoder:
        """Learn the base pattern of a scan.

        Parameters
        ----------
        frames : (n, ny, nx), unsigned integers
            Electrons counted; an array, or what can be sliced like one (an HDF5 dataset).
        seed : int
            Settles which frames are drawn: the same seed gives the same weights on the same machine.
        progress : callable, optional
            Is told in a line of text how far training is.

        Raises
        ------
        TypeError
            If frames are not unsigned integers.
        ValueError
            If frames have no three dimensions.
        """
        raise NotImplementedError

    def read(self, frames: np.ndarray) -> AffineReadings:
        """Find the affine map of each of the frames (n, ny, nx), unsigned integers."""
        raise NotImplementedError

    def save(self, path: Path) -> None:
        """Write what was learned, under a checksum."""
        raise NotImplementedError

    @classmethod
    def load(cls, path: Path) -> StrainAutoencoder:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file is missing, cut short, altered or of another version; the message names it.
        """
        raise NotImplementedError
