"""The bound, against a formula, against maximum likelihood on many draws, and against its own step size."""

import numpy as np
import pytest
from scipy.optimize import minimize

from bluesky_edgestem.analysis.cramer_rao import (
    PARAMETERS,
    STEPS,
    best_discrimination,
    bound,
    central_differences,
    pattern_information,
    poisson_information,
)
from bluesky_edgestem.analysis.optics import Optics

PIXELS = np.arange(41) - 20.0


def gaussian(at: np.ndarray) -> np.ndarray:
    """A spot at at[0] with logarithm of its total at[1], two pixels wide."""
    return np.exp(at[1] - (PIXELS - at[0]) ** 2 / 8) / np.sqrt(8 * np.pi)


def uniform(p: np.ndarray) -> np.ndarray:
    return np.full(len(p), "WS2")


def test_a_gaussian_spot_is_located_to_its_width_over_the_root_of_its_electrons():
    at = np.array([0.3, 0.0])
    information = poisson_information(gaussian(at), central_differences(gaussian, at, (0.01, 0.01)))
    covariance = bound(information, dose=400.0)
    assert np.sqrt(covariance[0, 0]) == pytest.approx(2 / np.sqrt(400), rel=1e-3)
    assert np.sqrt(covariance[1, 1]) == pytest.approx(1 / np.sqrt(400), rel=1e-3)


def test_maximum_likelihood_on_many_draws_attains_the_bound():
    rng = np.random.default_rng(0)
    dose, background = 300.0, 0.02

    def expected(at: np.ndarray) -> np.ndarray:
        return gaussian(at) + background

    truth = np.array([0.3, 0.0])
    information = poisson_information(expected(truth), central_differences(expected, truth, (0.01, 0.01)))
    found = []
    for _ in range(300):
        counts = rng.poisson(expected(truth) * dose)

        def cost(at: np.ndarray, counts: np.ndarray = counts) -> float:
            mean = expected(at) * dose
            return float((mean - counts * np.log(mean)).sum())

        found.append(minimize(cost, truth, method="BFGS").x)
    spread = np.cov(np.array(found).T)
    # 300 draws know a variance to 8 %.
    assert np.diag(spread) == pytest.approx(np.diag(bound(information, dose)), rel=0.25)


def test_the_bound_does_not_depend_on_the_step():
    optics = Optics()
    strain, rotation = (0.01, -0.01, 0.005), 0.1
    coarse, fine = (
        bound(pattern_information(strain, rotation, uniform, optics, steps=[f * s for s in STEPS]), 1e4)
        for f in (1.0, 0.5)
    )
    assert len(coarse) == len(PARAMETERS)
    assert np.sqrt(np.diag(coarse)) == pytest.approx(np.sqrt(np.diag(fine)), rel=0.02)
    # About half a per cent of strain from 10⁴ electrons at 80 keV, and ten times the dose, a tenth of the variance.
    assert 0.003 < np.sqrt(coarse[0, 0]) < 0.008


def test_ten_times_the_dose_is_a_tenth_of_the_variance():
    information = np.array([[4.0, 1.0], [1.0, 3.0]])
    assert bound(information, 1e5) == pytest.approx(bound(information, 1e4) / 10)
    assert bound(information, 1.0) @ information == pytest.approx(np.eye(2))


@pytest.mark.parametrize("dose", [0.0, -1.0, np.nan, np.inf])
def test_a_dose_that_is_none_is_refused(dose):
    with pytest.raises(ValueError, match="above 0 electrons per pattern, got"):
        bound(np.eye(2), dose)


def test_two_patterns_are_told_apart_as_often_as_the_likelihood_ratio_does():
    one = np.array([[0.60, 0.25, 0.15]])
    other = np.array([[0.57, 0.27, 0.16]])
    rng, dose, draws = np.random.default_rng(3), 2000.0, 20_000
    counts = rng.poisson(dose * np.broadcast_to(one, (draws, *one.shape)))
    right = ((counts * np.log(one / other) - dose * (one - other)).sum((1, 2)) > 0).mean()
    # 20,000 draws tell a share to 0.003; the normal approximation is as good at 500 electrons a pixel.
    assert best_discrimination(one, other, dose) == pytest.approx(right, abs=0.01)
    assert best_discrimination(one, one, dose) == 0.5
