"""The order of visit: a permutation, never longer than the nearest neighbour's, and close to the best of all."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesky_edgestem.analysis.routing import nearest_neighbour_order, path_length, travel_order


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(0, 2**31), st.booleans())
def test_order_visits_each_once_and_is_no_longer_than_the_nearest_neighbours(n, seed, with_start):
    rng = np.random.default_rng(seed)
    positions = rng.uniform(-50, 50, (n, 2))
    start = rng.uniform(-50, 50, 2) if with_start else None
    order = travel_order(positions, start)
    assert sorted(order.tolist()) == list(range(n))
    nearest = nearest_neighbour_order(positions, start)
    assert path_length(positions[order], start) <= path_length(positions[nearest], start) + 1e-9


def test_six_stops_are_within_five_per_cent_of_the_shortest_path():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        positions, start = rng.uniform(0, 10, (6, 2)), rng.uniform(0, 10, 2)
        best = min(path_length(positions[list(p)], start) for p in permutations(range(6)))
        assert path_length(positions[travel_order(positions, start)], start) <= 1.05 * best


def test_two_dozen_random_stops_take_less_than_half_the_way():
    rng = np.random.default_rng(0)
    positions = rng.uniform(0, 1, (24, 2))
    assert path_length(positions[travel_order(positions, np.zeros(2))]) < 0.5 * path_length(positions)


def test_coincident_and_collinear_stops_end():
    positions = np.array([[3.0, 0.0], [1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    order = travel_order(positions, np.array([0.0, 0.0]))
    assert path_length(positions[order], np.array([0.0, 0.0])) == pytest.approx(3.0)
