"""Diffuse electrons are as many as the table says, and lie as frozen phonons have them."""

import numpy as np
import pytest
from scipy.integrate import trapezoid

from bluesky_edgestem.analysis import diffraction, diffuse_scattering, disk_tables, materials
from bluesky_edgestem.analysis.optics import Optics

OPTICS = Optics(200.0, 2.2, 0.8, 64)


@pytest.fixture(scope="module")
def silicon():
    return disk_tables.compute("Si", 200.0, [12, 16], 0.5, step_mrad=0.5, g_max=0.4)


def test_every_diffuse_electron_is_somewhere():
    q = np.linspace(0, diffuse_scattering.WIDEST, 2000)
    for name in materials.MATERIALS:
        density = diffuse_scattering.angular_distribution(name, q)
        assert trapezoid(2 * np.pi * q * density, q) == pytest.approx(1.0, abs=1e-3)
        assert density[0] == 0  # an atom that moves leaves the forward beam's phase alone


def test_the_pattern_follows_thickness_and_beam(silicon):
    middle = silicon.diffuse.shape[-1] // 2
    thin, thick = (diffuse_scattering.diffuse_pattern(silicon, OPTICS, n) for n in (12, 16))
    assert thick.sum() / thin.sum() == pytest.approx(np.divide(*silicon.diffuse[::-1, middle, middle]), rel=1e-5)
    moved = diffuse_scattering.diffuse_pattern(silicon, OPTICS, 12, (3.0, -2.0))
    assert moved[8:-8, 8:-8] == pytest.approx(np.roll(thin, (-2, 3), (0, 1))[8:-8, 8:-8], rel=1e-5)


def test_between_disks_frozen_phonons_put_as_much(silicon):
    crystal, layers = materials.material("Si"), 14
    atoms = materials.patch("Si", np.zeros(3), 0.0, diffraction.patch_extent(OPTICS), layers, (0.2, 0.3))
    drawn, at_rest = (
        diffraction.cbed(atoms, OPTICS, ensemble=ensemble, slice_thickness=crystal.spacing, reach=3.0)
        for ensemble in (diffraction.Ensemble(4, 1, crystal.displacements), diffraction.STILL)
    )
    y, x = np.indices(drawn.shape)
    between = np.ones(drawn.shape, bool)
    for at in disk_tables.reflections_within(crystal, 2.3) @ crystal.reciprocal / OPTICS.pixel_reciprocal + 31.5:
        between &= np.hypot(x - at[0], y - at[1]) > OPTICS.disk_radius + 1.6
    expected = diffuse_scattering.diffuse_pattern(silicon, OPTICS, layers)
    # What thermal motion adds to the tails of the disks' edges. Four configurations know it to a tenth or two, and the
    # table counts losses beyond 4 1/Å as diffuse.
    assert expected[between].mean() / (drawn - at_rest)[between].mean() == pytest.approx(1.2, abs=0.4)
