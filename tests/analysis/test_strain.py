"""Strain from the affine maps of patterns: conventions, references, uncertainty."""

from __future__ import annotations

import numpy as np
import pytest

from bluesky_edgestem.analysis.affine_readings import AffineReadings
from bluesky_edgestem.analysis.crystals import deformation, rotation_matrix
from bluesky_edgestem.analysis.materials import material
from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.analysis.polar_decomposition import split
from bluesky_edgestem.analysis.scan_images import detector_to_scan
from bluesky_edgestem.analysis.strain import StrainMaps
from bluesky_edgestem.analysis.strain_frame import as_reference, strain_maps
from bluesky_edgestem.geometry import FieldOfView, ScanGrid

BASE = np.array([[20.0, 1.0], [-2.0, 19.0]])
GRID = ScanGrid(FieldOfView(0.0, 0.0, 6.0, 4.0), 7, 5)


def some_crystals(n, seed=0, strain=0.02, rotation=0.1):
    rng = np.random.default_rng(seed)
    return rng.uniform(-strain, strain, (n, 3)), rng.uniform(-rotation, rotation, n)


def read(found, covariance=None, flagged=None, to_scan=None):
    """Readings of crystals deformed by `found` (n, 2, 2) relative to the base pattern's."""
    transform = np.swapaxes(np.linalg.inv(found), 1, 2)
    if to_scan is not None:
        transform = to_scan.T @ transform @ to_scan
    n = len(found)
    return AffineReadings(
        transform,
        np.broadcast_to(1e-6 * np.eye(4) if covariance is None else covariance, (n, 4, 4)).copy(),
        np.full((n, 2), 63.5),
        np.full((n, 2), 0.01),
        np.full(n, 1e5),
        np.full(n, "", dtype=object) if flagged is None else np.asarray(flagged, dtype=object),
    )


def with_reference(strain, rotation):
    """The crystals, preceded by ten undeformed ones, and the mask of these."""
    deformed = deformation(np.vstack([np.zeros((10, 3)), strain]), np.r_[np.zeros(10), rotation])
    return deformed, np.arange(len(deformed)) < 10


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turn", [0.0, 0.7, -2.5])
def test_strain_is_that_of_the_deformation_whatever_base_pattern_and_detector(turn, mirrored):
    strain, rotation = some_crystals(40)
    deformed, inside = with_reference(strain, rotation)
    base = deformation(np.array([0.03, -0.02, 0.01]), 0.4)  # the base pattern's crystal is itself strained
    readings = read(deformed @ base, to_scan=detector_to_scan(turn, mirrored))
    maps = strain_maps(
        readings, np.zeros((50, 2)), base_vectors=BASE, reference=inside, rotation=turn, mirrored=mirrored
    )
    assert maps.strain[10:] == pytest.approx(strain, abs=1e-12)
    assert maps.rotation[10:] == pytest.approx(rotation, abs=1e-12)
    assert (maps.scan_rotation, maps.mirrored, maps.reference) == (turn, mirrored, "a mask of 10 positions")


def test_lagrangian_strain_is_that_of_the_metric():
    strain, rotation = some_crystals(20)
    deformed, inside = with_reference(strain, rotation)
    maps = strain_maps(read(deformed), np.zeros((30, 2)), base_vectors=BASE, reference=inside, measure="Lagrangian")
    metric = (np.swapaxes(deformed, 1, 2) @ deformed - np.eye(2)) / 2
    assert maps.strain[:, 0] == pytest.approx(metric[:, 0, 0], abs=1e-12)
    assert maps.strain[:, 1] == pytest.approx(metric[:, 1, 1], abs=1e-12)
    assert maps.strain[:, 2] == pytest.approx(metric[:, 0, 1], abs=1e-12)
    assert maps.rotation[10:] == pytest.approx(rotation, abs=1e-12)


