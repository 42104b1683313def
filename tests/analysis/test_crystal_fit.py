"""The likelihood of a thick crystal's pattern: its derivatives, its maximum, and what it leaves of another crystal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bluesky_edgestem.analysis import crystals, disk_store, disk_tables
from bluesky_edgestem.analysis.crystal_fit import climbed, fitted, seen_pixels
from bluesky_edgestem.analysis.crystal_misfit import misfit
from bluesky_edgestem.analysis.crystal_networks import SHIPPED, CrystalNetwork
from bluesky_edgestem.analysis.crystal_refinement import choose, excess, refined
from bluesky_edgestem.analysis.diffraction import detected
from bluesky_edgestem.analysis.disk_patterns import compose
from bluesky_edgestem.analysis.disk_rates import UNKNOWNS, CrystalState, rates
from bluesky_edgestem.analysis.disk_rendering import render
from bluesky_edgestem.analysis.lattice_view import Lattice, moved, rotations
from bluesky_edgestem.analysis.materials import material
from bluesky_edgestem.analysis.optics import Optics

OPTICS = Optics(energy_keV=200.0, semiangle_mrad=1.5, pixel_mrad=0.3, n_pixels=128, psf_px=0.6)
STRAIN, ROTATION, LAYERS, TILT = (0.01, -0.006, 0.004), 0.3, 61.0, (0.02, -0.01)
DEFORMATION = torch.tensor(crystals.deformation(np.array(STRAIN), ROTATION), dtype=torch.float32)[None]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def table():
    found = disk_store.table("SrTiO3", 200.0)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def beams():
    return CrystalNetwork(["SrTiO3"]).beams(OPTICS, "SrTiO3", 1)


@pytest.fixture(scope="module")
def truth() -> CrystalState:
    lattice = Lattice.of(DEFORMATION, rotations(torch.tensor([ROTATION])), torch.tensor([[64.2, 62.9]]))
    one = torch.ones(1)
    # The mistilt's axes are the crystal's.
    tilt = torch.tensor([TILT]) @ DEFORMATION[0]
    return CrystalState(lattice, one * LAYERS, tilt, 8e4 * one, 2e4 * one, 0.1 * one, 0.36 * one)


@pytest.fixture(scope="module")
def counts(table, beams, truth):
    expected, _, _ = rates(table, 128, beams, truth)
    return torch.poisson(expected.reshape(1, 128, 128), torch.Generator().manual_seed(1))


def test_expected_counts_are_those_that_training_renders(table, beams, truth) -> None:
    state = replace(truth, spread=torch.full((1,), 1e-4), background=torch.full((1,), 1e-9))
    got, _, _ = rates(table, 128, beams, state)
    cutoff, pixel = OPTICS.semiangle_mrad * 1e-3 / OPTICS.wavelength, OPTICS.pixel_reciprocal
    wanted = render(
        table, 128, DEFORMATION, LAYERS * torch.linalg.det(DEFORMATION), truth.lattice.centre - 63.5,
        torch.tensor([TILT]), torch.eye(2)[None], torch.tensor([cutoff]), torch.tensor([pixel]),
    )[0]  # fmt: skip
    share = (got[0] / state.disks - wanted.flatten()).abs().sum() / wanted.sum()
    # The aperture's edge crosses pixels that one softens and the other samples.
    assert share < 0.03
    assert float(got.sum() / state.disks) == pytest.approx(float(wanted.sum()), rel=5e-3)


def test_slopes_are_those_of_differences(table, beams, truth) -> None:
    _, slopes, _ = rates(table, 128, beams, truth)
    steps = [0.02] * 4 + [0.02] * 2 + [0.2, 1e-3, 1e-3, 1.0, 1.0, 1e-3, 2e-3]

    def at(number: int, by: float):
        unknowns = torch.zeros(1, UNKNOWNS)
        unknowns[0, number] = by
        state = CrystalState(
            moved(beams, truth.lattice, unknowns[:, :6]),
            truth.layers + unknowns[:, 6],
            truth.tilt + unknowns[:, 7:9],
            truth.disks + unknowns[:, 9],
            truth.background + unknowns[:, 10],
            truth.log_width + unknowns[:, 11],
            truth.spread + unknowns[:, 12],
        )
        return rates(table, 128, beams, state)[0][0].double()

    for number, step in enumerate(steps):
        wanted = (at(number, step) - at(number, -step)) / (2 * step)
        off = (slopes[0, number] - wanted).norm() / wanted.norm()
        # The wider point spread is a Laplacian on pixels, to a third: enough to climb by, and nobody reads it.
        assert off < (0.4 if number == 12 else 0.05), (number, float(off))


def test_the_likelihood_finds_strain_thickness_and_mistilt_from_a_rough_lattice(table, beams, truth, counts) -> None:
    rough = Lattice(truth.lattice.turn, truth.lattice.affine + 0.004, truth.lattice.centre + 0.2)
    said = refined(table, counts, beams, rough, 0.05)
    assert np.all(np.abs(said["strain"][0] - STRAIN) < 4 * np.sqrt(np.diag(said["covariance"][0])))
    thickness = LAYERS * float(torch.linalg.det(DEFORMATION)) * material("SrTiO3").spacing / 10
    assert abs(said["thickness"][0] - thickness) < 4 * said["thickness_sd"][0] < 1.0
    assert np.all(np.abs(said["centre"][0] - (0.7, -0.6)) < 4 * said["centre_sd"][0])
    # Noise and nothing else is left.
    assert abs(said["misfit"][0] - 1) < 4 * said["misfit_sd"][0] + 0.05
    assert excess(said)[0] < 1


def test_a_step_never_lowers_the_likelihood(table, beams, truth, counts) -> None:
    off = replace(truth, layers=truth.layers + 12, tilt=truth.tilt + 0.03)
    seen = seen_pixels(counts)
    heights = [float(climbed(table, counts, seen, beams, off, steps).height) for steps in (0, 2, 4)]
    assert heights[0] < heights[1] <= heights[2]


def test_another_crystals_disks_on_the_same_lattice_do_not_fit(table, beams, truth) -> None:
    # Every reflection has the fill of another of the same length: a lattice alone cannot tell.
    other = replace(table, intensity=table.intensity.flip(1))
    expected, _, _ = rates(other, 128, beams, truth)
    # As many electrons in all.
    expected = expected * 1e5 / expected.sum()
    strange = torch.poisson(expected.reshape(1, 128, 128), torch.Generator().manual_seed(2))
    seen = seen_pixels(strange)
    mean, sd = misfit(strange, seen, fitted(table, strange, seen, beams, truth.lattice), float(beams.radius[0]))
    assert excess({"misfit": mean.numpy(), "misfit_sd": sd.numpy()})[0] > 2


def test_disks_beyond_the_tables_largest_reflection_count_for_nothing() -> None:
    optics = replace(OPTICS, pixel_mrad=0.36)  # the frame's edge is 0.92 1/Å from the beam, its corners 1.3
    full = disk_tables.compute("SrTiO3", 200.0, [74, 76, 78, 80], 2.4, step_mrad=0.4, g_max=1.35)
    corner = detected(compose(full, optics, [0.004, 0.0, 0.0], 0.3, 77.0), optics)
    counts = np.random.default_rng(2).poisson(1e5 * corner, (4, 128, 128)).astype(np.uint16)
    network = CrystalNetwork.pretrained(SHIPPED)
    assert list(network.predict(counts, optics).flagged) == [""] * 4
    assert (network.suspicion(counts, optics) < 1).all()


def test_a_dead_pixel_is_one_whose_neighbours_all_count() -> None:
    counts = torch.zeros(1, 9, 9)
    counts[:, :, :6] = 50.0
    counts[0, 4, 3] = 0
    seen = seen_pixels(counts)
    assert seen[0, 4, 3] == 0
    # Beside the bright part nothing is expected: those that count nothing there work.
    assert seen.sum() == 80


def test_what_does_not_fit_is_supposed_to_be_the_next_material() -> None:
    said = {"strain": np.zeros((2, 3)), "genuine": np.ones(2)}
    first, second = said | {"evidence": np.array([3.0, 3.0])}, said | {"evidence": np.array([1.0, 1.0])}
    misfits = {0: np.array([1.0, 9.0]), 1: np.array([9.0, 1.0])}
    asked = []

    def refine(number: int, which: np.ndarray):
        asked.append((number, list(which)))
        strain = np.full((len(which), 3), number / 100)
        return {"strain": strain, "misfit": misfits[number][which], "misfit_sd": np.full(len(which), 0.05)}

    chosen, best, probability = choose([first, second], refine, np.ones(2, bool))
    assert asked == [(0, [0, 1]), (1, [1])]
    assert list(best) == [0, 1] and list(probability.argmax(1)) == [0, 1]
    assert chosen["strain"][1, 0] == 0.01
    assert np.allclose(chosen["misfit"], 1.0)


def test_a_material_whose_strain_is_beyond_reason_is_not_taken_for_its_evidence() -> None:
    far = {"strain": np.full((1, 3), 0.3), "genuine": np.ones(1), "evidence": np.array([5.0])}
    near = {"strain": np.full((1, 3), 0.01), "genuine": np.ones(1), "evidence": np.array([1.0])}
    chosen, best, _ = choose([far, near], lambda number, which: None, np.ones(1, bool))
    assert list(best) == [1]
    assert np.isnan(chosen["misfit"]).all()
