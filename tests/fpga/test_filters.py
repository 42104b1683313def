"""Normaliser, symmetry and the rounding of filters, on patterns of rings."""

import numpy as np
import pytest

from bluesky_edgestem.fpga import learning, teaching
from bluesky_edgestem.fpga.bin_statistics import DOSE, BinStatistics
from bluesky_edgestem.fpga.float_model import ROUGH, centred_filters, float_model
from bluesky_edgestem.fpga.frontend import CORE, Frontend
from bluesky_edgestem.fpga.normaliser import normaliser
from bluesky_edgestem.fpga.reproducible import keras
from bluesky_edgestem.fpga.rounding import in_units, rounded
from bluesky_edgestem.fpga.symmetry import VARIANTS
from bluesky_edgestem.fpga.teaching import Lessons
from bluesky_edgestem.fpga.widths import Widths

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
    wanted = variant.targets(learning.targets(lessons))
    rotation = np.arctan2(wanted[:, 4], wanted[:, 3]) / 6
    made = disks(
        rotation, wanted[:, :3] * learning.STRAIN_UNIT, drawn(20).expected.min(1) * CORE**2 / 1000, wanted[:, 5:7]
    )
    turned = variant.bins(lessons.expected).astype(float)
    assert np.abs(turned - made.expected.astype(float)).max() < 0.02 * turned.max()


def test_frames_to_train_with_hold_some_without_a_lattice_that_count_least():
    lessons, domain = drawn(512), teaching.Domain()
    frames = learning.Frames.drawn(lessons, FRONTEND, domain, np.random.default_rng(0))
    strange = np.arange(512) % learning.BATCH < 16
    assert frames.bins.dtype == np.uint8
    assert np.array_equal(frames.dose[strange], np.full(32, domain.dose[0], np.float32))
    assert len(set(frames.bins[12, FRONTEND.outer])) == 1  # saturated
    assert len(set(frames.bins[16, FRONTEND.outer])) > 1
    assert np.array_equal(frames.targets[~strange], learning.targets(lessons)[~strange])
    assert frames.dose[~strange].min() > domain.dose[0]


def lost(filters: np.ndarray, whole: np.ndarray, over: np.ndarray) -> np.ndarray:
    """Share of each feature's variance that goes with no multiple of the rounded one's."""
    common = np.einsum("pk,pq,qk->k", filters, over, whole, optimize=True)
    own, its = (np.einsum("pk,pq,qk->k", f, over, f, optimize=True) for f in (filters, whole.astype(float)))
    return 1 - common**2 / (own * its)


def test_what_is_left_to_round_makes_up_for_what_was():
    lessons = drawn(800)
    over = BinStatistics.of(lessons, FRONTEND, normaliser(lessons, FRONTEND, 3)).covariance
    filters = np.random.default_rng(0).normal(size=(CORE**2, 4)) * FRONTEND.outer[:, None]
    whole = rounded(filters, over, 3, np.eye(4))
    assert whole.dtype == np.int32 and set(np.unique(whole)) <= set(range(-3, 4))
    alone = np.inf
    for of_largest in np.linspace(0.2, 0.9, 20):
        unit = np.abs(filters).max(0) * of_largest / 3
        alone = np.minimum(alone, lost(filters, np.clip(np.round(filters / unit), -3, 3), over))
    # Of the same bits: less than half of the error that rounding each weight by itself makes, at its best unit.
    assert (lost(filters, whole, over) < 0.5 * alone).all()


def test_filters_make_up_for_each_other_where_the_loss_cannot_tell_them_apart():
    lessons = drawn(400)
    over = BinStatistics.of(lessons, FRONTEND, normaliser(lessons, FRONTEND, 3)).covariance
    rng = np.random.default_rng(2)
    filters = rng.normal(size=(CORE**2, 6)) * FRONTEND.outer[:, None]
    told = rng.normal(size=(6, 2))
    bends = told @ told.T + 0.02 * np.eye(6)

    def rise(whole: np.ndarray) -> float:
        size = np.einsum("pk,pq,qk->k", whole, over, filters) / np.einsum("pk,pq,qk->k", whole, over, whole)
        return float(np.sum(((whole * size - filters).T @ over @ (whole * size - filters)) * bends))

    # Six filters of which the loss sees two sums: less than half of what is lost where each is rounded by itself.
    assert rise(rounded(filters, over, 3, bends)) < 0.5 * rise(rounded(filters, over, 3, np.eye(6)))


