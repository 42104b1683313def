"""The closed forms of the acquisition, against brute force."""

import numpy as np
import pytest

from bluesky_edgestem.analysis.acquisition import Channel, choose, downdate, emphasis, expected_fall
from bluesky_edgestem.analysis.fields import Field, Kernel


def problem(m=60, seed=0):
    """A field measured at a few places, and its posterior covariance over m others."""
    rng = np.random.default_rng(seed)
    kernel = Kernel(np.array([15.0, 15.0]), 1.0)
    measured, at = rng.uniform(0, 100, (8, 2)), rng.uniform(0, 100, (m, 2))
    field = Field(kernel, measured, rng.normal(size=8), np.full(8, 0.01))
    return kernel, measured, at, field.covariance(at), rng


def test_downdates_equal_a_full_recomputation():
    kernel, measured, at, covariance, _ = problem()
    noise = 0.03
    channel = Channel(covariance.copy(), noise, np.ones(60), np.zeros(60))
    picks = [5, 17, 40, 3]
    for pick in picks:
        downdate(channel, pick)
    positions = np.vstack([measured, at[picks]])
    noises = np.append(np.full(8, 0.01), np.full(4, noise))
    expected = Field(kernel, positions, np.zeros(12), noises).covariance(at)
    assert np.abs(channel.covariance - expected).max() < 1e-7  # the factor's jitter is 1e-8 of the variance
    exact = covariance - covariance[:, picks] @ np.linalg.solve(
        covariance[np.ix_(picks, picks)] + noise * np.eye(4), covariance[picks]
    )
    assert np.abs(channel.covariance - exact).max() < 1e-12


def test_downdate_returns_how_far_the_variance_fell():
    *_, covariance, _ = problem()
    channel = Channel(covariance.copy(), 0.03, np.ones(60), np.zeros(60))
    fall = downdate(channel, 11)
    assert np.diagonal(covariance) - np.diagonal(channel.covariance) == pytest.approx(fall, abs=1e-12)


def test_expected_fall_is_the_variance_of_the_posterior_mean_of_a_quadratic():
    # E = g z + ½ h z² at x; measuring at j moves the mean of z at x by N(0, δ). Monte-Carlo over 400,000 outcomes: 1 %.
    *_, covariance, rng = problem(2)
    slope, curvature, noise = np.array([0.7, -0.2]), np.array([3.0, 1.0]), 0.05
    channel = Channel(covariance, noise, slope**2, curvature**2)
    gain = expected_fall(channel, channel.slope2, channel.curvature2)
    for j in range(2):
        total = 0.0
        for x in range(2):
            weight = covariance[x, j] / (covariance[j, j] + noise)
            moved = weight * rng.normal(0, np.sqrt(covariance[j, j] + noise), 400_000)
            left = covariance[x, x] - weight * covariance[x, j]
            total += np.var(slope[x] * moved + 0.5 * curvature[x] * (moved**2 + left))
        assert gain[j] == pytest.approx(total, rel=0.01)


def test_choice_is_the_greedy_one_of_brute_force():
    *_, at, covariance, rng = problem(40)
    slope2, curvature2 = rng.uniform(0, 1, 40), rng.uniform(0, 0.5, 40)
    variance = slope2 * np.diagonal(covariance) + 0.5 * curvature2 * np.diagonal(covariance) ** 2
    noise, target = 0.02, 0.3
    chosen = choose(
        [Channel(covariance.copy(), noise, slope2, curvature2)], variance, target, np.ones(40, bool), at, 1.0, 4
    )

    def variances(picks):
        """Variance of the quantity once `picks` are measured, each solved afresh."""
        inner = covariance[np.ix_(picks, picks)] + noise * np.eye(len(picks))
        return np.diagonal(covariance - covariance[:, picks] @ np.linalg.solve(inner, covariance[picks]))

    def expected(picks):
        """Expected variance of the energy once `picks` are measured: less that of the posterior mean."""
        fall = np.diagonal(covariance) - variances(picks) if picks else np.zeros(40)
        return variance - slope2 * fall - 0.5 * curvature2 * fall**2

    picks = []
    for pick in chosen.tolist():
        before = expected(picks)
        gains = [
            -np.inf if j in picks else np.sum(emphasis(before, target) * (before - expected([*picks, j])))
            for j in range(40)
        ]
        assert pick == int(np.argmax(gains))
        picks.append(pick)


def test_cells_above_the_target_weigh_more():
    weight = emphasis(np.array([0.1, 1.0, 2.0, 4.0]) ** 2, 1.0)
    assert weight[0] == pytest.approx(0.05)
    assert (np.diff(weight) > 0).all()
    assert weight[3] > 10 * weight[1]


def test_picks_keep_their_distance_and_stay_where_allowed():
    rng = np.random.default_rng(3)
    at = rng.uniform(0, 20, (200, 2))
    covariance = Kernel(np.array([2.0, 2.0]), 1.0)(at, at)
    allowed = at[:, 0] < 12
    variance = np.diagonal(covariance).copy()
    channel = Channel(covariance, 0.1, np.ones(200), np.zeros(200))
    chosen = choose([channel], variance, 0.1, allowed, at, 3.0, 500)
    gaps = np.linalg.norm(at[chosen][:, None] - at[chosen][None], axis=-1) + 100 * np.eye(len(chosen))
    assert gaps.min() >= 3.0
    assert allowed[chosen].all()
    assert 5 < len(chosen) < 50
