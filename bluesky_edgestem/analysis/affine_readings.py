"""What a strain autoencoder says of patterns: where the lattice of disks lies in each, and how surely."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class AffineReadings:
    """Affine transformation of the base pattern to each of `n` patterns.

    A reflection at `g` of the base pattern [pixels from the direct beam; x, y] lies at ``centre + transform @ g``. Axes
    are those of the detector: x along the last axis of a frame, y up with the row index.
    """

    transform: np.ndarray  #: (n, 2, 2)
    covariance: np.ndarray  #: (n, 4, 4) of the transform's entries in row order: xx, xy, yx, yy
    centre: np.ndarray  #: (n, 2) x, y of the direct beam [pixels from the frame's first]
    centre_sd: np.ndarray  #: (n, 2) [pixels]
    dose: np.ndarray  #: (n,) electrons counted by good pixels
    flagged: np.ndarray  #: (n,) str; empty where the reading is to be trusted, otherwise why it is not

    def __len__(self) -> int:
        return len(self.transform)

    @property
    def transform_sd(self) -> np.ndarray:
        """Standard deviation of each entry of the transform, (n, 2, 2)."""
        return np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2)).reshape(-1, 2, 2)
