"""The board's rule: which results have it ask the scan coils for more positions, on its own words."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, log

import numpy as np

from .student import OUTPUT_BITS, OUTPUT_FRACTION, OUTPUTS, STRAIN_UNIT, Student

#: What a rule may go by, and the output that has it.
QUANTITIES = {"exx": "exx", "eyy": "eyy", "exy": "exy", "second phase": "phase"}
LOWEST, HIGHEST = -(2 ** (OUTPUT_BITS - 1)), 2 ** (OUTPUT_BITS - 1) - 1


@dataclass(frozen=True)
class Rule:
    """A comparator of words: what the Verilog's ``rule.sv`` computes.

    Parameters
    ----------
    output : int
        Index in `student.OUTPUTS`.
    low, high : int
        Words that are within the range still.
    inside : bool
        Whether it holds within the range; else outside.
    most_log_sd : int
        Word of the log of the standard deviation up to which a result counts as known: of others no rule holds.
    """

    output: int
    low: int
    high: int
    inside: bool
    most_log_sd: int

    @classmethod
    def of(cls, student: Student, quantity: str, low: float, high: float, inside: bool) -> Rule:
        """A rule in the words of a student.

        Parameters
        ----------
        student : Student
        quantity : str
            One of `QUANTITIES`.
        low, high : float
            Limits of the range: strains, or probabilities of the second phase.
        inside : bool

        Raises
        ------
        ValueError
            If the quantity is none of them, or low is above high.
        """
        if quantity not in QUANTITIES:
            raise ValueError(f"quantity is {quantity!r}; allowed is {' | '.join(QUANTITIES)}")
        if not low <= high:
            raise ValueError(f"the range is from {low:g} to {high:g}; low must not be above high")
        limits = []
        for limit, rounded in ((low, ceil), (high, floor)):
            if quantity == "second phase":
                value = -np.inf if limit <= 0 else np.inf if limit >= 1 else log(limit / (1 - limit))
            else:
                value = limit / STRAIN_UNIT
            limits.append(rounded(float(np.clip(value * 2**OUTPUT_FRACTION, LOWEST, HIGHEST))))
        return cls(OUTPUTS.index(QUANTITIES[quantity]), limits[0], limits[1], inside, student.most_log_sd)

    def __call__(self, words: np.ndarray, status: np.ndarray) -> np.ndarray:
        """Where it holds, (n,) bool, of words (n, 9) and status (n,)."""
        value = words[:, self.output]
        within = (value >= self.low) & (value <= self.high)
        known = (status == 0) & (words[:, OUTPUTS.index("log_sd")] <= self.most_log_sd)
        return known & (within == self.inside)
