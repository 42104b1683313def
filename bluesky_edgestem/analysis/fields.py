"""Gaussian processes over the field of view: strain with a noise of its own at each position, and labels such as the
phase.

The strain's modes (dilatation and two shears, see `elasticity`) are three processes, each with a Matérn-5/2 kernel of
its own, anisotropic, refitted by marginal likelihood with botorch. Everything after the fit is an exact Cholesky
factor in float64: gpytorch's switch to iterative methods for many data never comes into play.

Sources: C. E. Rasmussen and C. K. I. Williams, Gaussian Processes for Machine Learning (2006), chapters 2, 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.linalg.lapack import dtrtri

FIT_AT_MOST = 400
"""Positions that a fit of the kernels sees: more of them hardly move six numbers, and cost their cube."""

LABELS_AT_MOST = 250
"""Positions that the choice of a label field's length sees."""

# Prior of the kernels: log-normal, median and log-standard deviation. Short lengths are favoured over what the first
# few positions seem to say, since a length taken too long stops a run too early.
_LENGTH_MEDIAN, _LENGTH_SPREAD = 0.10, 0.5  # of the field's larger side
_AMPLITUDE_MEDIAN, _AMPLITUDE_SPREAD = 0.008, 0.7  # strain
_JITTER = 1e-8  # of the amplitude squared, for positions that nearly coincide


