"""Multislice patterns land where the geometry says, for strain, rotation, wavelength and descan."""

import numpy as np
import pytest

from bluesky_edgestem.analysis import crystals, diffraction
from bluesky_edgestem.analysis.optics import Optics

OPTICS = Optics(energy_keV=80.0, semiangle_mrad=2.0, pixel_mrad=0.5, n_pixels=128)


def pattern(strain=(0.0, 0.0, 0.0), rotation=0.0, optics=OPTICS, shift=(0.0, 0.0), formula="MoS2"):
    extent = diffraction.patch_extent(optics)
    atoms = crystals.monolayer_atoms(strain, rotation, extent, lambda p: np.full(len(p), formula))
    return diffraction.cbed(atoms, optics, shift)


def centre_of_mass(image, around, radius):
    """x, y [pixels from the detector's centre] of the electrons within `radius` of `around`."""
    axis = np.arange(image.shape[0]) - (image.shape[0] - 1) / 2
    x, y = np.meshgrid(axis, axis)
    inside = image * ((x - around[0]) ** 2 + (y - around[1]) ** 2 < radius**2)
    return np.array([(inside * x).sum(), (inside * y).sum()]) / inside.sum()


def reflection(h, k, strain=(0.0, 0.0, 0.0), rotation=0.0, optics=OPTICS):
    """Where a reflection of the deformed reference lattice lies [pixels from the centre]: g' = F^-T g."""
    cell = crystals.REFERENCE.a * np.array([[1.0, 0.0], [-0.5, np.sqrt(3) / 2]])
    g = np.linalg.inv(cell).T
    f = crystals.deformation(np.asarray(strain), np.float64(rotation))
    return np.linalg.inv(f).T @ (np.array([h, k]) @ g) / optics.pixel_reciprocal


def test_wavelength_and_resolution():
    assert Optics(energy_keV=80).wavelength == pytest.approx(0.04176, abs=1e-5)
    assert Optics(energy_keV=300).wavelength == pytest.approx(0.01969, abs=1e-5)
    assert OPTICS.resolution == pytest.approx(1.274, abs=1e-3)


def test_all_electrons_are_accounted_for():
    p = pattern()
    assert p.dtype == np.float32
    assert 0.99 < p.sum() <= 1.0
    assert diffraction.detected(p, OPTICS).sum() == pytest.approx(p.sum(), abs=2e-3)


# The centre of a disk is known to about 0.1 pixel: neighbouring disks' tails, 1e-3 of it, reach into the circle.
@pytest.mark.parametrize(
    ("strain", "rotation"),
    [((0, 0, 0), 0.0), ((0.04, 0, 0), 0.0), ((0, -0.03, 0), 0.0), ((0, 0, 0.02), 0.0), ((0.01, 0.02, -0.02), 0.3)],
)
def test_disks_lie_at_the_reciprocal_lattice(strain, rotation):
    p = pattern(strain, rotation)
    for h, k in ((1, 1), (-1, -1), (2, -1), (1, -2)):
        expected = reflection(h, k, strain, rotation)
        assert centre_of_mass(p, expected, 6.0) == pytest.approx(expected, abs=0.12)


def test_tension_along_x_brings_the_reflections_along_x_nearer():
    # With zigzag along x, (11) of cell vectors at 120° is perpendicular to neither: take the one along x.
    relaxed = centre_of_mass(pattern(), reflection(2, -1), 6.0)
    stretched = centre_of_mass(pattern((0.03, 0.0, 0.0)), reflection(2, -1, (0.03, 0, 0)), 6.0)
    assert abs(relaxed[1]) < 0.2
    assert stretched[0] / relaxed[0] == pytest.approx(1 / 1.03, abs=3e-3)


@pytest.mark.parametrize("shift", [(1.5, -0.75), (-2.0, 0.0)])
def test_descan_shifts_the_whole_pattern_by_fractions_of_a_pixel(shift):
    still, moved = pattern(), pattern(shift=shift)
    assert centre_of_mass(still, (0, 0), 7.0) == pytest.approx([0.0, 0.0], abs=2e-3)
    # A shift by part of a pixel moves other pixels of the disk's tail into the circle: 5e-3 pixel.
    assert centre_of_mass(moved, shift, 7.0) == pytest.approx(shift, abs=1e-2)


def test_tungsten_scatters_more_than_molybdenum():
    def scattered(p):
        axis = np.arange(128) - 63.5
        return p[axis[:, None] ** 2 + axis[None, :] ** 2 > 36].sum()

    assert scattered(pattern(formula="WS2")) > 1.3 * scattered(pattern(formula="MoS2"))


def test_a_patch_of_the_wrong_size_is_refused():
    atoms = crystals.monolayer_atoms([0, 0, 0], 0.0, 50.0, lambda p: np.full(len(p), "MoS2"))
    with pytest.raises(ValueError, match=r"patch is 50\.000 Å wide; these optics need 167\.0"):
        diffraction.cbed(atoms, OPTICS)


def test_counts_are_poisson_and_reproducible():
    p = diffraction.detected(pattern(), OPTICS)
    frames = np.stack([diffraction.counted(p, 1e5, np.random.default_rng(i)) for i in range(100)])
    assert frames.dtype == np.uint16
    expected = 1e5 * p.sum()
    assert frames.sum((1, 2)).mean() == pytest.approx(expected, abs=5 * np.sqrt(expected / 100))
    assert np.array_equal(frames[3], diffraction.counted(p, 1e5, np.random.default_rng(3)))
    with pytest.raises(ValueError, match="got -1"):
        diffraction.counted(p, -1, np.random.default_rng(0))


@pytest.mark.parametrize("wrong", [{"energy_keV": 5}, {"semiangle_mrad": 0}, {"pixel_mrad": -1}, {"background": 1.0}])
def test_impossible_optics_are_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} is .*; allowed is"):
        Optics(**wrong)
