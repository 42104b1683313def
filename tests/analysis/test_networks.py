"""The shipped descriptor network on patterns that it has not seen, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bluesky_edgestem.analysis import crystals
from bluesky_edgestem.analysis.cramer_rao import bound, pattern_information
from bluesky_edgestem.analysis.diffraction import cbed, counted, detected, patch_extent
from bluesky_edgestem.analysis.networks import SHIPPED, DescriptorNetwork, pooled
from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.sim.specimen import Heterojunction

OPTICS = Optics()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network() -> DescriptorNetwork:
    return DescriptorNetwork.pretrained()


def expected(strain, rotation, formula="MoS2", optics=OPTICS, shift=(0.0, 0.0)) -> np.ndarray:
    """Noise-free pattern (n, n) of a uniform monolayer."""
    atoms = crystals.monolayer_atoms(
        strain, rotation, patch_extent(optics), lambda p: np.full(len(p), formula), origin=(0.3, 0.1)
    )
    return detected(cbed(atoms, optics, shift), optics, shift)


def frames(patterns, dose: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([counted(p, dose, rng) for p in patterns])


def test_weights_are_small_and_say_what_made_them(network):
    assert SHIPPED.stat().st_size < 5e6
    assert network.card["command"].startswith("edgestem train descriptors")
    assert SHIPPED.with_suffix(".md").read_text().startswith("# Descriptor network: card")


@pytest.mark.parametrize(
    "optics", [OPTICS, Optics(200.0, 1.4, 0.32, background=0.08), Optics(300.0, 1.2, 0.25, psf_px=0.45)]
)
def test_signs_of_strain_and_rotation_on_every_beam(network, optics):
    """Positive exx is a lattice stretched along x; positive rotation is counter-clockwise; axes as in `crystals`."""
    cases = [((0.03, 0.0, 0.0), 0.0), ((0.0, 0.02, 0.0), 0.2), ((0.0, 0.0, 0.015), -0.3), ((-0.02, 0.01, 0.01), 0.4)]
    read = network.predict(frames([expected(s, r, optics=optics) for s, r in cases], 2e6), optics)
    assert list(read.flagged) == [""] * 4
    assert read.strain == pytest.approx(np.array([s for s, _ in cases]), abs=4e-3)
    assert read.rotation == pytest.approx(np.array([r for _, r in cases]), abs=3e-3)


def test_a_lattice_stretched_along_x_has_its_spots_nearer_along_x():
    """Not of the network but of the convention that it is trained in."""
    columns = np.arange(128) - 63.5
    wide = [
        np.sqrt((expected(s, 0.0)[:, :] * columns**2)[:, np.abs(columns) > 10].sum()) for s in ((0, 0, 0), (0.04, 0, 0))
    ]
    assert wide[1] < wide[0]


def test_turning_the_specimen_turns_the_strain(network):
    turn, strain = np.pi / 6, np.array([0.03, -0.01, 0.005])
    matrix = crystals.rotation_matrix(turn)
    turned = crystals.strain_vector(matrix @ crystals.strain_tensor(strain) @ matrix.T)
    read = network.predict(frames([expected(strain, 0.1), expected(turned, 0.1 + turn)], 1e6), OPTICS)
    sense = crystals.strain_vector(matrix @ crystals.strain_tensor(read.strain[0]) @ matrix.T)
    assert sense == pytest.approx(read.strain[1], abs=5 * read.strain_sd.max())
    assert read.rotation == pytest.approx(
        crystals.wrap_rotation(np.array([0.1, 0.1 + turn])), abs=5 * read.rotation_sd.max()
    )


def test_a_beam_off_centre_changes_nothing(network):
    strain = (0.02, 0.01, -0.01)
    patterns = [expected(strain, 0.15, "WS2", shift=shift) for shift in ((0.0, 0.0), (1.7, -1.3), (-1.9, 0.4))]
    read = network.predict(frames(patterns, 1e6), OPTICS)
    assert (np.abs(read.strain - strain) < 5 * read.strain_sd).all()
    assert list(read.phase) == ["WS2"] * 3


@pytest.mark.parametrize("dose", [1e3, 1e4, 1e6])
def test_the_beam_centre_is_told_with_what_it_is_off_by(network, dose):
    rng = np.random.default_rng(4)
    shift = rng.uniform(-2, 2, (10, 2))
    strain = rng.uniform(-0.03, 0.03, (10, 3))
    patterns = [expected(e, 0.3, shift=tuple(s)) for e, s in zip(strain, shift, strict=True)]
    read = network.predict(frames(patterns * 10, dose), OPTICS)
    known = read.flagged == ""
    off = (read.centre - np.tile(shift, (10, 1)))[known] / read.centre_sd[known]
    # Ten draws of each of twenty coordinates: with many electrons the errors left are those of the twenty alone.
    assert 0.6 < np.sqrt((off**2).mean()) < 1.4
    assert (read.centre_sd[known] < {1e3: 0.1, 1e4: 0.04, 1e6: 0.015}[dose]).all()


@pytest.mark.parametrize("columns", [slice(84, 96), slice(88, 92)])
def test_a_gap_between_modules_that_is_zero_misleads_neither_strain_nor_phase(network, columns):
    # 12 columns made MoS2 of WS2, and 4 of them a shear of two standard deviations, before they were left out.
    optics = Optics(80.0, 2.0, 0.5, background=0.05)
    strain, frames = np.array([0.01, -0.005, 0.004]), {}
    for phase in ("MoS2", "WS2"):
        atoms = crystals.monolayer_atoms(
            strain, 0.1, patch_extent(optics), lambda p, phase=phase: np.full(len(p), phase)
        )
        expected = detected(cbed(atoms, optics), optics)
        frames[phase] = np.random.default_rng(1).poisson(1e5 * expected, (64, 128, 128)).astype(np.uint16)
    for phase, seen in frames.items():
        seen[:, :, columns] = 0
        read = network.predict(seen, optics)
        assert (read.flagged == "").all() and (read.phase == phase).all()
        # All 64 have one truth, and one systematic error: 95 % of 192 within 4 %.
        assert (np.abs(read.strain - strain) < 1.96 * read.strain_sd).mean() > 0.91
    seen[:, 62:66] = 0
    assert all("hides much of the direct beam" in reason for reason in network.predict(seen, optics).flagged)


def test_both_phases_under_the_beam_leave_strain_and_rotation_as_they_are(network):
    strain, rotation = np.array([0.015, -0.01, 0.005]), 0.2
    patterns = []
    for offset in (-8.0, -3.0, 3.0, 8.0):  # of the interface from the beam's axis [Å]
        atoms = crystals.monolayer_atoms(
            strain, rotation, patch_extent(OPTICS), lambda p, x=offset: np.where(p[:, 0] < x, "MoS2", "WS2")
        )
        patterns.append(detected(cbed(atoms, OPTICS), OPTICS))
    read = network.predict(frames(patterns, 5e5), OPTICS)
    assert list(read.flagged) == [""] * 4
    assert list(read.phase) == ["WS2", "WS2", "MoS2", "MoS2"]
    assert (np.abs(read.strain - strain) < 5 * read.strain_sd).all()
    assert read.rotation == pytest.approx(rotation, abs=4e-3)


@pytest.mark.parametrize("dose", [1e4, 1e5])
def test_errors_on_an_unseen_specimen_are_near_the_bound(network, dose):
    specimen, rng = Heterojunction(7001), np.random.default_rng(1)
    where = rng.uniform(-45, 45, (10, 2))
    patterns = [detected(cbed(specimen.atoms(p, patch_extent(OPTICS), rng), OPTICS), OPTICS) for p in where]
    repeats = 12
    read = network.predict(frames(patterns * repeats, dose), OPTICS)
    error = read.strain - np.tile(specimen.strain(where), (repeats, 1))
    variance = []
    for p in where[:4]:
        strain, rotation = specimen.strain(p)[0], float(specimen.rotation(p)[0])
        here = specimen.phase(p)[0]
        information = pattern_information(strain, rotation, lambda q, f=here: np.full(len(q), f), OPTICS)
        variance.append(np.diag(bound(information, dose))[:3])
    ratio = np.sqrt((error**2).mean() / np.mean(variance))
    assert ratio < 1.5
    inside = np.abs(error) < 1.96 * read.strain_sd
    assert 0.90 < inside.mean() < 0.985
    far = np.tile(np.abs(specimen._depth(where)) > 1.0, repeats)
    right = (read.phase == np.tile(specimen.phase(where), repeats))[far]
    assert right.mean() > (0.8 if dose < 5e4 else 0.99)


def test_what_it_cannot_read_is_flagged_with_a_wide_interval(network):
    good = expected((0.01, 0.0, 0.0), 0.1)
    rng = np.random.default_rng(0)
    empty = np.zeros((128, 128), np.uint16)
    sparse = counted(good, 100, rng)
    saturated = counted(good, 1e5, rng)
    saturated[64, 64] = 65535
    thick = good.copy()
    distance = np.hypot(*(np.mgrid[:128, :128] - 63.5))
    thick[distance > 10] *= 4
    other = np.where(distance < 8, good, 1e-6)  # an amorphous film
    stack = np.array(
        [empty, sparse, saturated, counted(thick, 1e5, rng), counted(other, 1e5, rng), counted(good, 1e5, rng)]
    )
    read = network.predict(stack, OPTICS)
    reasons = ["no electrons", "too few electrons", "saturated", "not a known phase", "not a known phase", ""]
    for said, reason in zip(read.flagged, reasons, strict=True):
        assert said.startswith(reason) and bool(said) == bool(reason)
    assert (read.strain_sd[:5] > 0.02).all() and (read.rotation_sd[:5] > 0.25).all()
    assert read.phase_probability[:5] == pytest.approx(0.5)
    assert (read.centre[:5] == 0).all() and (read.centre_sd[:5] > 1).all() and (read.centre_sd[5] < 0.03).all()
    assert np.isfinite(read.strain).all() and np.isfinite(read.covariance).all()
    assert (read.strain_sd[5] < 0.004).all()


@pytest.mark.parametrize("wrong", [0.9, 0.93, 1.07, 1.1])
def test_a_wrong_calibration_is_flagged(network, wrong):
    stack = frames([expected((0.01, 0.0, 0.0), 0.1), expected((-0.01, 0.0, 0.005), -0.3, "WS2")], 1e5)
    read = network.predict(stack, replace(OPTICS, pixel_mrad=wrong * OPTICS.pixel_mrad))
    assert all("the calibration is wrong" in reason or "not a known phase" in reason for reason in read.flagged)
    assert (read.strain_sd > 0.02).all() and (read.rotation_sd > 0.25).all()


def test_the_largest_strain_that_was_trained_for_is_read(network):
    read = network.predict(frames([expected((0.045, -0.045, 0.035), 0.2)] * 8, 1e5), OPTICS)
    assert list(read.flagged) == [""] * 8


def test_a_beam_off_the_detector_and_a_foreign_lattice_are_flagged(network):
    # A square lattice with the same disks, as bright, at the distance of the first order.
    spot = expected((0.0, 0.0, 0.0), 0.0)[56:72, 56:72]
    square = np.zeros((128, 128))
    for i in range(-2, 3):
        for j in range(-2, 3):
            square[56 + 28 * i :, 56 + 28 * j :][:16, :16] += spot * (1.0 if i == j == 0 else 0.02)
    stack = frames([expected((0.0, 0.0, 0.0), 0.1, shift=(70.0, 0.0)), square / square.sum()], 1e5)
    read = network.predict(stack, OPTICS)
    assert all(read.flagged)
    assert (read.strain_sd > 0.02).all() and (read.rotation_sd > 0.25).all()


def test_more_suspicion_than_one_is_what_is_flagged(network):
    own = [expected((0.01, 0.0, 0.0), 0.1), expected((0.0, 0.02, 0.0), 0.2)]
    away = expected((0.0, 0.0, 0.0), 0.1, shift=(70.0, 0.0))
    stack = frames([*own, away, np.zeros((128, 128))], 1e5)
    suspicion = network.suspicion(stack, OPTICS)
    assert ((suspicion > 1) == (network.predict(stack, OPTICS).flagged != "")).all()
    assert (suspicion[:2] < 1).all() and suspicion[2] > 1 and np.isinf(suspicion[3])
    # As much strain as was trained for makes a pattern no more suspicious.
    strained = frames([expected((0.04, -0.04, 0.0), 0.1), expected((0.0, 0.0, 0.0), 0.1)] * 4, 1e5)
    assert (network.suspicion(strained, OPTICS) < 0.5).all()
    assert network.suspicion(stack[:0], OPTICS).shape == (0,)


@pytest.mark.parametrize("dtype", [np.int16, np.int64, np.float32, np.float64])
def test_counts_of_other_types_are_read_and_what_is_none_is_flagged(network, dtype):
    stack = frames([expected((0.01, 0.0, 0.0), 0.1)] * 3, 1e5)
    other = stack.astype(dtype)
    other[1, 3, 4] = -1
    other[2, 3, 4] = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else np.nan
    read = network.predict(other, OPTICS)
    # Not the same to the last digit: frames beside it say what the background is.
    assert read.strain[0] == pytest.approx(network.predict(stack, OPTICS).strain[0], abs=0.2 * read.strain_sd.min())
    assert read.flagged[0] == "" and read.flagged[1].startswith("no counts")
    assert read.flagged[2].startswith("saturated" if np.issubdtype(dtype, np.integer) else "no counts")


@pytest.mark.parametrize("background", [0.02, 0.08])
def test_a_background_that_is_stated_wrongly_misleads_neither_strain_nor_phase(network, background):
    real, strain = replace(OPTICS, background=background), (0.02, -0.01, 0.005)
    patterns = [expected(strain, r, f, optics=real) for r in (0.1, -0.4) for f in ("MoS2", "WS2")] * 6
    read = network.predict(frames(patterns, 1e5), OPTICS)
    error = (read.strain - strain) / read.strain_sd
    assert np.sqrt((error**2).mean()) < 1.5 and (np.abs(error.mean(0)) < 0.7).all()
    assert list(read.phase) == ["MoS2", "WS2"] * 12


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_every_unsigned_type_reads_alike(network, dtype):
    stack = frames([expected((0.01, 0.0, 0.0), 0.1)], 1e4)
    if dtype is np.uint8:
        stack = np.minimum(stack, 254)
    read = network.predict(stack.astype(dtype), OPTICS)
    assert read.strain[0] == pytest.approx([0.01, 0.0, 0.0], abs=0.03)
    assert read.covariance.shape == (1, 3, 3) and read.phases == ("MoS2", "WS2")


def test_no_frames_are_no_descriptors(network):
    assert len(network.predict(np.zeros((0, 128, 128), np.uint16), OPTICS)) == 0


def test_company_tells_of_the_background_and_of_nothing_else(network):
    stack = frames([expected((0.01, 0.0, 0.0), r) for r in np.linspace(-0.4, 0.4, 5)], 1e5)
    together, alone = network.predict(stack, OPTICS), network.predict(stack[3:4], OPTICS)
    # By less than a tenth of the standard deviation: the background hardly moves a disk.
    assert np.abs(together.strain[3] - alone.strain[0]).max() < 0.1 * alone.strain_sd.min()
    backwards = network.predict(stack[::-1].copy(), OPTICS)
    assert backwards.strain[::-1] == pytest.approx(together.strain, abs=1e-5)
    assert backwards.phase_probability[::-1] == pytest.approx(together.phase_probability, abs=1e-4)


def test_backgrounds_are_pooled_as_far_as_they_agree():
    rng = np.random.default_rng(4)
    variances = torch.tensor(rng.uniform(0.5, 2.0, 400))
    noise = torch.tensor(rng.normal(size=400)) * variances.sqrt()
    alike = pooled(3.0 + noise, variances)
    # 400 measurements of variance about 1 tell their mean to 0.05; their spread is not told from 0 below about 0.3.
    assert (alike - 3.0).abs().max() < 0.5
    truth = torch.tensor(rng.normal(3.0, 2.0, 400))
    apart = pooled(truth + noise, variances)
    ideal = 3.0 + (truth + noise - 3.0) * 4 / (4 + variances)
    assert (apart - ideal).abs().max() < 0.5
    assert pooled(torch.tensor([0.7]), torch.tensor([0.1])) == pytest.approx(0.7)


def test_frames_and_optics_that_do_not_fit_are_refused(network):
    with pytest.raises(TypeError, match="frames are complex128; electrons counted are integers, or floating point"):
        network.predict(np.zeros((1, 128, 128), complex), OPTICS)
    with pytest.raises(
        ValueError, match=r"shape \(1, 64, 64\); these optics \(n_pixels = 128\) need \(any, 128, 128\)"
    ):
        network.predict(np.zeros((1, 64, 64), np.uint16), OPTICS)
    frame = np.zeros((1, 128, 128), np.uint16)
    with pytest.raises(ValueError, match=r"pixel_mrad = 2.0 .* choose pixel_mrad from 0\.\d+ to 0\.\d+"):
        network.predict(frame, replace(OPTICS, pixel_mrad=2.0))
    with pytest.raises(ValueError, match=r"semiangle_mrad = 9.0 .* separate disks: choose semiangle_mrad"):
        network.predict(frame, replace(OPTICS, semiangle_mrad=9.0))


def test_larger_frames_are_read_too(network):
    optics = Optics(n_pixels=192, pixel_mrad=0.34)
    strain = (0.02, -0.01, 0.01)
    read = network.predict(frames([expected(strain, 0.1, optics=optics)], 1e6), optics)
    assert read.strain[0] == pytest.approx(strain, abs=4e-3)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda b: b[: len(b) // 2], "cut short or altered"),
        (lambda b: b[:-100] + bytes(100), "cut short or altered"),
        (lambda b: b"PK" + b, "not a weights file"),
        (lambda b: b"", "not a weights file"),
        (lambda b: b.replace(b"DESCRIPTOR 2", b"DESCRIPTOR 9", 1), "format 9, this version reads format 2"),
    ],
)
def test_damaged_weights_are_one_clear_error(tmp_path, damage, says):
    path = tmp_path / "descriptor.pt"
    path.write_bytes(damage(SHIPPED.read_bytes()))
    with pytest.raises(ValueError, match=says) as refused:
        DescriptorNetwork.pretrained(path)
    assert str(path) in str(refused.value)


def test_weights_that_are_not_there_or_of_another_network_are_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.pt: No such file"):
        DescriptorNetwork.pretrained(tmp_path / "nowhere.pt")
    other = DescriptorNetwork()
    other.head = torch.nn.Sequential(torch.nn.Linear(3, 3))
    other.save(tmp_path / "other.pt", {})
    with pytest.raises(ValueError, match="of another network"):
        DescriptorNetwork.pretrained(tmp_path / "other.pt")


def test_weights_come_back_as_they_were_saved(network, tmp_path):
    network.save(tmp_path / "copy.pt", network.card)
    copy = DescriptorNetwork.pretrained(tmp_path / "copy.pt")
    assert copy.card == network.card
    assert all(torch.equal(v, copy.state_dict()[k]) for k, v in network.state_dict().items())
