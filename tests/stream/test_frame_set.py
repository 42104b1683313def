"""The set of frames against a plain set of numbers."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bluesky_edgestem.stream.frame_set import FrameSet


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30))), st.integers(0, 40))
def test_it_is_a_set_of_numbers(steps: list[tuple[bool, int]], expected: int) -> None:
    frames, plain = FrameSet(), set[int]()
    for adds, number in steps:
        if adds:
            assert frames.add(number) == (number not in plain)
            plain.add(number)
        else:
            frames.discard(number)
            plain.discard(number)
    assert len(frames) == len(plain)
    assert frames.end == max(plain, default=-1) + 1
    assert [number in frames for number in range(31)] == [number in plain for number in range(31)]
    missing = list(frames.missing(expected))
    assert [number for run in missing for number in run] == [n for n in range(expected) if n not in plain]
    assert all(after.start > before.stop for before, after in itertools.pairwise(missing))


@given(st.lists(st.one_of(st.lists(st.integers(0, 30)), st.builds(range, st.integers(0, 30), st.integers(0, 40)))))
def test_many_at_once_are_those_one_by_one(batches: list[list[int] | range]) -> None:
    together, singly = FrameSet(), FrameSet()
    for batch in batches:
        new = together.add_all(np.array(batch, np.int64))
        assert new.dtype == bool and new.tolist() == [singly.add(number) for number in batch]
        assert len(together) == len(singly) and list(together.missing(50)) == list(singly.missing(50))
    for batch in batches[::2]:
        together.discard_all(np.array(batch, np.int64))
        for number in batch:
            singly.discard(number)
    assert list(together.missing(50)) == list(singly.missing(50))


def test_a_gap_of_a_billion_costs_two_runs() -> None:
    frames = FrameSet()
    frames.add(0)
    frames.add(1_999_999_999)
    assert list(frames.missing(2_000_000_000)) == [range(1, 1_999_999_999)]
