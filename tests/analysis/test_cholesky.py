"""Cholesky's factor and what it solves, against numpy."""

from __future__ import annotations

import numpy as np

from bluesky_edgestem.analysis.cholesky import factor, solve


def factored(matrix):
    low, scale = np.zeros_like(matrix), np.empty(len(matrix))
    return factor(matrix, low, scale), low, scale


def test_it_solves_what_is_positive_definite_however_badly_scaled():
    rng = np.random.default_rng(0)
    root, size = rng.normal(size=(9, 9)), 10.0 ** rng.uniform(-4, 4, 9)
    matrix = (root @ root.T + np.eye(9)) * np.outer(size, size)
    only_lower = np.tril(matrix) + np.triu(np.full((9, 9), np.nan), 1)
    good, low, scale = factored(only_lower)
    vector, out = rng.normal(size=9) * size, np.empty(9)
    solve(out, low, scale, vector)
    # The scaled matrix has a condition of some hundreds: 1e-13 of it is lost.
    assert good
    np.testing.assert_allclose(out * size, np.linalg.solve(matrix / np.outer(size, size), vector / size), rtol=1e-10)


def test_it_says_what_is_not_positive_definite():
    for matrix in (np.diag([1.0, 0.0]), np.diag([1.0, np.nan]), np.array([[1.0, 2.0], [2.0, 1.0]]), np.ones((2, 2))):
        assert not factored(matrix)[0]
