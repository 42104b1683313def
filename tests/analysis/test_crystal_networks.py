"""The crystal network reads thick crystals, says what it does not know, and refuses what is not its file."""

from __future__ import annotations

import subprocess
import sys
from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from crystal_cases import FOREIGN
from scipy.ndimage import gaussian_filter

from bluesky_edgestem.analysis import crystal_networks, crystals, disk_tables
from bluesky_edgestem.analysis.crystal_networks import CrystalNetwork
from bluesky_edgestem.analysis.crystal_search import search
from bluesky_edgestem.analysis.disk_patterns import compose
from bluesky_edgestem.analysis.materials import MATERIALS, material
from bluesky_edgestem.analysis.networks import DescriptorNetwork
from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.analysis.pretrained import pretrained
from bluesky_edgestem.analysis.projected_lattice import symmetry

STRAIN, ROTATION, LAYERS = (0.012, -0.008, 0.005), 0.2, 60
THICKNESS = LAYERS * material("SrTiO3").spacing / 10
OPTICS = Optics(energy_keV=200.0, semiangle_mrad=1.5, pixel_mrad=0.3, n_pixels=128, psf_px=0.6)
#: Indices of SrTiO3 by pixel.
FIRST = OPTICS.pixel_reciprocal * 3.905


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network():
    return CrystalNetwork.pretrained(device="cpu")


@pytest.fixture(scope="module")
def expected():
    """SrTiO3, 12 nm: counts of an electron, in all."""
    table = disk_tables.compute("SrTiO3", 200.0, (LAYERS,), 3.0, 0.5, 1.12)
    return gaussian_filter(compose(table, OPTICS, STRAIN, ROTATION, LAYERS), OPTICS.psf_px)


def counted(expected, dose, seed=0, n=2):
    return np.random.default_rng(seed).poisson(dose * expected, (n, 128, 128)).astype(np.uint16)


def test_a_thick_crystal_is_read_within_what_the_network_says_of_its_errors(network, expected) -> None:
    found = network.predict(counted(expected, 1e5), OPTICS)
    assert list(found.flagged) == ["", ""]
    assert list(found.phase) == ["SrTiO3"] * 2
    assert found.phases == ("Si", "SrTiO3")
    # Four standard deviations: eight numbers, and a chance of error of less than a thousandth.
    assert np.all(np.abs(found.strain - STRAIN) < 4 * found.strain_sd)
    assert np.all(np.abs(found.rotation - ROTATION) < 4 * found.rotation_sd)
    assert np.all(np.abs(found.thickness - THICKNESS) < 4 * found.thickness_sd)
    assert np.all(np.abs(found.centre) < 4 * found.centre_sd)
    assert np.all(found.strain_sd < 5e-3)


@pytest.mark.parametrize(("name", "layers"), [("Si", 60), ("SrTiO3", 60)])
def test_a_strained_crystal_of_many_electrons_is_no_foreign_one(network, name, layers) -> None:
    strain, rotation = np.array((0.028, -0.017, 0.013)), 0.2
    tensor, turn = crystals.strain_tensor(strain), crystals.rotation_matrix(rotation)
    # Its cell computed with all of the strain: the library has what strain does to a fill to first order.
    own = crystals.strain_vector(turn.T @ tensor @ turn)
    table = disk_tables.compute(name, 200.0, (layers,), 3.0, 0.5, 1.12, strain=own)
    grown = layers * np.linalg.det(np.eye(2) + tensor)
    sharp = compose(replace(table, layers=np.array([grown])), OPTICS, strain, rotation, grown, mistilt_mrad=(0.6, -0.4))
    found = network.predict(counted(gaussian_filter(sharp, OPTICS.psf_px), 1e6), OPTICS)
    assert list(found.flagged) == ["", ""]
    assert list(found.phase) == [name] * 2
    assert np.all(np.abs(found.strain - strain) < 4 * found.strain_sd)
    assert np.all(np.abs(found.rotation - rotation) < 4 * found.rotation_sd)
    assert np.all(np.abs(found.thickness - grown * material(name).spacing / 10) < 4 * found.thickness_sd)


