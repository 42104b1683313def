"""Values where the probe was; and divergence and curl of fields in which they are known."""

from __future__ import annotations

import numpy as np
import pytest

from bluesky_edgestem.analysis.scan_images import (
    ScanImages,
    derivative,
    grid_index,
    raster_positions,
    turned,
    way_back,
)
from bluesky_edgestem.geometry import FieldOfView, ScanGrid

GRID = ScanGrid(FieldOfView(-10.0, 5.0, 20.0, 9.0), nx=41, ny=31)


def images(com, rotation=0.0, grid=GRID):
    """Images of the deflections (n, 2) that a detector turned by `rotation` saw."""
    values = {"sum": np.ones(len(com)), "com_x": com[:, 0], "com_y": com[:, 1]}
    return ScanImages(grid.positions, values, grid=grid, rotation=rotation)


def test_each_position_finds_its_point_whatever_is_missing():
    rng = np.random.default_rng(0)
    order = rng.permutation(41 * 31)[:800]
    step = np.array([0.5, 0.3])
    shaken = GRID.positions[order] + rng.uniform(-0.49, 0.49, (800, 2)) * step
    assert (grid_index(GRID, shaken) == order).all()


def test_positions_off_the_grid_find_none():
    away = [[-10.26, 5.0], [10.26, 5.0], [0.0, 4.84], [0.0, 14.16], [np.nan, 5.0], [0.0, np.inf]]
    assert grid_index(GRID, np.array(away)).tolist() == [-1] * 6
    assert grid_index(GRID, np.array([[-10.24, 4.86]])).tolist() == [0]


def test_frames_of_the_way_back_belong_nowhere_and_lost_ones_move_none():
    numbers = np.array([0, 1, 2, 3, 4, 6, 7, 9, 10, 14, 15])  # 5, 8 and 11 to 13 are lost
    grid = ScanGrid(FieldOfView(0.0, 0.0, 2.0, 20.0), nx=3, ny=3)
    assert np.flatnonzero(way_back(numbers, nx=3, flyback=2)).tolist() == [3, 4, 7, 9]
    nan = [np.nan, np.nan]
    expected = [[0, 0], [1, 0], [2, 0], nan, nan, [1, 10], [2, 10], nan, [0, 20], nan, nan]
    np.testing.assert_array_equal(raster_positions(grid, numbers, flyback=2), expected)
    np.testing.assert_array_equal(raster_positions(grid, np.arange(10)), [*grid.positions, nan])
    with pytest.raises(ValueError, match="flyback is -1"):
        way_back(numbers, 3, -1)


def test_derivatives_are_exact_for_planes_also_at_edges_and_beside_gaps():
    x, y = np.meshgrid(GRID.x, GRID.y)
    plane = 2.0 * x - 3.0 * y + 1.0
    gaps = np.zeros(plane.shape, bool)
    gaps[4, 7] = gaps[4, 8] = gaps[0, 0] = gaps[30, 40] = True
    plane[gaps] = np.nan
    for axis, step, slope in ((1, 0.5, 2.0), (0, 0.3, -3.0)):
        found = derivative(plane, step, axis)
        assert (np.isnan(found) == gaps).all()
        assert found[~gaps] == pytest.approx(slope, abs=1e-9)


def test_a_pure_gradient_has_no_curl_and_its_laplacian_for_divergence():
    x, y = GRID.positions.T
    # potential: sin(0.2 x) cos(0.3 y)
    field = np.column_stack([0.2 * np.cos(0.2 * x) * np.cos(0.3 * y), -0.3 * np.sin(0.2 * x) * np.sin(0.3 * y)])
    laplacian = (-(0.2**2 + 0.3**2) * np.sin(0.2 * x) * np.cos(0.3 * y)).reshape(GRID.shape)
    found = images(field)
    inner = np.s_[1:-1, 1:-1]
    assert np.abs(found.image("curl")[inner]).max() < 1e-3 * 0.06
    assert found.image("divergence")[inner] == pytest.approx(laplacian[inner], abs=2e-2 * 0.13)


def test_a_vortex_turns_counter_clockwise():
    x, y = GRID.positions.T
    found = images(np.column_stack([-0.7 * y, 0.7 * x]))
    assert found.image("curl") == pytest.approx(np.full(GRID.shape, 1.4), abs=1e-10)
    assert found.image("divergence") == pytest.approx(np.zeros(GRID.shape), abs=1e-10)


@pytest.mark.parametrize("angle", [0.4, -2.0, np.pi / 2])
def test_the_detectors_rotation_is_undone(angle):
    x, y = GRID.positions.T
    true = np.column_stack([0.2 * x, 0.5 * y - 0.1 * x])
    c, s = np.cos(angle), np.sin(angle)
    # A detector turned counter-clockwise sees the deflection turned clockwise.
    seen = true @ np.array([[c, s], [-s, c]]).T
    assert turned(seen, angle) == pytest.approx(true, abs=1e-12)
    found = images(seen, angle)
    assert found.image("dpc_x").ravel() == pytest.approx(true[:, 0], abs=1e-12)
    assert found.image("divergence") == pytest.approx(np.full(GRID.shape, 0.7), abs=1e-10)
    assert found.image("curl") == pytest.approx(np.full(GRID.shape, -0.1), abs=1e-10)
    assert found.image("magnitude").ravel() == pytest.approx(np.hypot(*true.T), abs=1e-12)
    assert np.cos(found.image("direction").ravel() - np.arctan2(true[:, 1], true[:, 0])) == pytest.approx(1, abs=1e-9)


def test_a_list_of_positions_has_values_but_no_divergence():
    positions = np.array([[0.0, 0.0], [3.0, 1.0], [1.0, 4.0]])
    values = {"sum": np.array([5.0, np.nan, 4.0]), "com_x": np.array([3.0, np.nan, 0.0]), "com_y": np.full(3, 4.0)}
    found = ScanImages(positions, values, lost=1)
    assert found.image("magnitude")[[0, 2]].tolist() == [5.0, 4.0]
    assert np.isnan(found.image("direction")[1])
    assert found.names == ("sum", "com_x", "com_y", "dpc_x", "dpc_y", "magnitude", "direction")
    with pytest.raises(KeyError, match=r"no image is called 'curl'; there are sum, com_x"):
        found.image("curl")
