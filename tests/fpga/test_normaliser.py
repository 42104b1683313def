"""Normaliser and symmetry, on patterns of rings."""

import numpy as np
import pytest

from bluesky_edgestem.fpga import quantised, teaching
from bluesky_edgestem.fpga.frontend import CORE, Frontend
from bluesky_edgestem.fpga.normaliser import normaliser
from bluesky_edgestem.fpga.symmetry import VARIANTS
from bluesky_edgestem.fpga.teaching import Lessons

FRONTEND = Frontend(48)
AXIS = np.arange(CORE) - (CORE - 1) / 2


def disks(rotation: np.ndarray, strain: np.ndarray, background: np.ndarray, centre: np.ndarray) -> Lessons:
    """Six disks of one bin's width, 12 bins from the middle, over an even background; 40 electrons of 1000 theirs."""
    n = len(rotation)
    at = rotation[:, None] + np.pi / 3 * np.arange(6)
    stretch = np.eye(2) - np.stack([strain[:, [0, 2]], strain[:, [2, 1]]], 1)
    where = 12 * np.einsum("nij,njk->nik", stretch, np.stack([np.cos(at), np.sin(at)], 1)) + centre[:, :, None]
    x, y = np.meshgrid(AXIS, AXIS)
    away = (x - where[:, 0, :, None, None]) ** 2 + (y - where[:, 1, :, None, None]) ** 2
    shape = np.exp(-away / 2).sum(1).reshape(n, -1)
    expected = 40 * shape / shape.sum(1, keepdims=True) + background[:, None] * 1000 / CORE**2
    return Lessons(expected.astype(np.float16), strain, rotation, centre, np.zeros(n))


def drawn(n: int, seed: int = 0) -> Lessons:
    rng = np.random.default_rng(seed)
    return disks(
        rng.uniform(-3, 3, n), rng.uniform(-0.03, 0.03, (n, 3)), rng.uniform(0, 0.1, n), rng.uniform(-0.5, 0.5, (n, 2))
    )


def test_the_normaliser_follows_the_disks_and_not_the_background():
    weights = normaliser(drawn(800), FRONTEND, 3)
    others = drawn(200, seed=1)
    outer = others.expected[:, FRONTEND.outer].astype(float).sum(1)
    sums = others.expected.astype(float) @ weights
    # Up to two and a half times as many electrons are background as in disks.
    assert outer.std() / outer.mean() > 0.3
    assert sums.std() / sums.mean() < 0.08
    assert set(np.unique(weights)) <= set(range(-3, 4))
    assert not weights[~FRONTEND.outer].any()
    for variant in VARIANTS:
        assert np.array_equal(variant.bins(weights[None])[0], weights)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_variant_of_a_pattern_is_the_pattern_of_its_targets(variant):
    lessons = drawn(20)
    wanted = variant.targets(quantised.targets(lessons))
    rotation = np.arctan2(wanted[:, 4], wanted[:, 3]) / 6
    made = disks(
        rotation, wanted[:, :3] * quantised.STRAIN_UNIT, drawn(20).expected.min(1) * CORE**2 / 1000, wanted[:, 5:7]
    )
    turned = variant.bins(lessons.expected).astype(float)
    assert np.abs(turned - made.expected.astype(float)).max() < 0.02 * turned.max()


def test_frames_to_train_with_hold_some_without_a_lattice_that_count_least():
    lessons, domain = drawn(512), teaching.Domain()
    frames = quantised.Frames.drawn(lessons, FRONTEND, domain, np.random.default_rng(0))
    strange = np.arange(512) % quantised.BATCH < 16
    assert frames.bins.dtype == np.uint8
    assert np.array_equal(frames.dose[strange], np.full(32, domain.dose[0], np.float32))
    assert len(set(frames.bins[12, FRONTEND.outer])) == 1  # saturated
    assert len(set(frames.bins[16, FRONTEND.outer])) > 1
    assert np.array_equal(frames.targets[~strange], quantised.targets(lessons)[~strange])
    assert frames.dose[~strange].min() > domain.dose[0]
