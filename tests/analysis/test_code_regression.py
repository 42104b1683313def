"""Codes that are functions of the strongest are told by all frames together; others are left as they were read."""

import numpy as np
import pytest

from bluesky_edgestem.analysis.code_regression import LEADING, informed, surface

BRIGHTNESS = 2e4


def read_codes(true, noise, rng):
    """Codes and covariance, as of `coded_step` with codes of order one beforehand, of true ones with noise.

    The map's first entry errs as the last code but one does, by a hundredth.
    """
    n, count = true.shape
    known = noise / (1 + noise)  # that codes are of order one pulls them towards zero
    seen = (true + np.sqrt(noise) * rng.normal(size=true.shape)) / (1 + noise)
    covariance = np.zeros((n, 8 + count, 8 + count))
    covariance[:, np.arange(8), np.arange(8)] = 1
    covariance[:, np.arange(8, 8 + count), np.arange(8, 8 + count)] = known * BRIGHTNESS**2
    covariance[:, 0, -2] = covariance[:, -2, 0] = 0.01 * known[:, -2] * BRIGHTNESS
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
    codes, covariance = read_codes(true, noise, rng)
    return true, codes, covariance, *informed(codes, covariance)


def errors(codes, true):
    return codes[:, 1:] / codes[:, :1] - true


def rms(values):
    return np.sqrt((values**2).mean(0))


def test_a_function_of_the_leading_codes_is_told_better_than_one_frame_does(case):
    true, codes, _, step, _ = case
    assert rms(errors(codes, true))[LEADING] > 0.6
    # 126 coefficients from 3000 frames with noise of 1 leave this.
    assert rms(errors(codes + step[:, 7:], true))[LEADING] == pytest.approx(np.sqrt(126 / 3000), rel=0.15)


def test_each_frame_says_how_well_its_codes_are_told(case):
    true, codes, _, step, covariance = case
    z2 = errors(codes + step[:, 7:], true)[:, LEADING] ** 2 / (covariance[:, -2, -2] / BRIGHTNESS**2)
    # Far from the others a frame is told least; polynomials are no worse there than they say.
    far = covariance[:, -2, -2] > np.quantile(covariance[:, -2, -2], 0.95)
    assert covariance[far, -2, -2].mean() > 4 * covariance[~far, -2, -2].mean()
    assert 0.7 < z2[far].mean() < 1.4
    assert 0.5 < z2[~far].mean() < 1.4


def test_the_map_moves_with_what_it_was_uncertain_with(case):
    _, _, before, step, covariance = case
    assert step[:, 0] == pytest.approx(0.01 * step[:, -2] / BRIGHTNESS, rel=1e-9)
    told = (before - covariance)[:, -2, -2] / BRIGHTNESS**2
    assert before[:, 0, 0] - covariance[:, 0, 0] == pytest.approx(1e-4 * told, rel=1e-6)


def test_what_no_others_tell_is_left_as_it_was_read(case):
    true, codes, before, step, covariance = case
    assert np.abs(step[:, 7 : 8 + LEADING]).max() == 0
    assert rms(errors(codes + step[:, 7:], true))[-1] == pytest.approx(rms(errors(codes, true))[-1], rel=0.05)
    assert covariance[:, -1, -1].mean() == pytest.approx(before[:, -1, -1].mean(), rel=0.1)


def test_few_frames_have_polynomials_of_a_lower_degree_or_none():
    rng = np.random.default_rng(1)
    columns = [surface(rng.normal(size=(n, LEADING)), np.ones(n)).shape[1] for n in (15, 100, 400, 1000, 3000)]
    assert columns == [0, 6, 21, 56, 126]


def test_codes_that_are_functions_of_each_other_leave_no_frame_on_its_own():
    rng = np.random.default_rng(4)
    a, b = np.clip(rng.normal(size=(2, 3000)), -2, 2)
    basis = surface(np.column_stack([a, b, a * b, a**2 - 1, np.zeros(3000)]), np.ones(3000))
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-9)
    # Polynomials of up to the eighth degree in two: 45 of them.
    assert basis.shape[1] <= 45
    assert np.square(basis).sum(1).max() < 0.5


def test_with_few_frames_codes_stay_of_order_one():
    rng = np.random.default_rng(2)
    true = drawn(12, rng)
    codes, covariance = read_codes(true, np.full(true.shape, 0.5), rng)
    step, known = informed(codes, covariance)
    assert np.isfinite(known).all()
    assert (np.abs(errors(codes + step[:, 7:], 0)) < 4).all()


@pytest.mark.parametrize("count", [0, 3, LEADING])
def test_a_scan_with_no_more_modes_than_lead(count):
    rng = np.random.default_rng(3)
    true = np.concatenate([drawn(500, rng)[:, :count], np.zeros((500, 2))], 1)
    codes, covariance = read_codes(true, np.full(true.shape, 0.1), rng)
    step, known = informed(codes[:, : 1 + count], covariance[:, : 8 + count, : 8 + count])
    assert not step.any()
    np.testing.assert_array_equal(known, covariance[:, : 8 + count, : 8 + count])
