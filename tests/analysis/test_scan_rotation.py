"""The turn of the detector, from deflections that are a gradient in the axes of the scan."""

from __future__ import annotations

import numpy as np
import pytest

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


def test_the_standard_deviation_is_that_of_the_errors():
    # Of 40 scans: chi-squared of 40 is within 20 and 70 but for 1 in 300; the jackknife's own error adds some.
    away = []
    for seed in range(40):
        found = scan_rotation(scan(0.7, False, seed, noise=0.04))
        away.append(wrapped(found.rotation - 0.7, 2 * np.pi) / found.rotation_sd)
    assert 0.6 < np.sqrt(np.mean(np.square(away))) < 1.5


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
