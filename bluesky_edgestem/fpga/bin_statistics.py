"""How the bins of patterns vary: by what the patterns are of, and by counting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .frontend import ATTENUATION, CORE, Frontend
from .symmetry import VARIANTS
from .teaching import Lessons

DOSE = 1e5  #: electrons per pattern whose counting noise filters are to pass as little of as before


@dataclass(frozen=True)
class BinStatistics:
    """Of what filters weigh: bins over the normaliser's sum, in all variants."""

    signal: np.ndarray  #: (CORE², CORE²) covariance of expected bins
    noise: np.ndarray  #: (CORE²,) variance by counting, of one electron per pattern; the dose divides it

    @classmethod
    def of(cls, lessons: Lessons, frontend: Frontend, normaliser: np.ndarray) -> BinStatistics:
        """From the patterns of lessons, with the weights (CORE²,) of the normaliser."""
        bins = lessons.expected.astype(np.float32) / 1000
        shares = np.where(frontend.outer, 1.0, 2.0**-ATTENUATION).astype(np.float32)
        sums = np.maximum(bins @ normaliser.astype(np.float32), 1e-6)[:, None]
        seen = bins * shares / sums
        moments, mean = seen.T @ seen / len(seen), seen.mean(0)
        counted = (bins * shares**2 / sums**2).mean(0)
        total, middle, noise = np.zeros(moments.shape), np.zeros(CORE**2), np.zeros(CORE**2)
        for variant in VARIANTS:
            order = variant.bins(np.arange(CORE**2)[None])[0]
            total += moments[np.ix_(order, order)] / len(VARIANTS)
            middle += mean[order] / len(VARIANTS)
            noise += counted[order] / len(VARIANTS)
        # A mean may change: the dense layers take it off.
        return cls(total - np.outer(middle, middle), noise)

    @property
    def covariance(self) -> np.ndarray:
        """With the counting noise of `DOSE`, (CORE², CORE²)."""
        return self.signal + np.diag(self.noise / DOSE)

    def basis(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The `n` sums of bins that tell most of a pattern over their noise, at `DOSE`.

        Returns
        -------
        vectors : array (CORE², n)
            Weights of bins; sums have unit variance and no covariance.
        told : array (n,)
            Share of that variance which is not noise, from the largest on.
        """
        sizes = np.sqrt(np.maximum(self.noise, 1e-6 * self.noise.max()) / DOSE)
        over, vectors = np.linalg.eigh(self.signal / np.outer(sizes, sizes))
        over, vectors = np.maximum(over[::-1][:n], 0.0), vectors[:, ::-1][:, :n]
        return vectors / sizes[:, None] / np.sqrt(over + 1), over / (over + 1)
