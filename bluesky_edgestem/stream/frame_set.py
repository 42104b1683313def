"""Which frames have come: a set of numbers that costs memory by its gaps, not by its size."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import numpy as np


class FrameSet:
    """Numbers from 0, kept as runs ``[begin, end)`` in order."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._begins, number) - 1
        return at >= 0 and number < self._ends[at]

    @property
    def end(self) -> int:
        """One more than the highest number; 0 where there is none."""
        return self._ends[-1] if self._ends else 0

    def add(self, number: int) -> bool:
        """Add `number`; False where it is here already."""
        begins, ends = self._begins, self._ends
        if ends and number == ends[-1]:  # nearly always
            ends[-1] += 1
            self._count += 1
            return True
        at = bisect_right(begins, number)
        if at and number < ends[at - 1]:
            return False
        joins_left = at > 0 and ends[at - 1] == number
        joins_right = at < len(begins) and begins[at] == number + 1
        if joins_left and joins_right:
            ends[at - 1] = ends.pop(at)
            begins.pop(at)
        elif joins_left:
            ends[at - 1] = number + 1
        elif joins_right:
            begins[at] = number
        else:
            begins.insert(at, number)
            ends.insert(at, number + 1)
        self._count += 1
        return True

    def add_all(self, numbers: np.ndarray) -> np.ndarray:
        """Add `numbers` (n,) int64 in their order; which of them are new, (n,) bool."""
        n = len(numbers)
        if n and self._ends and numbers[0] == self._ends[-1] and (np.diff(numbers) == 1).all():  # nearly always
            self._ends[-1] += n
            self._count += n
            return np.ones(n, bool)
        return np.array([self.add(number) for number in numbers.tolist()], bool)

    def discard_all(self, numbers: np.ndarray) -> None:
        """Take `numbers` (n,) int64 out again."""
        for number in numbers.tolist():
            self.discard(number)

    def discard(self, number: int) -> None:
        """Take `number` out again, where it is here."""
        at = bisect_right(self._begins, number) - 1
        if at < 0 or number >= self._ends[at]:
            return
        begin, end = self._begins[at], self._ends[at]
        runs = [run for run in ((begin, number), (number + 1, end)) if run[0] < run[1]]
        self._begins[at : at + 1] = [run[0] for run in runs]
        self._ends[at : at + 1] = [run[1] for run in runs]
        self._count -= 1

    def missing(self, expected: int) -> Iterator[range]:
        """Runs of the numbers below `expected` that are not here, in order."""
        before = 0
        for begin, end in zip(self._begins, self._ends, strict=True):
            if begin >= expected:
                break
            if begin > before:
                yield range(before, begin)
            before = end
        if before < expected:
            yield range(before, expected)
