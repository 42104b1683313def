"""The background of a scan: a smooth profile around the beam, whatever its form, from what is between the disks."""

import numpy as np
import pytest

from bluesky_edgestem.analysis.background_learning import learned_background, smooth_profile
from bluesky_edgestem.analysis.base_pattern import Background, BasePattern
from bluesky_edgestem.analysis.disk_aperture import Aperture
from bluesky_edgestem.analysis.disk_scoring import Estimates

DISTANCE = np.arange(120)
#: As thermal diffuse scattering: least at the beam, most around it, and a tail.
TRUE = (0.3 + (DISTANCE / 20) ** 2) / (1 + (DISTANCE / 20) ** 2) ** 2 + 0.05
AREAS = 2 * np.pi * np.maximum(DISTANCE, 0.3) * (DISTANCE > 9)  # the beam itself is in the way


def test_a_profile_of_any_form_is_found():
    # A cubic spline of 24 parts is within a fifth of a per cent of it.
    found = smooth_profile(1e4 * TRUE * AREAS, AREAS)
    assert found[10:] == pytest.approx(1e4 * TRUE[10:], rel=2e-3)


def test_it_is_as_sure_as_the_counts_allow():
    rng = np.random.default_rng(2)
    # Counts of 119 distances settle about 20 coefficients: a quarter of what single distances scatter by, or less.
    each = [smooth_profile(rng.poisson(3 * TRUE * AREAS), AREAS) / (3 * TRUE) - 1 for _ in range(40)]
    own = 1 / np.sqrt(3 * TRUE * AREAS, where=AREAS > 0, out=np.full(120, np.inf))
    part = slice(20, 110)
    assert np.std(each, 0)[part].mean() < 0.5 * own[part].mean()
    assert np.abs(np.mean(each, 0))[part].max() < 0.05


@pytest.mark.parametrize("counted", [0, 12])
def test_next_to_nothing_makes_a_flat_profile(counted):
    counts = np.zeros(120)
    counts[[15, 40, 80]] = counted / 3
    found = smooth_profile(counts, AREAS)
    assert np.isfinite(found).all()
    assert (found > 0).all()
    assert np.abs(np.diff(np.log(found), 2)).max() < 0.05


def test_each_frame_is_told_its_own_electrons():
    shape, beam = (64, 64), np.array([31.5, 31.5])
    base = BasePattern(
        shape, np.array([[20.0, 0], [0, 20]]), np.zeros((1, 2), int), beam, Aperture(5.0, 0.6, 0.5, 2),
        Background.lorentzian(shape, 16.0, 0.1), np.zeros((1, 1, 6)), np.ones(shape, np.float32),
    )  # fmt: skip
    y, x = np.indices(shape)
    density = np.interp(np.hypot(x - 31.5, y - 31.5), DISTANCE, TRUE)
    wanted = np.repeat([2e4, 6e4], 20)
    frames = np.random.default_rng(3).poisson(wanted[:, None, None] * density / density.sum()).astype(np.uint16)
    at = Estimates(np.tile(np.eye(2), (40, 1, 1)), np.tile(beam, (40, 1)), np.zeros(40), np.full(40, 1e5))
    background, amount = learned_background(base, frames, at)
    # Two thirds of the electrons are between disks: counting makes a per cent of 20,000.
    assert amount == pytest.approx(wanted, rel=0.04)
    assert background.share == pytest.approx(0.4, rel=0.01)
    assert background.spread == pytest.approx(0.5, rel=0.03)
    table = background.table(shape, beam)[32:-32, 32:-32]
    assert table.sum() == pytest.approx(1, rel=1e-5)
    clear = np.hypot(x - 31.5, y - 31.5) > 8  # under the beam nothing was seen
    assert table[clear] == pytest.approx((density / density.sum())[clear], rel=0.06)
