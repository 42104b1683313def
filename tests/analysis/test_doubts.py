import numpy as np

from bluesky_edgestem.analysis.doubts import Doubt, certain, flags, suspicion

DOUBTS = [
    certain(np.array([False, False, True, False]), lambda i: f"{i} is empty"),
    Doubt(np.array([0.5, 1.5, 3.0, np.nan]), lambda i: f"{i} is too far"),
    Doubt(np.array([1.0, 2.5, 0.0, 0.2]), lambda i: f"{i} is too wide"),
]


def test_the_first_reason_that_applies_is_said():
    # Just as much as is allowed is allowed, and what is not known speaks against nothing.
    assert flags(DOUBTS).tolist() == ["", "1 is too far", "2 is empty", ""]


def test_suspicion_is_the_largest_excess():
    assert suspicion(DOUBTS).tolist() == [1.0, 2.5, np.inf, 0.2]