def test_features_are_as_noisy_in_training_as_rounding_will_make_them():
    lessons = drawn(512)
    weights = normaliser(lessons, FRONTEND, 3)
    over = BinStatistics.of(lessons, FRONTEND, weights)
    bins = learning.Frames.drawn(lessons, FRONTEND, teaching.Domain(), np.random.default_rng(0)).bins
    model = float_model(Widths(filters=3, hidden=(4,)), weights, over, bins, 0)
    layer, none = model.get_layer("roughened"), np.zeros((20000, 3), np.float32)
    assert np.array_equal(layer(none), none)
    noisy = layer(none, training=True).numpy()
    filters = centred_filters(model)
    wanted = np.sqrt(ROUGH / 3**2 * np.square(filters).sum(0))
    assert noisy.std(0) == pytest.approx(wanted, rel=0.03)  # six standard deviations of 20,000 draws'
    assert np.abs(np.corrcoef(noisy.T) - np.eye(3)).max() < 0.04


def test_the_curvature_is_that_of_the_loss_by_features():
    lessons, domain = drawn(512), teaching.Domain()
    frames = learning.Frames.drawn(lessons, FRONTEND, domain, np.random.default_rng(0))
    weights = normaliser(lessons, FRONTEND, 3)
    model = float_model(
        Widths(filters=3, hidden=(4,)),
        weights,
        BinStatistics.of(lessons, FRONTEND, weights),
        frames.bins[~frames.strange],
        0,
    )
    w, b = model.get_layer("dense0").get_weights()
    model.get_layer("dense0").set_weights([w, b + 50])  # all rectifiers are open: the network is linear
    w, b = model.get_layer("dense1").get_weights()
    # Spread and phase, of which the loss is no square, are the same for all; so wide a spread counts next to nothing.
    w[:, 7:], b[7] = 0, 10
    model.get_layer("dense1").set_weights([w, b])
    bends = learning.curvature(model, frames)
    assert np.allclose(bends, bends.T, rtol=1e-4)
    known = ~frames.strange
    features = model.get_layer("centred").output
    read = keras.Model(model.input, features).predict(frames.bins[known].astype(np.float32), verbose=0).astype(float)
    (w0, b0), (w1, b1) = (model.get_layer(f"dense{i}").get_weights() for i in (0, 1))

    def loss(shift: np.ndarray) -> float:
        outputs = ((read + shift) @ w0 + b0) @ w1 + b1
        return float(learning.loss(outputs, frames.targets[known].astype(float), frames.dose[known].astype(float)))

    for along in np.random.default_rng(3).normal(size=(4, 3)):
        second = loss(along) + loss(-along) - 2 * loss(0 * along)
        assert along @ bends @ along == pytest.approx(second, rel=1e-3)  # single against double precision


def test_weights_are_rounded_in_their_units_and_zeros_stay():
    rng = np.random.default_rng(0)
    read = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 30)) + 0.1 * rng.normal(size=(500, 30))
    weights, units = rng.normal(size=(30, 8)), 2.0 ** -np.arange(3, 7).repeat(2)
    whole = in_units(weights, np.cov(read.T), units, np.full(8, 1000))
    assert np.array_equal(whole, np.rint(whole))
    alone = (read @ (np.rint(weights / units) * units - weights)).var(0)
    # Thirty inputs that six numbers make: a tenth and less is left of what rounding each weight by itself loses.
    assert np.median((read @ (whole * units - weights)).var(0) / alone) < 0.15
    assert np.abs(in_units(weights, np.cov(read.T), units, np.full(8, 50))).max() == 50
    few = weights * (rng.random(weights.shape) < 0.8)
    assert not in_units(few, np.cov(read.T), units, np.full(8, 1000))[few == 0].any()


def test_more_bits_lose_less():
    lessons = drawn(400)
    over = BinStatistics.of(lessons, FRONTEND, normaliser(lessons, FRONTEND, 3)).covariance
    filters = np.random.default_rng(1).normal(size=(CORE**2, 3))
    by_bits = [lost(filters, rounded(filters, over, bits, np.eye(3)), over).mean() for bits in (2, 3, 4, 6)]
    assert by_bits == sorted(by_bits, reverse=True)
    assert by_bits[-1] < 0.05 * by_bits[0]


def test_the_covariance_is_that_of_counted_bins_in_every_variant():
    lessons = drawn(300)
    weights = normaliser(lessons, FRONTEND, 3)
    over = BinStatistics.of(lessons, FRONTEND, weights).covariance
    order = VARIANTS[5].bins(np.arange(CORE**2)[None])[0]
    assert np.allclose(over[np.ix_(order, order)], over, rtol=0, atol=1e-6 * np.abs(over).max())
    rng = np.random.default_rng(0)
    counts = np.concatenate([v.bins(lessons.counts(np.full(300, DOSE), rng)) for v in VARIANTS])
    seen = counts[:, FRONTEND.outer] / (counts @ weights)[:, None]
    some = over[np.ix_(FRONTEND.outer, FRONTEND.outer)]
    # The normaliser's own noise, which is left out, adds a little.
    assert seen.var(0).sum() == pytest.approx(np.trace(some), rel=0.01)
