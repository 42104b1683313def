"""Score and information of disks, against the same sums by numpy."""

import numpy as np
import pytest

from bluesky_edgestem.analysis.map_information import add_information, packed, room
from bluesky_edgestem.analysis.placed_disks import windows

ROWS = np.array([[1, 3], [0, 4], [0, 4], [1, 3]])  # a round window of 12 pixels
DISKS, FUNCTIONS, PIXELS = 4, 3, 12


@pytest.mark.parametrize("codes", [1, 2, 15, 25])
def test_score_and_information_are_the_disks_sums(codes):
    rng = np.random.default_rng(codes)
    size = 7 + codes
    full = rng.normal(size=(DISKS, size, size))
    known = full @ full.transpose(0, 2, 1)
    at = windows(DISKS, PIXELS)
    at.seen[:] = [True, False, True, True]
    at.row[:], at.column[:] = [2, 2, 7, 12], [3, 3, 9, 14]
    at.phase_y[:], at.phase_x[:] = 0, 0
    at.by_x[:], at.by_y[:] = rng.normal(size=(2, DISKS * PIXELS))
    weight, inverse = rng.normal(size=(20, 24)).astype(np.float32), rng.uniform(1, 2, (20, 24)).astype(np.float32)
    functions = rng.normal(size=(3, FUNCTIONS, PIXELS)).astype(np.float32)
    fills = rng.normal(size=(codes, DISKS, FUNCTIONS)).astype(np.float32)
    place_known, level_known = rng.uniform(1, 2, (2, DISKS))
    reflections, dose = rng.normal(size=(DISKS, 2)), 30.0
    matrix, score = np.zeros((size, size)), np.zeros(size)
    which = np.array([0, 1, 3])  # of those, one is not seen
    add_information(
        matrix, score, room(DISKS, PIXELS, FUNCTIONS, codes), at, which, weight, inverse, dose, functions.reshape(-1),
        fills[:, which].ravel(), packed(known), place_known, level_known, reflections, ROWS,
    )  # fmt: skip

    expected, pushed, moments = np.zeros((size, size)), np.zeros(size), np.zeros((DISKS, FUNCTIONS))
    for g in (0, 3):
        inside = [(at.row[g] + i, at.column[g] + k) for i, (a, b) in enumerate(ROWS) for k in range(a, b)]
        w, q = (np.array([image[p] for p in inside]) for image in (weight, inverse))
        dx, dy = (by.reshape(DISKS, PIXELS)[g] for by in (at.by_x, at.by_y))
        p = np.sqrt((q * (dx**2 + dy**2)).sum() / (dose * place_known[g]))
        f = np.sqrt((q * functions[0, 0] ** 2).sum() * dose / level_known[g])
        stretch = np.concatenate([np.full(6, p), np.full(size - 6, f)])
        expected += dose * stretch[:, None] * stretch * known[g]
        pushed[:6] += [*((w @ dx) * reflections[g]), *((w @ dy) * reflections[g]), w @ dx, w @ dy]
        moments[g] = functions[0] @ w
    pushed[7:] = dose * np.einsum("kgb,gb->k", fills, moments)
    # Single precision, of sums of a few dozen numbers.
    np.testing.assert_allclose(matrix, np.tril(expected), rtol=0, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(score, pushed, rtol=0, atol=1e-5 * np.abs(pushed).max())