def test_a_gap_between_modules_is_told(network, expected) -> None:
    frames = counted(expected, 1e5, n=2)
    frames[:, 70:73] = 0
    assert all(reason.startswith("a gap between the detector's") for reason in network.predict(frames, OPTICS).flagged)


def test_frames_that_hold_no_electrons_or_too_many_are_flagged(network, expected) -> None:
    frames = counted(expected, 1e5, n=3)
    frames[1] = 0
    frames[2, 64, 64] = 65535
    found = network.predict(frames, OPTICS)
    assert found.flagged[0] == ""
    assert found.flagged[1].startswith("no electrons")
    assert found.flagged[2].startswith("saturated")
    # Nothing but what was known beforehand.
    assert np.all(found.strain_sd[1:] > 0.02)
    assert np.isnan(found.thickness[1:]).all()


def test_a_pixel_that_is_no_number_is_flagged_and_spoils_no_other_frame(network, expected) -> None:
    frames = counted(expected, 1e5).astype(np.float32)
    alone = network.predict(frames[:1], OPTICS)
    frames[1, 3, 3] = np.nan
    found = network.predict(frames, OPTICS)
    assert found.flagged[1].startswith("no counts")
    assert np.isfinite(found.strain).all()
    # Single precision in another order.
    assert np.allclose(found.strain[0], alone.strain[0], atol=1e-5)


def unsure(found) -> np.ndarray:
    """Flagged, or with a strain so uncertain that nobody would use it."""
    return (found.flagged != "") | (found.strain_sd.max(1) > 5e-3)


@pytest.mark.parametrize("moved", [12, 58, 90])  # outside what it looks at, at the frame's edge, and off the detector
def test_a_beam_far_off_or_beside_the_detector_is_flagged_or_uncertain(network, expected, moved) -> None:
    away = np.zeros_like(expected)
    away[:, : 128 - moved] = expected[:, moved:]
    assert unsure(network.predict(counted(away, 1e5), OPTICS)).all()


def test_noise_without_a_crystal_is_flagged_or_uncertain(network) -> None:
    assert unsure(network.predict(counted(np.full((128, 128), 128.0**-2), 1e5), OPTICS)).all()


@pytest.mark.parametrize("factor", [0.9, 0.93, 1.07, 1.2])
def test_a_calibration_that_is_far_off_is_flagged_or_uncertain(network, expected, factor) -> None:
    # Up to 4.5 % it is a strain like any other.
    for semiangle in (1.5, 1.5 * factor):
        wrong = replace(OPTICS, semiangle_mrad=semiangle, pixel_mrad=0.3 * factor)
        assert unsure(network.predict(counted(expected, 1e5), wrong)).all()


def of_material(name: str) -> np.ndarray:
    """Patterns (6, 128, 128) of a crystal, counts of an electron in all."""
    layers = [2 * round(material(name).layers(t) / 2) for t in (8.0, 12.0, 20.0)]
    table = disk_tables.compute(name, 200.0, layers, 3.0, 0.5, 1.12)
    strains = ((0.003, 0.0, 0.002), (-0.002, 0.004, 0.0))
    sharp = [compose(table, OPTICS, strains[i], (0.1, 0.5)[i], n) for i in range(2) for n in layers]
    return np.array([gaussian_filter(pattern, OPTICS.psf_px) for pattern in sharp])


def test_a_lattice_that_no_strain_explains_is_no_evidence_of_its_material(network) -> None:
    # As SrTiO3 these would be strained by a third; at 1e4 electrons half of them were taken for that, and flagged.
    frames = np.random.default_rng(3).poisson(1e4 * of_material("Si")).astype(np.uint16)
    found = network.predict(frames, OPTICS)
    assert list(found.flagged) == [""] * 6
    assert list(found.phase) == ["Si"] * 6


