"""Patterns put together from tables of disks are those that multislice of the strained atoms gives."""

from dataclasses import replace

import numpy as np
import pytest

from bluesky_edgestem.analysis import crystals, diffraction, disk_patterns, disk_tables, materials
from bluesky_edgestem.analysis.cramer_rao import central_differences, poisson_information
from bluesky_edgestem.analysis.optics import Optics

OPTICS = Optics(energy_keV=200.0, semiangle_mrad=2.2, pixel_mrad=0.6, n_pixels=48)
COARSE = Optics(energy_keV=200.0, semiangle_mrad=2.8, pixel_mrad=0.8, n_pixels=40)
STRAIN, ROTATION, MISTILT = np.array([0.015, -0.01, 0.008]), 0.3, (3.0, -1.5)


@pytest.fixture(scope="module")
def silicon():
    return disk_tables.compute("Si", 200.0, [22, 24, 26, 28, 30], 8.0, step_mrad=0.5, displacements={})


@pytest.fixture(scope="module")
def graphene():
    return disk_tables.compute("graphene", 200.0, [1, 2, 3], 3.0, step_mrad=0.5, g_max=1.0)


def direct(name, layers, optics, oversampling, reach, **options):
    """Multislice of strained atoms on samples fine enough to be the truth for a thousandth of a pixel."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(diffraction, "OVERSAMPLING", oversampling)
        crystal = materials.material(name)
        atoms = materials.patch(name, STRAIN, ROTATION, diffraction.patch_extent(optics), layers, (0.2, 0.3))
        return diffraction.cbed(atoms, optics, slice_thickness=crystal.spacing, reach=reach, **options)


@pytest.fixture(scope="module")
def strained_silicon():
    return direct("Si", 26, COARSE, 4, 4.0, mistilt_mrad=MISTILT)


def blurred(pattern, optics):
    """Behind the detector's point spread, which softens the disks' edges, without background."""
    return diffraction.detected(pattern, replace(optics, background=0.0)).astype(float)


def test_disks_lie_where_the_strained_reciprocal_lattice_says(graphene):
    strain, rotation, shift = np.array([0.03, -0.02, 0.01]), 0.25, (0.4, -0.7)
    p = disk_patterns.compose(graphene, OPTICS, strain, rotation, 1, shift)
    f = (np.eye(2) + np.array([[0.03, 0.01], [0.01, -0.02]])) @ np.array(
        [[np.cos(0.25), -np.sin(0.25)], [np.sin(0.25), np.cos(0.25)]]
    )
    axis = np.arange(48) - 23.5
    x, y = np.meshgrid(axis, axis)
    for hk in ([1, 0], [0, -1], [1, 1], [-1, 1], [0, 0]):
        g = np.linalg.inv(f).T @ (hk @ materials.material("graphene").reciprocal) / OPTICS.pixel_reciprocal + shift
        if np.abs(g).max() > 18:
            continue
        near = p * (np.hypot(x - g[0], y - g[1]) < 6)
        centre = np.array([(near * x).sum(), (near * y).sum()]) / near.sum()
        assert centre == pytest.approx(g, abs=0.005)


def test_a_composed_pattern_is_the_multislice_of_the_strained_crystal(silicon, strained_silicon):
    wanted = blurred(strained_silicon, COARSE)

    def difference(layers=26, mistilt=MISTILT, rotation=ROTATION):
        made = disk_patterns.compose(silicon, COARSE, STRAIN, rotation, layers, mistilt_mrad=mistilt)
        made = blurred(made, COARSE)
        rest = made * (made * wanted).sum() / (made * made).sum() - wanted
        # In units of the variance of the counting noise of 1e5 electrons.
        return np.linalg.norm(rest) / np.linalg.norm(wanted), 1e5 * (rest**2 / (wanted + 1e-6)).mean()

    relative, variance = difference()
    assert relative < 0.03  # 0.020 here
    assert variance < 0.15  # 0.09 here
    for wrong in ({"mistilt": (-3.0, 1.5)}, {"rotation": ROTATION + 0.02}, {"layers": 22}):
        assert difference(**wrong)[1] > 2 * variance


@pytest.mark.parametrize(
    ("name", "layers", "without"), [("Si", (48, 52, 56, 60), 5e-4), ("SrTiO3", (96, 100, 104, 108), 5e-4)]
)
def test_what_strain_does_to_the_fill_biases_no_fitted_strain(name, layers, without):
    optics = Optics(200.0, 2.8, 0.5, 96, psf_px=0.6, background=0.05)
    table = disk_tables.compute(name, 200.0, layers, 4.5, step_mrad=0.5, strained=True)
    strain, rotation, mistilt, thickness = np.array([0.015, -0.01, 0.008]), 0.3, (0.5, -1.0), layers[1] + 1
    # The truth: the cell computed with all of its strain, at the same points of its disks.
    turn = crystals.rotation_matrix(rotation)
    of_cell = crystals.strain_vector(turn.T @ crystals.strain_tensor(strain) @ turn)
    exact = disk_tables.compute(name, 200.0, layers, 4.5, step_mrad=0.5, strain=of_cell)

    def expected(disks, at):
        shift = (at[4], at[5])
        made = disk_patterns.compose(disks, optics, at[:3], at[3], thickness, shift, mistilt_mrad=mistilt)
        return diffraction.detected(made, optics, shift).astype(float)

    at = np.array([*strain, rotation, 0.0, 0.0])
    truth = expected(exact, at)

    def bias(disks):
        """What a fit of these disks to the truth makes wrong, by one step of Fisher scoring."""
        mean = expected(disks, at)
        slopes = central_differences(lambda x: expected(disks, x), at, (1e-3,) * 4 + (0.05,) * 2)
        slopes = np.concatenate([slopes, mean[None]])
        score = (slopes * (truth / mean - 1)).sum((1, 2))
        return np.linalg.solve(poisson_information(mean, slopes), score)[:3]

    assert np.abs(bias(table)).max() < 6e-5
    assert np.abs(bias(replace(table, by_strain=None))).max() > without


def test_thickness_is_interpolated(silicon):
    made = disk_patterns.compose(silicon, OPTICS, [0, 0, 0], 0.0, 25)
    exact = disk_patterns.compose(
        disk_tables.compute("Si", 200.0, [25], 4.5, step_mrad=0.5, displacements={}), OPTICS, [0, 0, 0], 0.0, 25
    )
    assert made == pytest.approx(exact, abs=2e-3 * exact.max())


def test_elliptical_distortion_moves_and_stretches_disks(graphene):
    bent = disk_patterns.compose(graphene, OPTICS, [0, 0, 0], 0.0, 1, distortion=np.array([[1.02, 0.0], [0.0, 1.0]]))
    # A distortion of the pattern is a contraction of the lattice, and wider disks.
    strained = disk_patterns.compose(graphene, OPTICS, [1 / 1.02 - 1, 0, 0], 0.0, 1)
    assert bent.sum() == pytest.approx(strained.sum(), rel=5e-3)
    axis = np.arange(48) - 23.5
    inner = np.hypot(*np.meshgrid(axis, axis)) < 7

    def width(image, along):
        return np.sqrt((image[inner].reshape(-1) * along[inner] ** 2).sum() / image[inner].sum())

    x, y = np.meshgrid(axis, axis)
    assert width(bent, x) / width(bent, y) == pytest.approx(1.02, abs=3e-3)
    assert width(strained, x) / width(strained, y) == pytest.approx(1.0, abs=3e-3)


def test_what_a_table_cannot_answer_is_refused(silicon, graphene):
    ask = disk_patterns.compose
    with pytest.raises(ValueError, match=r"the table is for 200\.0 keV, the beam has 80"):
        ask(silicon, Optics(80.0, 2.0, 0.6, 48), [0, 0, 0], 0.0, 26)
    with pytest.raises(ValueError, match="the table is for 22 to 30 layers, asked for are 40"):
        ask(silicon, OPTICS, [0, 0, 0], 0.0, 40)
    with pytest.raises(ValueError, match=r"need a table up to .* mrad; this one reaches 8\.00 mrad"):
        ask(silicon, OPTICS, [0, 0, 0], 0.0, 26, mistilt_mrad=(7.0, 0.0))
    with pytest.raises(ValueError, match="disks overlap"):
        ask(silicon, Optics(200.0, 4.1, 0.3, 48), [0, 0, 0], 0.0, 26)