@pytest.mark.parametrize("measure", ["infinitesimal", "Lagrangian"])
@pytest.mark.parametrize("turn", [(0.0, False), (0.9, True)])
def test_covariance_is_that_of_repeated_measurements(measure, turn):
    # 40,000 draws tell a variance to 0.7 %; the noise is small enough for first order.
    rng = np.random.default_rng(3)
    root = 1e-4 * rng.normal(size=(4, 4))
    found = deformation(np.array([0.03, -0.02, 0.015]), 0.3)[None]
    once = read(found, root @ root.T)
    noise = (rng.normal(size=(40_000, 4)) @ root.T).reshape(-1, 2, 2)
    many = read(np.repeat(found, 40_000, axis=0))
    many.transform[:] += noise
    options = {"base_vectors": np.eye(2) * 10, "rotation": turn[0], "mirrored": turn[1], "measure": measure}
    # Relative to a lattice, which adds nothing: square, 10 pixels of 0.1/a each.
    optics = Optics(pixel_mrad=Optics().wavelength * 1e3 / 39.05, n_pixels=128)
    options |= {"reference": material("SrTiO3"), "optics": optics}
    said = strain_maps(once, np.zeros((1, 2)), **options).covariance[0]
    maps = strain_maps(many, np.zeros((40_000, 2)), **options)
    seen = np.cov(np.column_stack([maps.strain, maps.rotation]).T)
    scale = np.sqrt(np.diag(said))
    assert seen / np.outer(scale, scale) == pytest.approx(said / np.outer(scale, scale), abs=0.04)


def test_a_small_reference_region_adds_its_own_uncertainty():
    deformed = deformation(np.zeros((16, 3)), np.zeros(16))
    inside = np.arange(16) < 4
    maps = strain_maps(read(deformed), np.zeros((16, 2)), base_vectors=BASE, reference=inside)
    assert maps.sd[:, 0] == pytest.approx(1e-3 * np.sqrt(1 + np.pi / 8), rel=1e-9)


def test_the_median_of_the_scan_is_the_reference_where_a_quarter_was_misread_and_grains_are_turned():
    rng = np.random.default_rng(5)
    grains = rng.choice([0.0, 0.5, -0.4], 200)
    base = deformation(np.array([0.02, -0.03, 0.01]), 0.0)
    deformed = deformation(np.zeros((200, 3)), grains) @ base
    deformed[:50] = deformation(rng.uniform(0, 0.2, (50, 3)), rng.uniform(0, 1, 50))
    maps = strain_maps(read(deformed), np.zeros((200, 2)), base_vectors=BASE)
    # A lattice that is distorted in the base pattern is unstrained in each grain all the same.
    assert np.abs(maps.strain[50:]).max() < 0.004
    assert len(np.unique(np.round(maps.rotation[50:] - maps.rotation[50:].min(), 2))) == 3


def test_a_material_gives_absolute_strain_and_rotation():
    optics = Optics(energy_keV=200.0, semiangle_mrad=2.0, pixel_mrad=0.4, n_pixels=128)
    si = material("Si")
    # The shortest reflections of [110] silicon, {111}, seen on a crystal that is strained and turned.
    of_base = deformation(np.array([0.004, -0.006, 0.003]), 0.08)
    vectors = np.array([[1, 1], [-1, 1]]) @ si.reciprocal @ np.linalg.inv(of_base) / optics.pixel_reciprocal
    strain, rotation = some_crystals(10, strain=0.01, rotation=0.02)
    readings = read(deformation(strain, rotation) @ np.linalg.inv(of_base))
    maps = strain_maps(readings, np.zeros((10, 2)), base_vectors=vectors, reference=si, optics=optics)
    assert maps.strain == pytest.approx(strain, abs=1e-12)
    assert maps.rotation == pytest.approx(rotation, abs=1e-12)
    assert maps.reference == "the lattice of Si"


