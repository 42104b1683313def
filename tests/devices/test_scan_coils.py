"""Positions are pairs of finite numbers."""

from __future__ import annotations

import numpy as np
import pytest

from bluesky_edgestem.devices.scan_coils import as_positions


def test_a_pair_is_a_list_of_one():
    assert as_positions((1, 2)).tolist() == [[1.0, 2.0]]
    assert as_positions(np.zeros((5, 2))).shape == (5, 2)


@pytest.mark.parametrize("bad", [[], [1.0], [[1, 2, 3]], np.zeros((2, 2, 2))])
def test_other_shapes_are_refused(bad):
    with pytest.raises(ValueError, match=r"shape \(n, 2\)"):
        as_positions(bad)


def test_what_is_not_finite_is_named():
    with pytest.raises(ValueError, match=r"position 1 is .*nan"):
        as_positions([[0, 0], [float("nan"), 1]])
