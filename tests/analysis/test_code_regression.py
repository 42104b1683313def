"""Codes that are functions of the strongest are told by all frames together; others are left as they were read."""

import numpy as np
import pytest

from bluesky_edgestem.analysis.code_regression import LEADING, informed, surface

BRIGHTNESS = 2e4


def read_codes(true, noise, rng):
    """Codes and covariance, as of `coded_step` with codes of order one beforehand, of true ones with noise."""
    n, count = true.shape
    known = noise / (1 + noise)  # that codes are of order one pulls them towards zero
    seen = (true + np.sqrt(noise) * rng.normal(size=true.shape)) / (1 + noise)
    covariance = np.zeros((n, 8 + count, 8 + count))
    covariance[:, np.arange(7), np.arange(7)] = 1
    covariance[:, np.arange(8, 8 + count), np.arange(8, 8 + count)] = known * BRIGHTNESS**2
    return BRIGHTNESS * np.concatenate([np.ones((n, 1)), seen], 1), covariance


def drawn(n, rng):
    """Two codes more than lead: one is a function of these, one is its own."""
    leading = np.clip(rng.normal(size=(n, LEADING)), -2, 2)
    function = (leading[:, 0] ** 2 - 1 + leading[:, 1] * leading[:, 2]) / np.sqrt(3)
    return np.column_stack([leading, function, rng.normal(size=n)])


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    true = drawn(3000, rng)
    noise = np.broadcast_to([1e-4] * LEADING + [1.0, 1.0], true.shape)
    return true, *read_codes(true, noise, rng)


def errors(codes, true):
    return np.sqrt(((codes[:, 1:] / codes[:, :1] - true) ** 2).mean(0))


def test_a_function_of_the_leading_codes_is_told_better_than_one_frame_does(case):
    true, codes, covariance = case
    better, known = informed(codes, covariance)
    assert errors(codes, true)[LEADING] > 0.6
    # 126 coefficients from 3000 frames with noise of 1 leave this.
    assert errors(better, true)[LEADING] == pytest.approx(np.sqrt(126 / 3000), rel=0.15)
    stated = np.sqrt(known[:, 8 + LEADING, 8 + LEADING].mean()) / BRIGHTNESS
    assert stated == pytest.approx(errors(better, true)[LEADING], rel=0.2)


def test_what_no_others_tell_is_left_as_it_was_read(case):
    true, codes, covariance = case
    better, known = informed(codes, covariance)
    np.testing.assert_array_equal(better[:, : LEADING + 1], codes[:, : LEADING + 1])
    assert errors(better, true)[-1] == pytest.approx(errors(codes, true)[-1], rel=0.05)
    assert known[:, -1, -1].mean() == pytest.approx(covariance[:, -1, -1].mean(), rel=0.1)


def test_few_frames_have_polynomials_of_a_lower_degree_or_none():
    rng = np.random.default_rng(1)
    columns = [surface(rng.normal(size=(n, LEADING)), np.ones(n)).shape[1] for n in (15, 100, 400, 1000, 3000)]
    assert columns == [0, 6, 21, 56, 126]


def test_with_few_frames_codes_stay_of_order_one():
    rng = np.random.default_rng(2)
    true = drawn(12, rng)
    codes, covariance = read_codes(true, np.full(true.shape, 0.5), rng)
    better, known = informed(codes, covariance)
    assert np.isfinite(better).all() and np.isfinite(known).all()
    assert (np.abs(better[:, 1:] / better[:, :1]) < 4).all()


def test_a_scan_with_fewer_modes_than_lead():
    rng = np.random.default_rng(3)
    true = drawn(500, rng)[:, :3]
    codes, covariance = read_codes(true, np.full(true.shape, 0.1), rng)
    better, known = informed(codes, covariance)
    np.testing.assert_array_equal(better, codes)
    np.testing.assert_allclose(known, covariance, rtol=1e-12)
