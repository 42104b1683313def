"""The turn of the detector, from deflections that are a gradient in the axes of the scan."""

from __future__ import annotations

import numpy as np
import pytest

from bluesky_edgestem.analysis import crystals
from bluesky_edgestem.analysis.scan_images import ScanImages, detector_to_scan
from bluesky_edgestem.analysis.scan_rotation import WeakSignal, scan_rotation
from bluesky_edgestem.geometry import FieldOfView, ScanGrid

GRID = ScanGrid(FieldOfView(0.0, 0.0, 47.0, 39.0), 48, 40)


def scan(rotation, mirrored, seed=0, noise=0.05, descan=0.3, dark_field=True, signal=1.0):
    """Images of particles that draw the beam to them, on a detector that is turned."""
    rng = np.random.default_rng(seed)
    x, y = GRID.positions.T
    phase, com = np.zeros(len(x)), np.zeros((len(x), 2))
    for at_x, at_y, size in zip(rng.uniform(0, 47, 9), rng.uniform(0, 39, 9), rng.uniform(2, 5, 9), strict=True):
        bump = signal * np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / (2 * size**2))
        phase += bump
        com -= bump[:, None] * np.column_stack([x - at_x, y - at_y]) / size**2
    com = com @ detector_to_scan(rotation, mirrored)  # the inverse of an orthogonal matrix is its transpose
    com += rng.normal(0, noise, com.shape) + descan * GRID.positions @ rng.normal(0, 1, (2, 2))
    values = {"sum": np.ones(len(x)), "com_x": com[:, 0], "com_y": com[:, 1]}
    if dark_field:
        values["dark_field"] = 100 * phase + rng.normal(0, 5, len(x))
    return ScanImages(GRID.positions, values, grid=GRID)


def wrapped(angle, period):
    return angle - period * np.round(angle / period)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0.0, 1.1, 2.9, -1.5, -3.0])
def test_rotation_handedness_and_direction_are_those_of_the_detector(rotation, mirrored):
    found = scan_rotation(scan(rotation, mirrored))
    assert (found.mirrored, found.direction_known) == (mirrored, True)
    assert abs(wrapped(found.rotation - rotation, 2 * np.pi)) < 5 * found.rotation_sd
    assert found.rotation_sd < np.radians(2)
    assert found.curl_share < found.other_share


def rows_apart(images, seed):
    """The same where each row of the scan has an offset of its own: noise that many points share."""
    rng = np.random.default_rng([seed, 1])
    for name in ("com_x", "com_y"):
        images.values[name][:] += np.repeat(rng.normal(0, 0.015, GRID.ny), GRID.nx)
    return images


@pytest.mark.parametrize("shared", [False, True])
def test_the_standard_deviation_is_that_of_the_errors(shared):
    # Of 500 scans of as many specimens, 95 ± 1 % lie within 1.96 standard deviations, and the mean of the squares is
    # 1 ± 0.06; three times that is allowed. Of noise that rows share there are but 40 draws in a scan: twice as much.
    z = []
    for seed in range(500):
        images = scan(0.7, False, seed, noise=0.04)
        found = scan_rotation(rows_apart(images, seed) if shared else images)
        z.append(wrapped(found.rotation - 0.7, 2 * np.pi) / found.rotation_sd)
    wide = 2 if shared else 1
    assert np.mean(np.abs(z) < 1.96) == pytest.approx(0.95, abs=0.03 * wide)
    assert np.mean(np.square(z)) == pytest.approx(1.0, abs=0.19 * wide)


def test_a_gradient_without_noise_has_hardly_a_curl():
    # Counting leaves half a degree in these scans; what edges and steps of the scan make of it has to be far less.
    off = [scan_rotation(scan(0.7, False, seed, noise=1e-5)).rotation - 0.7 for seed in range(30)]
    assert np.sqrt(np.mean(np.square(off))) < np.radians(0.03)


