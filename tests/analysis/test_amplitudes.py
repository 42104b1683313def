"""Amplitudes that follow the errors of prediction."""

import numpy as np
import pytest

from bluesky_edgestem.analysis.amplitudes import CALIBRATE_AT_MOST, calibrated
from bluesky_edgestem.analysis.fields import Field, Kernel

SIZE = 100.0


def drawn(kernel, n, seed=0):
    """`n` positions of a process of that kernel, measured with noise, and 400 more whose value is known."""
    rng = np.random.default_rng(seed)
    at = rng.uniform(0, SIZE, (n + 400, 2))
    covariance = kernel(at, at) + 1e-12 * np.eye(len(at))
    truth = np.linalg.cholesky(covariance) @ rng.normal(size=len(at))
    noise = rng.uniform(0.5e-3, 2e-3, n) ** 2
    return at[:n], truth[:n] + rng.normal(size=n) * np.sqrt(noise), noise, at[n:], truth[n:]


@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_an_amplitude_that_is_off_is_corrected(factor):
    # Sparse, so that the process outweighs the noise.
    kernel = Kernel(np.array([5.0, 5.0]), 0.01)
    positions, values, noise, *_ = drawn(kernel, 200)
    wrong = Field(Kernel(kernel.lengths, factor * kernel.amplitude), positions, values, noise)
    (right,) = calibrated([wrong], SIZE)
    found = right.kernel.amplitude_at(positions)
    assert np.sqrt(np.mean(found**2)) == pytest.approx(kernel.amplitude, rel=0.2)


def test_what_only_noise_was_measured_of_is_left_as_it_is():
    kernel = Kernel(np.array([15.0, 25.0]), 1e-5)
    positions, _, noise, *_ = drawn(kernel, 40)
    (same,) = calibrated([Field(kernel, positions, 3 * np.sqrt(noise), noise)], SIZE)
    assert same.kernel.amplitude_at(positions) == pytest.approx(1e-5, rel=0.05)


def test_calm_and_lively_parts_get_standard_deviations_of_their_own():
    lengths = np.array([8.0, 8.0])
    made = Kernel(lengths, 0.01, modulation=lambda at: np.where(at[:, 0] < SIZE / 2, 0.2, 1.0))
    scaled: dict[tuple[str, str], list[float]] = {}
    for seed in range(8):
        positions, values, noise, at, truth = drawn(made, 120, seed)
        one = Field(Kernel(lengths, 0.007), positions, values, noise)
        (several,) = calibrated([one], SIZE)
        parts = {"calm": at[:, 0] < SIZE / 2 - 10, "lively": at[:, 0] > SIZE / 2 + 10}
        for which, field in {"one": one, "several": several}.items():
            for name, part in parts.items():
                mean, variance = field.predict(at[part])
                scaled.setdefault((which, name), []).extend((truth[part] - mean) ** 2 / variance)
    found = {key: np.sqrt(np.mean(values)) for key, values in scaled.items()}
    assert found["one", "calm"] < 0.6, "else this test shows nothing"
    # No one amplitude does both: calm parts were too wide by far, lively ones too narrow. With 120 data, the prior of
    # twenty a window holds back more than half of what is to correct.
    assert 1.25 * found["one", "calm"] < found["several", "calm"] < 1.0
    assert 1.0 < found["several", "lively"] < found["one", "lively"]


def test_more_data_than_are_asked_for_errors_still_count_for_the_mean():
    kernel = Kernel(np.array([10.0, 10.0]), 0.01)
    n = CALIBRATE_AT_MOST + 1
    positions, values, noise, at, truth = drawn(kernel, n)
    (field,) = calibrated([Field(kernel, positions, values, noise)], SIZE)
    assert len(field.positions) == n
    mean, variance = field.predict(at)
    assert np.mean(np.abs(mean - truth) < 1.96 * np.sqrt(variance)) > 0.9


def test_without_data_nothing_changes():
    kernel = Kernel(np.array([10.0, 10.0]), 0.01)
    (field,) = calibrated([Field(kernel, np.empty((0, 2)), np.empty(0), np.empty(0))], SIZE)
    assert field.predict(np.array([[1.0, 2.0]]))[1] == pytest.approx([1e-4])