def test_a_lattice_of_another_material_is_refused():
    vectors = np.array([[20.0, 0.0], [0.0, 20.0]])
    with pytest.raises(
        ValueError, match=r"at 90\.0°, is not that of graphene .* within 4.5 %; check the beam's energy"
    ):
        strain_maps(
            read(np.eye(2)[None]), np.zeros((1, 2)), base_vectors=vectors, reference=material("graphene"),
            optics=Optics(),
        )  # fmt: skip
    with pytest.raises(ValueError, match="needs the detector's calibration, which this scan lacks"):
        strain_maps(read(np.eye(2)[None]), np.zeros((1, 2)), base_vectors=vectors, reference=material("Si"))


def test_maps_have_gaps_where_nothing_was_measured_and_nothing_known():
    strain, rotation = some_crystals(34)
    flagged = np.full(34, "", dtype=object)
    flagged[3] = "no electrons: the frame is empty"
    region = FieldOfView(0.0, 0.0, 2.0, 4.0)
    maps = strain_maps(
        read(deformation(strain, rotation), flagged=flagged),
        np.delete(GRID.positions, 20, axis=0),
        base_vectors=BASE,
        reference=region,
        grid=GRID,
    )
    image = maps.image("exy")
    assert np.flatnonzero(np.isnan(image)).tolist() == [3, 20]
    assert np.flatnonzero(np.isnan(maps.image("rotation_sd"))).tolist() == [3, 20]
    assert image[0, 1] == maps.strain[1, 2]
    assert maps.reference == "the region x 0 to 2 nm, y 0 to 4 nm"
    assert (len(maps), np.count_nonzero(maps.known)) == (34, 33)
    with pytest.raises(KeyError, match="no map is called 'ezz'; there are exx"):
        maps.image("ezz")


def test_a_region_without_a_pattern_is_refused():
    readings = read(np.repeat(np.eye(2)[None], 35, axis=0))
    with pytest.raises(ValueError, match="holds 0 patterns and none that could be read"):
        strain_maps(readings, GRID.positions, base_vectors=BASE, reference=FieldOfView(50.0, 50.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"bool of shape \(35,\); got bool, \(3,\)"):
        strain_maps(readings, GRID.positions, base_vectors=BASE, reference=np.ones(3, bool))


def test_a_mask_of_the_raster_counts_where_its_patterns_are():
    strain, rotation = some_crystals(35)
    strain[7:14], rotation[7:14] = 0, 0
    mask = np.zeros(GRID.shape, bool)
    mask[1] = True
    order = np.random.default_rng(1).permutation(35)
    readings = read(deformation(strain, rotation)[order])
    maps = strain_maps(readings, GRID.positions[order], base_vectors=BASE, reference=mask, grid=GRID)
    assert maps.image("exx").ravel() == pytest.approx(strain[:, 0], abs=1e-12)
    assert maps.reference == "a mask of 7 positions"


def test_a_list_of_positions_is_its_own_image():
    maps = strain_maps(read(np.repeat(np.eye(2)[None], 3, axis=0)), np.zeros((3, 2)), base_vectors=BASE)
    assert isinstance(maps, StrainMaps)
    assert maps.image("exx").shape == (3,)
    assert rotation_matrix(0.0) == pytest.approx(np.eye(2))


def test_a_measure_that_there_is_none_of_is_refused():
    with pytest.raises(ValueError, match=r"measure is 'lagrangian'; allowed are 'infinitesimal' and 'Lagrangian'"):
        split(np.eye(2)[None], np.zeros((1, 4, 2, 2)), "lagrangian")


def test_a_rotation_in_degrees_and_a_region_of_two_numbers_are_refused():
    with pytest.raises(ValueError, match=r"rotation is 45; allowed is an angle in rad, from -6\.283 to 6\.283"):
        detector_to_scan(45)
    with pytest.raises(ValueError, match=r"a region is four numbers, x0, y0, width, height \[nm\]; got 2"):
        as_reference((1, 2))
