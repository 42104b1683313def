"""Disks' places give the lattice back."""

import numpy as np
import pytest
import torch

from bluesky_edgestem.analysis import crystals
from bluesky_edgestem.analysis.crystal_networks import CrystalNetwork
from bluesky_edgestem.analysis.lattice_view import PRIOR_SD, Lattice, difference, moved, rotations, solve, strain_of
from bluesky_edgestem.analysis.optics import Optics

STRAIN, ROTATION = np.array([[0.02, -0.015, 0.01], [-0.01, 0.005, -0.02]]), np.array([0.4, -0.2])
OPTICS = Optics(200.0, 2.0, 0.3)


@pytest.fixture
def beams():
    network = CrystalNetwork(["SrTiO3"])
    network.distortion = np.array([[1.01, 0.003], [0.003, 0.99]])
    return network.beams(OPTICS, "SrTiO3", 2)


def lattice(strain, rotation, turn, centre=((63.0, 64.5), (62.2, 63.1))):
    deformation = torch.tensor(crystals.deformation(strain, rotation), dtype=torch.float32)
    return Lattice.of(deformation, rotations(torch.tensor(turn, dtype=torch.float32)), torch.tensor(centre))


def test_strain_and_rotation_of_a_lattice_do_not_depend_on_where_it_is_seen_from():
    for turn in (ROTATION, ROTATION + 0.05):
        strain, rotation, _ = strain_of(lattice(STRAIN, ROTATION, turn), torch.zeros(2, 6, 6))
        assert strain.numpy() == pytest.approx(STRAIN, abs=1e-6)
        assert rotation.numpy() == pytest.approx(ROTATION, abs=1e-6)


def test_places_are_those_of_strained_reflections(beams):
    at = lattice(STRAIN, ROTATION, ROTATION)
    f = crystals.deformation(STRAIN, ROTATION)
    g = beams.spots.numpy() @ np.linalg.inv(f)
    wanted = g @ beams.distortion.numpy().swapaxes(1, 2) / OPTICS.pixel_reciprocal + at.centre.numpy()[:, None]
    assert at.places(beams).numpy() == pytest.approx(wanted, abs=1e-3)


def test_exact_displacements_lead_to_the_lattice(beams):
    truth = lattice(STRAIN, ROTATION, ROTATION)
    guess = lattice(np.zeros((2, 3)), ROTATION, ROTATION, ((63.5, 63.5), (63.5, 63.5)))
    back = torch.linalg.inv(beams.distortion @ guess.turn).transpose(1, 2)
    displacement = (truth.places(beams) - guess.places(beams)) @ back
    precision = 1e6 * beams.listed[..., None, None] * torch.eye(2)
    unknowns, covariance = solve(beams, guess, displacement, precision)
    assert unknowns.numpy() == pytest.approx(difference(beams, guess, truth).numpy(), abs=1e-3)
    strain, rotation, spread = strain_of(moved(beams, guess, unknowns), covariance)
    assert strain.numpy() == pytest.approx(STRAIN, abs=3e-5)
    assert rotation.numpy() == pytest.approx(ROTATION, abs=3e-5)
    assert (spread.diagonal(dim1=1, dim2=2).sqrt() < 1e-4).all()


def test_without_disks_the_strain_is_what_was_known_beforehand(beams):
    guess = lattice(STRAIN, np.zeros(2), np.zeros(2))
    nothing = torch.zeros_like(beams.spots)
    unknowns, covariance = solve(beams, guess, nothing, torch.zeros(*nothing.shape, 2))
    strain, _, spread = strain_of(moved(beams, guess, unknowns), covariance)
    # To first order in the strain, of 2 %.
    assert strain.numpy() == pytest.approx(0, abs=1e-3)
    assert spread[:, [0, 1, 2], [0, 1, 2]].sqrt().numpy() == pytest.approx(PRIOR_SD[0], rel=0.1)


def test_stated_uncertainty_is_the_scatter(beams):
    rng = np.random.default_rng(0)
    truth = lattice(STRAIN, ROTATION, ROTATION)
    one = type(beams)(**{k: getattr(beams, k)[:1].expand(4000, *getattr(beams, k).shape[1:]) for k in beams.__dict__})
    many = Lattice(*(v[:1].expand(4000, *v.shape[1:]) for v in (truth.turn, truth.affine, truth.centre)))
    displacement = torch.tensor(rng.normal(0, 0.1, one.spots.shape), dtype=torch.float32)
    precision = 100 * one.listed[..., None, None] * torch.eye(2)
    unknowns, covariance = solve(one, many, displacement, precision)
    strain, _, spread = strain_of(moved(one, many, unknowns), covariance)
    ratio = strain.std(0) / spread[0, [0, 1, 2], [0, 1, 2]].sqrt()
    # A standard deviation of 4000 draws is known to 1.1 %; four times that, and the first order in strain.
    assert ratio.numpy() == pytest.approx(1, abs=0.06)