@pytest.fixture(scope="module")
def flake():
    """Frames (24, 24, 34, 34) by multislice, in mrad (34,), of a round flake of MoS2 with vacuum around it."""
    import abtem
    import dask

    side, points = 84.0, 24
    atoms = crystals.monolayer_atoms(np.zeros(3), 0.1, side, lambda offsets: np.full(len(offsets), "MoS2"))
    atoms = atoms[np.hypot(*(atoms.positions[:, :2].T - side / 2)) < 22]
    with dask.config.set(scheduler="single-threaded"), abtem.config.set({"diagnostics.progress_bar": False}):
        potential = abtem.Potential(atoms, gpts=128, slice_thickness=2.4, projection="infinite").build(lazy=False)
        probe = abtem.Probe(energy=80e3, semiangle_cutoff=4.0)
        probe.grid.match(potential)
        grid = abtem.GridScan(start=(12, 12), end=(72, 72), gpts=(points, points), endpoint=True)
        measured = probe.scan(potential, grid, abtem.PixelatedDetector(max_angle=17.0), max_batch=32, lazy=False)
    frames = np.asarray(measured.array, float).transpose(1, 0, 3, 2)  # rows along y
    angles = (np.arange(frames.shape[-1]) - frames.shape[-1] // 2) * measured.angular_sampling[0]
    return frames / frames.sum((2, 3), keepdims=True), angles, ScanGrid(FieldOfView(0, 0, 6.0, 6.0), points, points)


def counted(flake, dose, rotation, mirrored, seed):
    """Images of counted frames, on a detector that is turned."""
    frames, angles, grid = flake
    counts = np.random.default_rng(seed).poisson(dose * frames).reshape(-1, *frames.shape[2:])
    total = counts.sum((1, 2))
    com = np.column_stack([counts.sum(1) @ angles, counts.sum(2) @ angles]) / total[:, None]
    com = com @ detector_to_scan(rotation, mirrored)
    dark_field = counts[:, np.hypot(angles[:, None], angles) > 6.0].sum(1)
    values = {"sum": total, "com_x": com[:, 0], "com_y": com[:, 1], "dark_field": dark_field.astype(float)}
    return ScanImages(grid.positions, values, grid=grid)


@pytest.mark.parametrize(("rotation", "mirrored"), [(0.0, False), (2.2, True)])
def test_multislice_frames_tell_rotation_handedness_and_direction(flake, rotation, mirrored):
    found = [scan_rotation(counted(flake, 1e5, rotation, mirrored, seed)) for seed in range(60)]
    assert {(f.mirrored, f.direction_known) for f in found} == {(mirrored, True)}
    z = np.array([wrapped(f.rotation - rotation, 2 * np.pi) / f.rotation_sd for f in found])
    # Of 60 draws: 95 ± 2.8 % within 1.96 standard deviations, and a mean square of 1 ± 0.18; three times that.
    assert np.mean(np.abs(z) < 1.96) > 0.95 - 3 * 0.028
    assert np.mean(z**2) == pytest.approx(1.0, abs=3 * 0.18)
    assert np.radians(0.3) < np.mean([f.rotation_sd for f in found]) < np.radians(0.8)


def edge(waves, noise=0.02):
    """Images of the edge of a film, which waves by `waves` [nm]; a straight one says nothing of the handedness."""
    x, y = GRID.positions.T
    slope = 1 / np.cosh((x - 18 - waves * np.sin(2 * np.pi * y / 39)) / 4) ** 2
    com = -np.column_stack([slope, -slope * waves * 2 * np.pi / 39 * np.cos(2 * np.pi * y / 39)])
    com = com @ detector_to_scan(0.7, True) + np.random.default_rng(3).normal(0, noise, com.shape)
    values = {"sum": np.ones(len(x)), "com_x": com[:, 0], "com_y": com[:, 1]}
    return ScanImages(GRID.positions, values, grid=GRID)


def test_one_edge_tells_the_handedness_only_if_it_is_not_straight():
    found = scan_rotation(edge(5.0))
    assert found.mirrored
    assert abs(wrapped(found.rotation - 0.7, np.pi)) < 4 * found.rotation_sd
    with pytest.raises(WeakSignal, match="do not tell"):
        scan_rotation(edge(0.0))


def test_without_a_dark_field_the_direction_stays_open():
    found = scan_rotation(scan(2.9, True, dark_field=False))
    assert not found.direction_known
    assert abs(wrapped(found.rotation - 2.9, np.pi)) < 5 * found.rotation_sd


def test_gaps_do_not_matter():
    images = scan(1.1, False)
    rng = np.random.default_rng(7)
    lost = rng.choice(len(GRID.positions), 200, replace=False)
    for values in images.values.values():
        values[lost] = np.nan
    found = scan_rotation(images)
    assert abs(found.rotation - 1.1) < 5 * found.rotation_sd


@pytest.mark.parametrize("seed", range(20))
def test_noise_and_descan_alone_are_refused(seed):
    with pytest.raises(WeakSignal, match=r"remain as curl .* and the angle is sure to .* Scan an edge of a particle"):
        scan_rotation(scan(0.7, False, seed, signal=0.0, noise=1.0))


def test_what_has_no_neighbours_is_refused():
    images = scan(0.0, False)
    with pytest.raises(ValueError, match="scan a raster"):
        scan_rotation(ScanImages(images.positions, images.values))
    for values in images.values.values():
        values[5:] = np.nan
    with pytest.raises(WeakSignal, match="5 frames have a centre of mass"):
        scan_rotation(images)
