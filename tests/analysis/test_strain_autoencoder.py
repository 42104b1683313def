"""The strain autoencoder on a small scan with known strain; patterns are made without it, from computed disks."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from crystal_cases import FOREIGN
from numpy.polynomial.polynomial import polyval2d
from scipy.ndimage import gaussian_filter

from bluesky_edgestem.analysis import crystals, diffraction, disk_patterns, disk_tables, materials
from bluesky_edgestem.analysis.base_pattern import Background, BasePattern, reindexing, rotation_of, search
from bluesky_edgestem.analysis.disk_aperture import PHASES, Aperture, orthonormal
from bluesky_edgestem.analysis.disk_scoring import Estimates, evaluate
from bluesky_edgestem.analysis.doubts import flags
from bluesky_edgestem.analysis.lattice_discovery import find_lattice
from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.analysis.placed_disks import mask, windows
from bluesky_edgestem.analysis.strain_autoencoder import StrainAutoencoder
from bluesky_edgestem.analysis.weights_file import SHIPPED

OPTICS = Optics(energy_keV=200.0, semiangle_mrad=2.8, pixel_mrad=0.55, n_pixels=80, background=0.1)
LAYERS = [48, 52, 56, 60]


@pytest.fixture(scope="module")
def table():
    return disk_tables.compute("SrTiO3", 200.0, LAYERS, 4.2, step_mrad=0.6, g_max=0.9)


def patterns(table, count, seed):
    """Probabilities (n, 80, 80), maps F^-T (n, 2, 2) and descan (n, 2) of a scan with smooth strain, wedge and tilt."""
    rng = np.random.default_rng(seed)
    phase = np.linspace(0, 2 * np.pi, count) + rng.uniform(0, 2 * np.pi)
    strain = 0.01 * np.stack([np.sin(phase), np.cos(2 * phase), 0.5 * np.sin(3 * phase)], -1)
    rotation, layers = 0.01 * np.cos(phase), 54 + 4 * np.sin(phase + 1)
    tilt, shift = 0.5 * np.stack([np.sin(2 * phase), np.cos(phase)], -1), rng.normal(0, 0.5, (count, 2))
    made = [
        disk_patterns.compose(table, OPTICS, e, r, n, tuple(s), mistilt_mrad=tuple(t))
        for e, r, n, s, t in zip(strain, rotation, layers, shift, tilt, strict=True)
    ]
    seen = np.array([diffraction.detected(p, OPTICS, tuple(s)) for p, s in zip(made, shift, strict=True)])
    f = np.array([crystals.deformation(e, float(r)) for e, r in zip(strain, rotation, strict=True)])
    return seen, np.linalg.inv(f).transpose(0, 2, 1), shift


@pytest.fixture(scope="module")
def scan(table):
    return patterns(table, 144, seed=0)


@pytest.fixture(scope="module")
def network(scan):
    counts = np.random.default_rng(1).poisson(5e4 * scan[0]).astype(np.uint16)
    return StrainAutoencoder.train(counts, seed=3)


@pytest.fixture(scope="module")
def held_out(table):
    return patterns(table, 96, seed=5)


def errors(readings, truth):
    """Of the maps, (n, 2, 2): what is left of M (F^-T S)^-1 - 1 for the one base lattice S."""
    relative = np.linalg.inv(truth) @ readings.transform
    return relative @ np.linalg.inv(np.median(relative, 0)) - np.eye(2)


def test_it_finds_disks_and_lattice_by_itself(network):
    assert network.converged, network.why
    assert network.disk_radius == pytest.approx(OPTICS.disk_radius, abs=0.1)
    # The reflections (100) are dark: what it sees is the lattice of (110), in one of its frames' strain.
    length = np.sqrt(2) / 3.905 / OPTICS.pixel_reciprocal
    assert np.linalg.norm(network.base_vectors, axis=1) == pytest.approx([length, length], rel=0.02)


def test_disks_with_nothing_between_them_are_not_taken_for_larger_ones():
    # As simulators make them: flat, with the edge of whole pixels, without a background.
    y, x = np.indices((128, 128))
    orders = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 2), -1).reshape(-1, 2)
    pattern = sum((np.hypot(x - 64 - 24 * h, y - 64 - 24 * k) < 7) / (1 + 4 * (abs(h) + abs(k))) for h, k in orders)
    counts = np.random.default_rng(11).poisson(1e6 * pattern / pattern.sum(), (16, 128, 128))
    lattice = find_lattice(counts)
    assert lattice is not None
    assert lattice.radius == pytest.approx(7, abs=0.5)
    assert np.linalg.norm(lattice.vectors, axis=1) == pytest.approx([24, 24], abs=0.2)


@pytest.mark.parametrize(("dim", "spacing"), [(0.01, 14.0), (0.0, 14.0 * np.sqrt(2))])
def test_disks_a_hundredth_as_bright_are_disks_of_the_lattice(dim, spacing):
    # Taken for background, they would displace the bright ones that they almost touch.
    y, x = np.indices((128, 128))
    orders = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 2), -1).reshape(-1, 2)
    pattern = np.full((128, 128), 1e-3)
    for h, k in orders:
        fall = 1 / (1 + h * h + k * k)
        disk = np.clip(5.5 + 0.5 - np.hypot(x - 63.6 - 14 * h, y - 64.2 - 14 * k), 0, 1)
        pattern += fall * (dim if (h + k) % 2 else 1.0) * disk
    counts = np.random.default_rng(4).poisson(1e5 * pattern / pattern.sum(), (256, 128, 128))
    lattice = find_lattice(counts)
    assert lattice is not None
    assert np.linalg.norm(lattice.vectors, axis=1) == pytest.approx([spacing, spacing], abs=0.2)


def test_a_dim_disk_takes_little_of_what_is_around_it():
    at, counting = windows(3, 17 * 17), np.ones((98, 98), np.float32)
    # None counts: one in the frame, one that its edge cuts, one of which nothing was learned.
    sites, half, pad = np.array([[0.0, 0.0], [31.5, 0.0], [0.0, -18.0]]), 8, 17
    level = np.array([0.1, 0.1, 0.0], np.float32)
    mask(counting, at, np.arange(3), level, sites, np.eye(2), np.array([32.0, 32.0]), 5.0, half, pad, 64, 64)
    out = counting[pad : pad + 64, pad : pad + 64] == 0
    assert [out[32, :48].sum(), out[32, 48:].sum(), out[14, :48].sum()] == [2 * 6 + 1, half, 2 * half + 1]


def fine_disk(aperture, fill, x0, y0, fine=40):
    """A disk in the middle of 24 × 24 pixels, made of forty samples along each, which are blurred before pixels add."""
    axis = (np.arange(24 * fine) + 0.5) / fine - 0.5
    x, y = np.meshgrid(axis - x0, axis - y0)
    inside = np.clip(0.5 + (aperture.radius - np.hypot(x, y)) * fine, 0, 1)
    filled = np.tensordot(fill, orthonormal(aperture.degree), 1)
    image = inside * polyval2d(y / aperture.radius, x / aperture.radius, filled)
    return gaussian_filter(image, aperture.spread * fine, mode="constant").reshape(24, fine, 24, fine).mean((1, 3))


@pytest.mark.parametrize("degree", [0, 4])
def test_disks_are_drawn_where_they_are(degree):
    # Wherever it is in its pixel: to a quarter of a per cent of its most.
    aperture = Aperture(6.0, 0.6, 0.0, degree)
    fill = np.zeros(aperture.templates.shape[3])
    fill[:3] = (1.0, 0.3, -0.2)[: len(fill)]
    worst = []
    for cx, cy in np.random.default_rng(5).uniform(11, 12, (12, 2)):
        image = fine_disk(aperture, fill, cx, cy)
        base = BasePattern(
            (24, 24), 20 * np.eye(2), np.zeros((1, 2), int), np.array([11.5, 11.5]), aperture,
            Background.lorentzian((24, 24), 6.0, 0.1), fill[None, None], np.ones((24, 24), np.float32),
        )  # fmt: skip
        drawn = base.draw(np.eye(2)[None], np.array([[cx, cy]]), np.ones((1, 1)), np.zeros(1))[0]
        worst.append(np.abs(drawn - image).max() / image.max())
    assert max(worst) < 0.0025


@pytest.mark.parametrize("phase", [0, 6])
@pytest.mark.parametrize("spread", [0.2, 0.6])
def test_slopes_are_those_of_disks_and_not_of_their_pixels(spread, phase):
    # Differences from pixel to pixel miss a seventh of them, most in the dark foot of the edge, where each electron
    # tells much: strain scattered by a tenth more.
    aperture = Aperture(6.0, spread, 0.0, 4)
    fill = np.zeros(15)
    fill[:5] = (1.0, 0.3, -0.2, 0.1, 0.2)
    place, step = 12 + (phase + 0.5) / PHASES - 0.5, 0.025
    for kind, (along_x, along_y) in ((1, (step, 0)), (2, (0, step))):
        moved = [fine_disk(aperture, fill, place + s * along_x, place + s * along_y) for s in (1, -1)]
        true = (moved[0] - moved[1]) / (2 * step)
        window = true[12 - aperture.half : 13 + aperture.half, 12 - aperture.half : 13 + aperture.half]
        pixels = np.concatenate([line[slice(*row)] for line, row in zip(window, aperture.rows, strict=True)])
        slopes = (fill @ aperture.templates[phase, phase, kind])[: len(pixels)]
        assert np.linalg.norm(slopes - pixels) < 0.02 * np.linalg.norm(true)
        # What is beyond the window is a hundredth of a per cent of a slope's square.
        assert np.sum(true**2) - np.sum(pixels**2) < 1e-4 * np.sum(true**2)


def test_it_finds_the_detectors_point_spread(network):
    # A disk's edge of 10⁴ electrons tells it to some hundredths of a pixel.
    assert network.report["point_spread_px"] == pytest.approx(OPTICS.psf_px, abs=0.05)


def test_it_tells_blur_before_the_pixels_from_what_pixels_hand_on(network):
    # Here pixels hand on all of it; the other detector is made of the same base pattern.
    aperture = network.base.aperture
    assert aperture.shared > 0.7
    assert aperture.radius == pytest.approx(OPTICS.disk_radius, abs=0.01)
    other = replace(network.base, aperture=replace(aperture, shared=0.0))
    rng = np.random.default_rng(9)
    n = 144
    transform = np.eye(2) + 0.006 * rng.normal(size=(n, 2, 2))
    # Half as far from the mean as the scan's: those lie on a curve, and beside it no disk is filled like that.
    codes = 5e4 * np.concatenate([np.ones((n, 1)), 0.5 * rng.normal(size=(n, len(other.fills) - 1))], 1)
    drawn = other.draw(transform, other.beam + rng.normal(0, 0.5, (n, 2)), codes, np.full(n, 5e3))
    again = StrainAutoencoder.train(rng.poisson(np.maximum(drawn, 0)).astype(np.uint16), seed=3)
    assert again.base.aperture.shared < 0.3
    # It comes out too large: by 0.005 to 0.013 in four draws of the noise. 0.04 would show in strain.
    assert again.base.aperture.radius == pytest.approx(aperture.radius, abs=0.02)


def test_disks_that_the_edge_cuts_deep_and_those_not_learned_say_nothing(network, held_out):
    base, (seen, truth, shift) = network.base, held_out
    counts = np.random.default_rng(10).poisson(1e5 * seen[:4]).astype(np.uint16)
    fills = base.fills.copy()
    brightest = int(np.argmax(fills[0, :, 0]))
    fills[:, brightest] = 0
    base = replace(base, fills=fills)
    codes = 1e5 * np.eye(1, len(fills)).repeat(4, 0)
    transform = truth[:4] @ np.linalg.inv(truth[0])
    at = Estimates(transform, 79 / 2 + shift[:4], np.full(4, 1e4), np.full(4, 1e5))
    scores = evaluate(base, counts, at, base.coefficients(transform, codes))
    places = at.centre[:, None] + np.einsum("nij,gj->ngi", transform, base.reflections)
    inside = (np.minimum(places, 79 - places) > 0.6 * base.aperture.radius).all(2)
    inside &= base.fills[0].any(1)
    np.testing.assert_array_equal(scores.seen, inside)
    assert inside.any() and not inside.all() and not inside[:, brightest].any()
    assert not scores.place_score[~inside].any()
    # The brightest disk, of which nothing is expected, is not missed: its pixels do not count.
    assert scores.misfit.max() < 3


def test_its_lattice_is_the_crystals_not_only_alike_in_all_frames(network, held_out):
    seen, truth, _ = held_out
    readings = network.read(np.random.default_rng(7).poisson(1e5 * seen).astype(np.uint16))
    found = network.base_vectors @ readings.transform.transpose(0, 2, 1)
    true = np.eye(2) / 3.905 / OPTICS.pixel_reciprocal @ truth.transpose(0, 2, 1)
    index = np.rint(found @ np.linalg.inv(true))
    offset = (np.linalg.solve(index @ true, found) - np.eye(2)).mean(0)
    # Of the fills learned from 144 frames; what is known of them is of this size.
    assert np.abs(offset) == pytest.approx(np.zeros((2, 2)), abs=6e-4)


def test_the_search_brings_the_beam_into_its_pixel(network, held_out):
    seen, _, shift = held_out
    _, centre = search(network.base, np.random.default_rng(8).poisson(1e5 * seen).astype(np.uint16))
    # Places are whole pixels in it, and what fills the disks moves all of them a little.
    assert np.quantile(np.abs(centre - (79 / 2 + shift)), 0.95) < 0.75


# 0.15 % and 0.06 % are 1.5 times the root mean square errors here, which is near what counting noise leaves.
@pytest.mark.parametrize(("dose", "limit"), [(1e4, 0.0036), (1e5, 0.0015)])
def test_strain_of_patterns_it_did_not_see(network, held_out, dose, limit):
    seen, truth, shift = held_out
    counts = np.random.default_rng(2).poisson(dose * seen).astype(np.uint16)
    readings = network.read(counts)
    assert not any(readings.flagged)
    wrong = errors(readings, truth)
    assert np.sqrt((wrong**2).mean()) < limit
    assert readings.centre - (79 / 2 + shift) == pytest.approx(np.zeros((96, 2)), abs=0.5)
    assert readings.dose == pytest.approx(counts.sum((1, 2)))
    # Base and measured maps differ from the identity by a per cent, and so do these deviates from exact ones.
    z = wrong.reshape(-1, 4) / np.sqrt(np.einsum("nii->ni", readings.covariance))
    assert 0.88 < (np.abs(z) < 1.96).mean() < 0.995


def test_a_turned_grain_is_read_without_retraining(network, table):
    angle = 0.6
    made = disk_patterns.compose(table, OPTICS, [0.004, 0.0, 0.0], angle, 54.0)
    seen = diffraction.detected(made, OPTICS)
    counts = np.random.default_rng(4).poisson(1e5 * np.repeat(seen[None], 8, 0)).astype(np.uint16)
    straight = diffraction.detected(disk_patterns.compose(table, OPTICS, [0.0, 0.0, 0.0], 0.0, 54.0), OPTICS)
    before = np.random.default_rng(5).poisson(1e5 * np.repeat(straight[None], 8, 0)).astype(np.uint16)
    turned, reference = network.read(counts), network.read(before)
    assert not any(turned.flagged)
    m = turned.transform.mean(0) @ np.linalg.inv(reference.transform.mean(0))
    f = np.linalg.inv(m).T
    u, s, v = np.linalg.svd(f)
    stretch, rotation = u @ np.diag(s) @ u.T, u @ v
    assert stretch - np.eye(2) == pytest.approx(np.diag([0.004, 0.0]), abs=0.0015)
    assert np.arctan2(rotation[1, 0], rotation[0, 0]) == pytest.approx(angle, abs=0.002)


def test_fills_turn_as_far_as_the_map_does(network):
    angle = 0.4 + np.linspace(-0.012, 0.012, 33)
    c, s = np.cos(angle), np.sin(angle)
    turned = np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)
    codes = np.zeros((len(angle), len(network.base.fills)))
    codes[:, 0] = 1e6
    share = np.full(len(angle), 1e6 * network.base.background.share)
    drawn = network.base.draw(turned, np.tile(network.base.beam, (len(angle), 1)), codes, share)
    found = network.read(np.rint(drawn).astype(np.uint32))
    assert not any(found.flagged)
    # Fills that are 0.005 rad off, half of the step in which information is known, move this rotation by 2.4e-4.
    assert rotation_of(found.transform) == pytest.approx(angle, abs=1e-4)


def test_the_same_seed_gives_the_same_weights(scan):
    counts = np.random.default_rng(1).poisson(5e4 * scan[0][:40]).astype(np.uint16)
    one, other = (StrainAutoencoder.train(counts, seed=3) for _ in range(2))
    assert np.array_equal(one.base.fills, other.base.fills)
    assert np.array_equal(one.base_vectors, other.base_vectors)


def nothing_known(readings):
    """Each reading says why it is none, and no number of it could be taken for one."""
    identity = (readings.transform == np.eye(2)).all((1, 2))
    return np.array(readings.flagged != "") & identity & (readings.transform_sd >= 1).all((1, 2))


def test_empty_and_saturated_frames_are_flagged_and_spoil_no_other(network, held_out):
    seen = np.random.default_rng(6).poisson(1e5 * held_out[0][:1]).astype(np.uint16)[0]
    saturated = seen.copy()
    saturated[40, 40] = 65535
    readings = network.read(np.array([seen, np.zeros_like(seen), saturated]))
    assert readings.flagged[0] == ""
    # Not bit for bit: now and then the eighth digit differs. A millionth is 1/300 of the standard deviation.
    assert readings.transform[:1] == pytest.approx(network.read(seen[None]).transform, abs=1e-6)
    assert readings.flagged[1].startswith("no electrons")
    assert readings.flagged[2].startswith("saturated")
    assert nothing_known(readings).tolist() == [False, True, True]


def test_more_suspicion_than_one_is_what_is_flagged(network, held_out):
    patterns = held_out[0][:6]
    frames = np.random.default_rng(6).poisson(1e5 * np.concatenate([patterns, patterns, patterns])).astype(np.uint16)
    frames[6:12] = frames[6:12, :, ::-1]  # a mirrored crystal: other fills, and mostly on no lattice near by
    frames[12] = 0
    frames[13:] = np.random.default_rng(7).poisson(20.0, frames[13:].shape)
    suspicion = network.suspicion(frames)
    assert ((suspicion > 1) == (network.read(frames).flagged != "")).all()
    assert (suspicion[:6] < 1).all() and (suspicion[12:] > 1).all() and np.isinf(suspicion[12])
    assert network.suspicion(frames[:0]).shape == (0,)


@pytest.mark.parametrize("moved", [12, 39, 60])  # outside what it looks at, at the frame's edge, and off the detector
def test_a_beam_far_off_or_beside_the_detector_is_flagged(network, held_out, moved):
    seen = np.random.default_rng(6).poisson(1e5 * held_out[0][:8]).astype(np.uint16)
    away = np.zeros_like(seen)
    away[:, :, moved:] = seen[:, :, :-moved]
    assert nothing_known(network.read(away)).all()


# NaCl has the same square lattice as SrTiO3 within 2 %: there only what fills the disks tells.
@pytest.mark.parametrize("name", ["Si", "Au", "GaAs", "NaCl"])
def test_a_crystal_of_another_material_is_flagged(network, name, monkeypatch):
    for foreign in FOREIGN.values():
        monkeypatch.setitem(materials.MATERIALS, foreign.name, foreign)
    layers = [2 * round(materials.material(name).layers(t) / 2) for t in (8.0, 20.0)]
    table = disk_tables.compute(name, 200.0, layers, 4.2, step_mrad=0.8, g_max=0.9)
    made = [disk_patterns.compose(table, OPTICS, [0.003, 0.0, 0.002], r, n) for r in (0.1, 0.5, 0.785) for n in layers]
    counts = np.random.default_rng(7).poisson(1e5 * diffraction.detected(np.array(made), OPTICS)).astype(np.uint16)
    readings = network.read(counts)
    assert nothing_known(readings).all(), readings.flagged
    wanted = "not a pattern of this scan" if name == "NaCl" else "no lattice like the base pattern's"
    assert all(why.startswith(wanted) for why in readings.flagged)


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_frames_of_another_camera_length_are_flagged(network, table, factor):
    other = replace(OPTICS, pixel_mrad=OPTICS.pixel_mrad * factor)
    seen = diffraction.detected(disk_patterns.compose(table, other, [0.002, 0.0, 0.0], 0.0, 54.0), other)
    counts = np.random.default_rng(8).poisson(1e5 * seen, (8, 80, 80)).astype(np.uint16)
    assert nothing_known(network.read(counts)).all()


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_counts_of_other_types_are_read_alike_and_what_is_none_is_flagged(network, held_out, dtype):
    seen = np.random.default_rng(6).poisson(1e5 * held_out[0][:3]).astype(np.uint16)
    other = seen.astype(dtype)
    other[1, 5, 5] = -1
    other[2, 5, 5] = np.iinfo(dtype).max if dtype is np.int32 else np.nan
    readings = network.read(other)
    # Not bit for bit: now and then the eighth digit differs.
    assert readings.transform[:1] == pytest.approx(network.read(seen[:1]).transform, abs=1e-6)
    assert readings.flagged[1].startswith("no counts")
    assert readings.flagged[2].startswith("saturated" if dtype is np.int32 else "no counts")
    assert nothing_known(readings).tolist() == [False, True, True]


@pytest.mark.parametrize("whole", [[[0, 1], [-1, 0]], [[-1, 0], [0, -1]], [[1, 1], [0, 1]], [[1, 0], [0, 1]]])
def test_maps_of_one_lattice_are_given_the_indices_of_others(whole):
    vectors, like = np.array([[11.8, -11.5], [11.9, 12.4]]), np.array([[0.05, -0.98], [0.99, 0.01]])
    transform = np.linalg.solve(vectors, whole @ vectors @ like.T).T
    noise = np.random.default_rng(0).normal(0, 1e-3, (5, 2, 2))
    turn = reindexing(vectors, transform + noise, np.repeat(like[None], 5, 0))
    assert turn == pytest.approx(np.repeat(turn[:1], 5, 0))
    assert (transform + noise) @ turn == pytest.approx(np.repeat(like[None], 5, 0), abs=1e-2)
    nothing = reindexing(vectors, np.full((1, 2, 2), np.nan), like[None])
    assert nothing == pytest.approx(np.eye(2)[None])


@pytest.mark.parametrize("fill", [2**32 - 1, 0])
def test_pixels_that_the_detector_masks_count_for_nothing(scan, held_out, network, fill):
    # With its largest number, or with zero, which is known by whole rows or columns without a count.
    counts = np.random.default_rng(1).poisson(5e4 * scan[0]).astype(">u4")
    counts[:, 30:32] = fill
    other = StrainAutoencoder.train(counts, seed=3)
    assert other.converged, other.why
    assert other.base is not None and not other.base.good[30:32].any() and other.base.good[32:].mean() > 0.99
    # Of the square lattice it learns with other indices than it reads with, here.
    assert other.stretch == pytest.approx(network.stretch, abs=0.2)
    seen = np.random.default_rng(6).poisson(1e5 * held_out[0]).astype(np.uint32)
    whole = np.sqrt((errors(network.read(seen), held_out[1])[1:] ** 2).mean())
    seen[:, 30:32] = fill
    seen[0, 40, 40] = 2**32 - 1
    readings = other.read(seen)
    assert readings.flagged[0].startswith("saturated") and (readings.flagged[1:] == "").all()
    # The rows are 1/40 of the frame, and hold more than that of the inner disks.
    assert np.sqrt((errors(readings, held_out[1])[1:] ** 2).mean()) < 1.3 * whole


def test_reading_takes_nothing_of_what_learning_is_made_of(network, tmp_path):
    network.save(tmp_path / "w.pt")
    script = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from bluesky_edgestem.analysis.strain_autoencoder import StrainAutoencoder\n"
        f"StrainAutoencoder.load(Path({str(tmp_path / 'w.pt')!r})).read(np.ones((1, 80, 80), np.uint16))\n"
        "print([m for m in sys.modules if m.endswith(('learning', 'lattice_discovery')) or m == 'torch'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == "[]\n"


def test_frames_that_are_no_counts_are_refused(network):
    none = StrainAutoencoder.train(np.full((64, 80, 80), np.nan))
    assert not none.converged and none.why.startswith("0 frames hold electrons counted")
    with pytest.raises(TypeError, match="frames are complex64"):
        network.read(np.zeros((1, 80, 80), np.complex64))
    with pytest.raises(ValueError, match=r"needed is \(n, ny, nx\)"):
        StrainAutoencoder.train(np.zeros((80, 80), np.uint16))
    with pytest.raises(ValueError, match=r"frames are \(64, 64\) pixels; the autoencoder was trained on \(80, 80\)"):
        network.read(np.zeros((1, 64, 64), np.uint16))


def test_a_scan_without_a_lattice_does_not_converge():
    noise = np.random.default_rng(0).poisson(2.0, (64, 64, 64)).astype(np.uint16)
    network = StrainAutoencoder.train(noise)
    assert not network.converged
    assert network.why.startswith("no lattice of separate disks")
    with pytest.raises(ValueError, match="has no base pattern: no lattice"):
        network.read(noise)


def beyond_the_crystal(support):
    """Probabilities (80, 80) of vacuum, or with some of the electrons in the diffuse rings of a `support`."""
    away = np.hypot(*(np.indices((80, 80)) - 39.5))
    beam = np.clip(OPTICS.disk_radius + 0.5 - away, 0, 1)
    rings = 1 / (1 + (away / 6) ** 2) + 0.3 * np.exp(-0.5 * ((away - 16) / 4) ** 2)
    return diffraction.detected((1 - support) * beam / beam.sum() + support * rings / rings.sum(), OPTICS)


@pytest.mark.parametrize("support", [0.0, 0.4])
@pytest.mark.parametrize("dose", [1e3, 1e4, 1e5, 1e6])
def test_a_frame_beyond_the_crystal_is_flagged(network, support, dose):
    # At 10⁴ electrons, half of them were read as a crystal in some rotation before lattices were asked for evidence.
    counts = np.random.default_rng(8).poisson(dose * np.broadcast_to(beyond_the_crystal(support), (200, 80, 80)))
    readings = network.read(counts.astype(np.uint32))
    assert (readings.flagged != "").all()


@pytest.mark.parametrize(("beyond", "support"), [(96, 0.0), (288, 0.0), (96, 0.4)])
def test_a_scan_that_reaches_beyond_the_crystal_learns_of_the_crystal(scan, network, beyond, support):
    rng = np.random.default_rng(1)
    counts = rng.poisson(5e4 * scan[0]).astype(np.uint16)
    others = rng.poisson(5e4 * np.broadcast_to(beyond_the_crystal(support), (beyond, 80, 80))).astype(np.uint16)
    learned = StrainAutoencoder.train(np.concatenate([counts, others]), seed=3)
    assert learned.converged, learned.why
    assert learned.report["without_lattice"] == beyond
    readings, alone = learned.read(counts), network.read(counts)
    assert (readings.flagged == "").all()
    # As well as of the crystal alone; the first lattice, and with it the reference, is of another frame.
    assert abs(learned.report["modes"] - network.report["modes"]) <= 1
    assert np.median(readings.transform_sd) == pytest.approx(np.median(alone.transform_sd), rel=0.1)
    truth = scan[1]
    assert np.abs(errors(readings, truth)).mean() == pytest.approx(np.abs(errors(alone, truth)).mean(), rel=0.1)


def test_too_few_frames_do_not_converge():
    network = StrainAutoencoder.train(np.zeros((40, 64, 64), np.uint16))
    assert not network.converged
    assert network.why == "0 frames hold electrons counted, and no saturated pixel; 32 are needed"


def test_disks_that_agree_on_no_lattice_make_it_less_sure(network, held_out):
    rng = np.random.default_rng(9)
    patterns = held_out[0][:16]
    torn = patterns.copy()
    row, column = (n // 2 for n in patterns.shape[1:])
    for rows, columns in ((slice(row), slice(column)), (slice(row, None), slice(column, None))):
        part = torn[:, rows, columns]  # two quadrants are 0.4 pixels too high, which no map makes of a lattice
        torn[:, rows, columns] = 0.6 * part + 0.4 * np.roll(part, 1, axis=1)
    whole, apart = (network._encoded(network.base, rng.poisson(1e5 * p).astype(np.uint16))[4] for p in (patterns, torn))
    # Of some twenty disks: the mean of forty squared normal numbers is within 0.6 of 1 for 99 %.
    assert np.median(whole) / network.scatter == pytest.approx(1, abs=0.3)
    assert np.median(apart) / network.scatter > 2
    far = np.where(torn != patterns, np.roll(patterns, 2, axis=1), patterns)  # two pixels too high: no lattice at all
    readings = network.read(rng.poisson(1e5 * far).astype(np.uint16))
    assert all("disks on no lattice" in why or "not a pattern of this scan" in why for why in readings.flagged)


@pytest.mark.parametrize(("sd", "told"), [(0.0005, ""), (0.004, "disks on no lattice: they are 4.5 times")])
def test_disks_that_disagree_are_on_no_lattice_if_they_leave_the_map_unsure(network, sd, told):
    transform, centre = np.eye(2)[None], network.base.beam[None]
    doubts = network._doubts(
        network.base, np.array([1e5]), np.array([False]), transform, centre, sd**2 * np.eye(6)[None],
        np.array([1.0]), np.array([20.0]), np.array([5.0]),
    )  # fmt: skip
    (flag,) = flags(doubts)
    assert flag.startswith(told) and bool(flag) == bool(told)


def test_weights_read_back_read_the_same(network, held_out, tmp_path):
    counts = np.random.default_rng(8).poisson(1e4 * held_out[0][:4]).astype(np.uint16)
    network.save(tmp_path / "weights.strain")
    again = StrainAutoencoder.load(tmp_path / "weights.strain")
    assert again.report == network.report
    one, other = network.read(counts), again.read(counts)
    assert np.array_equal(one.transform, other.transform)
    assert np.array_equal(one.covariance, other.covariance)


def test_weights_that_are_damaged_are_refused(network, tmp_path):
    path = tmp_path / "weights.strain"
    network.save(path)
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    with pytest.raises(ValueError, match=r"weights\.strain: cut short or altered"):
        StrainAutoencoder.load(path)
    path.write_bytes(data.replace(b"EDGESTEM-STRAIN 4", b"EDGESTEM-STRAIN 9", 1))
    with pytest.raises(ValueError, match="format 9, this version reads format 4"):
        StrainAutoencoder.load(path)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="not a weights file of the strain autoencoder"):
        StrainAutoencoder.load(path)
    # What ships is of another network: whole, so that a reinstallation would not help.
    with pytest.raises(ValueError, match="not a weights file of the strain autoencoder; write it anew with"):
        StrainAutoencoder.load(SHIPPED / "crystal.pt")
    with pytest.raises(ValueError, match="No such file"):
        StrainAutoencoder.load(tmp_path / "none.strain")
