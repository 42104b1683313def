"""Steps corrected by what earlier moves did to the score."""

from __future__ import annotations

import numpy as np
import pytest

from bluesky_edgestem.analysis.cholesky import factor
from bluesky_edgestem.analysis.quasi_newton import corrected_step, remember

N, KEPT = 4, 3
rng = np.random.default_rng(1)
ROOT, OTHER = rng.normal(size=(2, N, N))
CURVATURE = ROOT @ ROOT.T + np.eye(N)  #: of the likelihood
SUPPOSED = CURVATURE + 0.5 * OTHER @ OTHER.T  #: the information that the step supposes


class Memory:
    def __init__(self):
        self.moves, self.changes, self.known = np.empty((KEPT, N)), np.empty((KEPT, N)), 0

    def add(self, move, curvature=CURVATURE):
        before = rng.normal(size=N)
        self.known = remember(self.moves, self.changes, self.known, move, before, before - curvature @ move)

    def step(self, score):
        low, scale = np.zeros((N, N)), np.empty(N)
        assert factor(SUPPOSED, low, scale)
        step = np.empty(N)
        corrected_step(step, low, scale, score, self.moves, self.changes, self.known, np.empty(KEPT), np.empty(N))
        return step


def test_without_a_memory_it_is_the_step_of_the_information():
    score = rng.normal(size=N)
    assert Memory().step(score) == pytest.approx(np.linalg.solve(SUPPOSED, score), rel=1e-10)


def test_the_last_change_of_the_score_asks_for_the_last_move():
    # The secant condition, which defines quasi-Newton methods: not so without the correction.
    memory = Memory()
    for move in rng.normal(size=(KEPT, N)):
        memory.add(move)
        change = CURVATURE @ move
        assert memory.step(change) == pytest.approx(move, rel=1e-9)
        assert np.abs(np.linalg.solve(SUPPOSED, change) - move).max() > 0.01


def test_the_oldest_is_forgotten_and_what_is_not_concave_is_not_remembered():
    memory = Memory()
    moves = rng.normal(size=(KEPT + 2, N))
    for move in moves:
        memory.add(move)
    assert memory.known == KEPT
    assert np.array_equal(memory.moves, moves[2:])
    assert memory.changes == pytest.approx(moves[2:] @ CURVATURE)
    memory.add(moves[0], -CURVATURE)
    assert np.array_equal(memory.moves, moves[2:])