@pytest.fixture
def foreign(monkeypatch):
    for crystal in FOREIGN.values():
        monkeypatch.setitem(MATERIALS, crystal.name, crystal)


@pytest.mark.parametrize("dose", [1e4, 1e5])
@pytest.mark.parametrize(
    ("name", "among"),
    [("Au", ("Si", "SrTiO3")), ("Si", ("SrTiO3",)), ("SrTiO3", ("Si",)), ("NaCl", ("Si",)), ("GaAs", ("SrTiO3",))],
)
def test_a_crystal_of_another_material_is_flagged(network, foreign, name, among, dose) -> None:
    frames = np.random.default_rng(2).poisson(dose * of_material(name)).astype(np.uint16)
    told = copy(network).restricted(among).predict(frames, OPTICS)
    assert (told.flagged != "").all()
    assert (told.strain_sd.max(1) > 0.02).all()
    assert np.allclose(told.phase_probability, 1 / len(among))


@pytest.mark.parametrize(("name", "like"), [("NaCl", "SrTiO3"), ("GaAs", "Si")])
def test_a_crystal_whose_lattice_is_like_a_supposed_one_is_flagged_or_uncertain(network, foreign, name, like) -> None:
    frames = np.random.default_rng(2).poisson(1e5 * of_material(name)).astype(np.uint16)
    assert unsure(copy(network).restricted((like,)).predict(frames, OPTICS)).all()


def test_disks_of_another_crystal_on_the_lattice_are_flagged_whatever_the_network_says(network, expected) -> None:
    # The same lattice, each second diagonal of disks gone: face-centred, as rock salt of that size would show.
    turn = np.array([[np.cos(ROTATION), np.sin(ROTATION)], [-np.sin(ROTATION), np.cos(ROTATION)]])
    place = np.stack(np.meshgrid(np.arange(128), np.arange(128), indexing="xy"), -1) - 63.5
    stretch = np.array([[1 + STRAIN[0], STRAIN[2]], [STRAIN[2], 1 + STRAIN[1]]])
    index = np.round(place @ stretch @ turn.T * FIRST)
    frames = counted(expected * (index.sum(-1) % 2 == 0), 1e5)
    found = network.predict(frames, OPTICS)
    assert all("not a crystal of Si or SrTiO3" in reason for reason in found.flagged)
    assert np.all(network.suspicion(frames, OPTICS) > 1)
    assert np.all(network.suspicion(counted(expected, 1e5), OPTICS) < 1)


def test_more_suspicion_than_one_is_what_is_flagged(network, expected) -> None:
    frames = counted(expected, 1e5)[[0] * 4].astype(np.float32)
    frames[1] = 0
    frames[2, 5, 5] = np.nan
    frames[3] = frames[3].ravel()[np.random.default_rng(1).permutation(frames[3].size)].reshape(frames[3].shape)
    suspicion = network.suspicion(frames, OPTICS)
    assert ((suspicion > 1) == (network.predict(frames, OPTICS).flagged != "")).all()
    assert suspicion[0] < 1 and np.isinf(suspicion[1:3]).all() and suspicion[3] > 1
    assert network.suspicion(frames[:0], OPTICS).shape == (0,)


def test_without_the_likelihood_the_network_speaks_alone(network, expected) -> None:
    frames = counted(expected, 1e5, n=1)
    both = network.predict(frames, OPTICS)
    network.refines = False
    try:
        alone = network.predict(frames, OPTICS)
    finally:
        network.refines = True
    # It knows thickness roughly, and says so.
    assert alone.thickness_sd[0] > 3 * both.thickness_sd[0]
    assert abs(both.thickness[0] - THICKNESS) < 0.8
    # An energy that the library has no disks for.
    other = Optics(energy_keV=190.0, semiangle_mrad=1.5, pixel_mrad=0.3, n_pixels=128, psf_px=0.6)
    assert network.predict(frames, other).thickness_sd[0] > 3 * both.thickness_sd[0]


