import numpy as np
import pytest

from bluesky_edgestem.geometry import FieldOfView, ScanGrid


def test_positions_go_row_by_row_from_the_lower_left_and_include_the_edges():
    grid = ScanGrid(FieldOfView(-1.0, 2.0, 4.0, 6.0), 3, 2)
    assert grid.shape == (2, 3)
    assert grid.positions.tolist() == [[-1, 2], [1, 2], [3, 2], [-1, 8], [1, 8], [3, 8]]


def test_a_step_is_never_exceeded():
    grid = ScanGrid.with_step(FieldOfView.centred(10.0, 1.0), 0.3)
    assert np.diff(grid.x).max() <= 0.3
    assert np.diff(grid.y).max() <= 0.3
    assert (grid.nx, grid.ny) == (35, 5)


@pytest.mark.parametrize("size", [(0.0, 1.0), (1.0, -2.0), (float("nan"), 1.0)])
def test_a_field_without_area_is_refused(size):
    with pytest.raises(ValueError, match="field of view needs"):
        FieldOfView(0.0, 0.0, *size)


def test_contains_counts_the_edges_in():
    field = FieldOfView.centred(10.0)
    assert field.contains([[5.0, -5.0], [5.1, 0.0], [0.0, 0.0]]).tolist() == [True, False, True]
