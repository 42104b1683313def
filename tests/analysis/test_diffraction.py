"""Multislice patterns land where the geometry says, for strain, rotation, wavelength and descan."""

import numpy as np
import pytest

from bluesky_edgestem.analysis import crystals, diffraction, materials
from bluesky_edgestem.analysis.diffraction import Ensemble
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


# Small frames of thick crystals: 84 Å patches, 0.4 to 2 s each.
THICK = Optics(energy_keV=200.0, semiangle_mrad=2.0, pixel_mrad=0.6, n_pixels=48)


def crystal(name, layers, optics=THICK, reach=1.5, origin=(0.2, 0.3), **options):
    spacing = materials.material(name).spacing
    atoms = materials.patch(name, [0, 0, 0], 0.0, diffraction.patch_extent(optics), layers, origin)
    return diffraction.cbed(atoms, optics, slice_thickness=spacing, reach=reach, **options)


def disk(image, around, radius, optics=THICK):
    """Values of the pixels within `radius` [pixels] of a place [1/Å]."""
    axis = np.arange(image.shape[0]) - (image.shape[0] - 1) / 2
    x, y = np.meshgrid(axis, axis)
    cx, cy = np.asarray(around) / optics.pixel_reciprocal
    return image[(x - cx) ** 2 + (y - cy) ** 2 < radius**2]


def test_opposite_reflections_of_graphene_are_equally_bright():
    optics = Optics(80.0, 2.0, 0.6, 96)
    # The beam in the middle of a bond, about which the patch is symmetric as the crystal is.
    p = crystal("graphene", 1, optics, origin=(1 / 6, 1 / 3))
    for angle in np.deg2rad([30, 90, 150]):
        g = 2 / (np.sqrt(3) * 2.46) * np.array([np.cos(angle), np.sin(angle)])
        # The ramp that shifts the pattern by half a sample breaks at the patch's border, where the probe's tails are:
        # that changes these disks, 1e-4 of the electrons each, by up to 1 % (0.7 % here).
        assert disk(p, g, 4.5, optics).sum() == pytest.approx(disk(p, -g, 4.5, optics).sum(), rel=0.01)


def test_disks_are_flat_for_a_sheet_and_structured_for_a_thick_crystal():
    def unevenness(values):
        return values.std() / values.mean()

    # Inside the disk's edge; the rest is what reaches in from the edge.
    flat = disk(pattern(), np.array([0, 2 / (np.sqrt(3) * 3.16)]), 2.5, OPTICS)
    assert unevenness(flat) < 0.05
    assert unevenness(disk(crystal("Si", 104), [1 / 3.8403, 1 / 5.431], 2.0)) > 0.2


def test_a_reflection_that_the_crystal_forbids_is_dark():
    # The mixed indices of the centred cell: (10) of [-110] x [001] has no amplitude in any zone, (11) is {111}.
    p = crystal("Si", 52)
    assert disk(p, [1 / 3.8403, 0.0], 1.5).mean() < 1e-3 * disk(p, [1 / 3.8403, 1 / 5.431], 2.0).mean()


def test_mistilt_is_where_the_zone_axis_points():
    # Half of λg puts (110), which is up and right, into its Bragg condition, and (-1-1) out of it.
    half = 0.5e3 * THICK.wavelength / 3.905
    right, left = (crystal("SrTiO3", 104, mistilt_mrad=(s * half, s * half)) for s in (1, -1))
    g = np.array([1.0, 1.0]) / 3.905
    assert disk(right, g, 2.0).mean() > 5 * disk(right, -g, 2.0).mean()
    assert disk(left, -g, 2.0).mean() > 5 * disk(left, g, 2.0).mean()
    # The Laue circle's centre: all scattered electrons lie around it, to that side of the beam.
    assert (centre_of_mass(right, (0, 0), 100.0) > 1.0).all()


def test_thermal_motion_takes_from_the_disks_and_gives_to_between_them():
    hot = Ensemble(4, seed=1, displacements=materials.material("SrTiO3").displacements)
    still, moving = crystal("SrTiO3", 26), crystal("SrTiO3", 26, ensemble=hot)
    axis = (np.arange(48) - 23.5) * THICK.pixel_reciprocal * 3.905
    off = np.hypot(*(a - np.rint(a) for a in np.meshgrid(axis, axis))) > 0.45
    assert moving[off].sum() > 1.5 * still[off].sum()
    assert np.array_equal(moving, crystal("SrTiO3", 26, ensemble=hot))
    with pytest.raises(ValueError, match="no displacement for O, Ti"):
        crystal("SrTiO3", 2, ensemble=Ensemble(displacements={"Sr": 0.1}))


def test_coherence_changes_patterns_where_disks_overlap_and_nowhere_else():
    spread = Ensemble(6, seed=2, source_size=1.0, focal_spread=100.0)
    apart, overlapping = THICK, Optics(200.0, 5.5, 0.6, 48)  # {111} of silicon is at 8 mrad

    def change(optics):
        one, many = crystal("Si", 26, optics), crystal("Si", 26, optics, ensemble=spread)
        return np.abs(one - many).sum() / one.sum()

    # What remains of apart disks is the patch's edge, which a displaced probe sees another part of.
    assert change(apart) < 0.03
    assert change(overlapping) > 0.06