def test_the_search_finds_lattice_and_beam(network, expected) -> None:
    counts = torch.tensor(counted(expected, 1e5).astype(np.float32))
    beams = network.beams(OPTICS, "SrTiO3", len(counts))
    lattice, _ = search(counts, beams, symmetry(material("SrTiO3")))
    turn = torch.linalg.inv(lattice.turn @ lattice.affine).transpose(1, 2)
    truth = np.array([[1.012, 0.005], [0.005, 0.992]]) @ np.array(
        [[np.cos(ROTATION), -np.sin(ROTATION)], [np.sin(ROTATION), np.cos(ROTATION)]]
    )
    # Modulo quarter turns; within the network's reach, which is a disk's radius at the furthest reflections.
    quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
    off = [np.abs(turn.numpy() - truth @ np.linalg.matrix_power(quarter, k)).max((1, 2)) for k in range(4)]
    assert np.all(np.min(off, axis=0) < 0.03)
    assert np.allclose(lattice.centre.numpy(), 63.5, atol=1.0)


def test_weights_that_are_written_are_read_again(network, tmp_path, expected) -> None:
    path = tmp_path / "crystal.pt"
    network.save(path, {"seed": 3})
    again = pretrained(path)
    assert isinstance(again, CrystalNetwork)
    assert again.card == {"seed": 3}
    assert again.among == ("Si", "SrTiO3")
    frames = counted(expected, 1e5, n=1)
    assert np.array_equal(again.predict(frames, OPTICS).strain, network.predict(frames, OPTICS).strain)


def test_a_file_says_itself_which_network_it_is_of() -> None:
    assert isinstance(pretrained(), DescriptorNetwork)
    assert isinstance(pretrained(str(crystal_networks.SHIPPED)), CrystalNetwork)


def test_files_that_are_no_weights_of_this_version_are_refused(tmp_path) -> None:
    whole = crystal_networks.SHIPPED.read_bytes()
    header, _, data = whole.partition(b"\n")
    for content, reason in (
        (whole[:-1000], "cut short or altered"),
        (header.replace(b" 1 ", b" 9 ") + b"\n" + data, "format 9, this version reads format 1"),
        (b"nothing of the kind", "not a weights file"),
    ):
        path = tmp_path / "broken.pt"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=reason):
            pretrained(path)
    with pytest.raises(ValueError, match="No such file"):
        pretrained(tmp_path / "missing.pt")


def test_optics_and_frames_that_cannot_be_read_are_refused(network) -> None:
    with pytest.raises(ValueError, match="touch"):
        network.check_optics(Optics(energy_keV=200.0, semiangle_mrad=5.0, pixel_mrad=0.3, n_pixels=128))
    with pytest.raises(ValueError, match=r"need \(any, 128, 128\)"):
        network.predict(np.zeros((1, 64, 64), np.uint16), OPTICS)
    with pytest.raises(TypeError, match="electrons counted"):
        network.predict(np.zeros((1, 128, 128), bool), OPTICS)
    with pytest.raises(ValueError, match="gold is not among"):
        network.restricted(["gold"])


def test_reading_imports_nothing_that_trains() -> None:
    code = (
        "import sys\n"
        "from bluesky_edgestem.analysis.crystal_networks import CrystalNetwork\n"
        "CrystalNetwork.pretrained()\n"
        "ours = {n.split('.')[-1] for n in sys.modules if n.startswith('bluesky_edgestem')}\n"
        "print(*ours & {'crystal_training', 'crystal_supply', 'crystal_losses', 'crystal_scoring', 'averaging'})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


def test_floating_point_that_holds_no_counts_is_flagged(network, expected) -> None:
    counts = counted(expected, 1e5).astype(np.float32)
    scaled = network.predict(np.concatenate([counts[:1], 1.7 * counts[1:]]), OPTICS)
    assert scaled.flagged[0] == "" and scaled.flagged[1].startswith(
        "no counts: a pixel is negative, not a whole number"
    )
