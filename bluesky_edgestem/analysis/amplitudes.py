"""How lively a field is, from place to place: amplitudes of its Gaussian processes, calibrated by their own errors.

The marginal likelihood finds one amplitude for the whole field, and an adaptive design has most of its data where the
field is lively. That amplitude is then too large for the calm parts, which are most of a map: their standard
deviations come out a third too wide. So each datum is predicted from all others, and the amplitude follows, place by
place, how large these errors are against their standard deviations.

Sources: S. Sundararajan and S. S. Keerthi, Neural Computation 13, 1103 (2001), for hyperparameters by errors left out;
C. J. Paciorek and M. J. Schervish, Environmetrics 17, 483 (2006), for processes whose parameters differ by place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .fields import Field

CALIBRATE_AT_MOST = 400
"""Positions whose errors are asked for: more of them cost their cube."""

_WIDTH = 0.15  # of the field's larger side: standard deviation of the window in which errors count together
_PRIOR_COUNT = 20.0  # data that the amplitude so far is worth, in the whole field and in each window
_PASSES = 5  # each takes a share of what is still to correct; more of them would begin to follow chance


@dataclass(frozen=True)
class Modulation:
    """Factor of a kernel's amplitude by place, a product of corrections.

    Attributes
    ----------
    positions : (n, 2) array
        Where the errors were [nm].
    width : float
        Standard deviation of the window in which they count together [nm].
    corrections : tuple of ((n,) array, (n,) array)
        Of each pass the weighted squared errors over variance, and the weights. A window's mean of the former is 1
        where the standard deviations are right.
    """

    positions: np.ndarray
    width: float
    corrections: tuple[tuple[np.ndarray, np.ndarray], ...] = ()

    def __call__(self, at: np.ndarray) -> np.ndarray:
        """(k,) factors at positions (k, 2) [nm]."""
        factor = np.ones(len(at))
        a, b = at / self.width, self.positions / self.width
        near = np.exp(a @ b.T - 0.5 * np.sum(a * a, axis=1)[:, None] - 0.5 * np.sum(b * b, axis=1))
        for errors, weights in self.corrections:
            everywhere = (_PRIOR_COUNT + errors.sum()) / (_PRIOR_COUNT + weights.sum())
            factor *= (_PRIOR_COUNT * everywhere + near @ errors) / (_PRIOR_COUNT + near @ weights)
        return np.sqrt(factor)


def calibrated(fields: Sequence[Field], size: float) -> list[Field]:
    """The fields with amplitudes that follow the errors which they make in predicting each datum left out.

    A datum counts by how much of its predicted variance is the process's own rather than noise.

    Parameters
    ----------
    fields : sequence of Field
        Of one process each.
    size : float
        Larger side of the field of view [nm].
    """
    return [_calibrated(field, size) for field in fields]


def _calibrated(field: Field, size: float) -> Field:
    every = -(-len(field.positions) // CALIBRATE_AT_MOST) or 1
    trial = Field(field.kernel, field.positions[::every], field.values[::every], field.noise[::every], field.level)
    modulation = Modulation(trial.positions, _WIDTH * size)
    for _ in range(_PASSES):
        square, own = trial.left_out()
        weights = own**2
        modulation = replace(modulation, corrections=(*modulation.corrections, (weights * square, weights)))
        kernel = replace(field.kernel, modulation=modulation)
        trial = Field(kernel, trial.positions, trial.values, trial.noise, field.level)
    if every == 1:
        return trial
    return Field(trial.kernel, field.positions, field.values, field.noise, field.level)