@dataclass(frozen=True)
class Kernel:
    """A Matérn kernel over positions.

    Attributes
    ----------
    lengths : (2,) array
        Correlation lengths along x and y [nm].
    amplitude : float
        Standard deviation of the process.
    smoothness : float
        1/2 (rough, for labels that jump), or 5/2.
    modulation : callable, optional
        From positions (k, 2) to factors (k,) of the amplitude, where it differs by place (see `amplitudes`).
    """

    lengths: np.ndarray
    amplitude: float
    smoothness: float = 2.5
    modulation: Callable[[np.ndarray], np.ndarray] | None = None

    def amplitude_at(self, positions: np.ndarray) -> np.ndarray:
        """(k,) standard deviation of the process at positions (k, 2)."""
        if self.modulation is None:
            return np.full(len(positions), self.amplitude)
        return self.amplitude * self.modulation(positions)

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(n, m) covariance between positions (n, 2) and (m, 2)."""
        left = self.amplitude_at(a)
        right = left if a is b else self.amplitude_at(b)
        a, b = a / self.lengths, b / self.lengths
        square = np.sum(a * a, axis=1)[:, None] + np.sum(b * b, axis=1)[None] - 2 * (a @ b.T)
        distance = np.sqrt(np.maximum(square, 0.0, out=square), out=square)
        if self.smoothness == 0.5:
            covariance = np.exp(np.negative(distance, out=distance), out=distance)
        else:
            distance *= np.sqrt(5.0)
            covariance = 1 + distance + distance * distance / 3
            covariance *= np.exp(np.negative(distance, out=distance), out=distance)
        covariance *= left[:, None]
        covariance *= right
        return covariance


class Field:
    """Posterior of one or more processes that share a kernel and a noise, given measurements.

    Parameters
    ----------
    kernel : Kernel
    positions : (n, 2) array
        Where it was measured [nm]; n may be 0.
    values : (n,) or (n, m) array
        What was measured, of m processes.
    noise : (n,) array
        Variance of each measurement.
    level : float or (m,) array, optional
        Mean of the process, known beforehand.
    """

    def __init__(self, kernel: Kernel, positions, values, noise, level=0.0):
        self.kernel, self.positions, self.values, self.noise, self.level = kernel, positions, values, noise, level
        covariance = kernel(positions, positions)
        covariance[np.diag_indices_from(covariance)] += noise + _JITTER * kernel.amplitude_at(positions) ** 2
        self._factor = cholesky(covariance, lower=True, check_finite=False) if len(positions) else covariance
        self._residual = self.whiten(values - level)
        self._weights = (
            solve_triangular(self._factor, self._residual, lower=True, trans="T", check_finite=False)
            if len(positions)
            else self._residual
        )
        self.log_likelihood = float(
            -0.5 * np.sum(self._residual**2)
            - np.log(np.diagonal(self._factor)).sum() * (1 if np.ndim(values) == 1 else np.shape(values)[1])
        )

    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each datum, predicted from all others: squared error over variance, and the process's share of that
        variance.

        For one process; equations 5.12 of Rasmussen and Williams.
        """
        inverse = np.tril(dtrtri(self._factor, lower=1)[0]) if len(self.positions) else self._factor
        precision = np.sum(inverse**2, axis=0)
        return self._weights**2 / precision, np.clip(1 - self.noise * precision, 0.0, 1.0)

    def whiten(self, right: np.ndarray) -> np.ndarray:
        """Solve the Cholesky factor against `right` (n, ...)."""
        if not len(right):
            return right
        return solve_triangular(self._factor, right, lower=True, check_finite=False)

    def explained(self, at: np.ndarray) -> np.ndarray:
        """(n, k) whitened covariance V between the data and positions (k, 2): the posterior covariance is K - VᵀV."""
        return self.whiten(self.kernel(self.positions, at))

    def mean(self, at: np.ndarray) -> np.ndarray:
        """Mean alone, as `predict` gives it, at a fraction of the cost."""
        return self.level + self.kernel(at, self.positions) @ self._weights

    def predict(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean (k,) or (k, m) and variance (k,) at positions (k, 2) [nm]."""
        explained = self.explained(at)
        mean = self.level + explained.T @ self._residual
        prior = self.kernel.amplitude_at(at) ** 2
        variance = prior - np.einsum("ij,ij->j", explained, explained)
        return mean, np.maximum(variance, _JITTER * prior)

    def covariance(self, at: np.ndarray) -> np.ndarray:
        """(k, k) posterior covariance between positions (k, 2) [nm]."""
        explained = self.explained(at)
        return self.kernel(at, at) - explained.T @ explained


def fit_strain_kernels(
    positions: np.ndarray, modes: np.ndarray, noise: np.ndarray, size: float, start: list[Kernel] | None = None
) -> tuple[list[Kernel], np.ndarray]:
    """Fit a kernel and a level to each strain mode by maximum a posteriori marginal likelihood.

    Parameters
    ----------
    positions : (n, 2) array
        x, y [nm]; with fewer than four, the prior is returned.
    modes : (n, 3) array
        Measured modes (t, u, v).
    noise : (n, 3) array
        Variances of their measurement.
    size : float
        Larger side of the field of view [nm], the unit of the prior of lengths.
    start : list of 3 Kernel, optional
        Where the search begins: the previous fit.

    Returns
    -------
    kernels : list of 3 Kernel
    levels : (3,) array
        Constant means of the modes.
    """
    if start is None:
        start = [Kernel(np.full(2, _LENGTH_MEDIAN * size), _AMPLITUDE_MEDIAN) for _ in range(3)]
    if len(positions) < 4:
        return start, np.zeros(3)
    import torch
    from botorch.models import SingleTaskGP
    from botorch.optim.fit import fit_gpytorch_mll_scipy
    from botorch.settings import validate_input_scaling
    from gpytorch.kernels import MaternKernel, ScaleKernel
    from gpytorch.means import ConstantMean
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from gpytorch.priors import LogNormalPrior
    from gpytorch.settings import fast_computations

    if len(positions) > FIT_AT_MOST:
        keep = np.linspace(0, len(positions) - 1, FIT_AT_MOST).round().astype(int)
        positions, modes, noise = positions[keep], modes[keep], noise[keep]
    three = torch.Size([3])
    scale = _AMPLITUDE_MEDIAN
    kernel = ScaleKernel(
        MaternKernel(
            nu=2.5,
            ard_num_dims=2,
            batch_shape=three,
            lengthscale_prior=LogNormalPrior(np.log(_LENGTH_MEDIAN), _LENGTH_SPREAD),
        ),
        batch_shape=three,
        outputscale_prior=LogNormalPrior(0.0, 2 * _AMPLITUDE_SPREAD),
    )
    level = ConstantMean(batch_shape=three)
    # The strain is scaled by what is expected of it, not by what was measured, so that the priors keep their meaning.
    with validate_input_scaling(False):
        model = SingleTaskGP(
            torch.as_tensor(positions / size, dtype=torch.double),
            torch.as_tensor(modes / scale, dtype=torch.double),
            train_Yvar=torch.as_tensor(noise / scale**2, dtype=torch.double),
            covar_module=kernel,
            mean_module=level,
            outcome_transform=None,
        )
    kernel.base_kernel.lengthscale = torch.as_tensor(np.array([[k.lengths / size] for k in start]))
    kernel.outputscale = torch.as_tensor(np.array([(k.amplitude / scale) ** 2 for k in start]))
    likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
    with fast_computations(covar_root_decomposition=False, log_prob=False, solves=False):
        fit_gpytorch_mll_scipy(likelihood, options={"maxiter": 100})
    lengths = kernel.base_kernel.lengthscale.detach().numpy().reshape(3, 2) * size
    amplitudes = np.sqrt(kernel.outputscale.detach().numpy()) * scale
    levels = level.constant.detach().numpy().reshape(3) * scale
    return [Kernel(length, float(a)) for length, a in zip(lengths, amplitudes, strict=True)], levels


def label_field(positions: np.ndarray, labels: np.ndarray, noise: float, size: float) -> Field:
    """Posterior of labels that jump between regions, such as the phase: least-squares classification.

    The length of a Matérn-1/2 kernel is the most likely of a few, from 1/50 to twice the field.

    Parameters
    ----------
    positions : (n, 2) array
        x, y [nm].
    labels : (n, m) array
        Labels of about -1 to 1.
    noise : float
        Variance of a label.
    size : float
        Larger side of the field of view [nm].
    """

    def field(length: float, every: int) -> Field:
        kernel = Kernel(np.full(2, length), 1.0, smoothness=0.5)
        return Field(kernel, positions[::every], labels[::every], np.full(len(positions[::every]), noise))

    thinning = -(-len(positions) // LABELS_AT_MOST) or 1
    likelihoods = {length: field(length, thinning).log_likelihood for length in size * np.geomspace(0.02, 2.0, 8)}
    return field(max(likelihoods, key=lambda length: likelihoods[length]), 1)
