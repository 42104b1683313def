"""Why a reading is not to be trusted: each reason with how far beyond what is allowed it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Doubt:
    """One reason to flag some of n readings."""

    excess: np.ndarray  #: (n,) of what is allowed, not negative; more than one is flagged, NaN is not
    reason: Callable[[int], str]  #: in words, of reading i


def certain(where: np.ndarray, reason: Callable[[int], str]) -> Doubt:
    """A doubt that is there or not, (n,) bool: of infinite or no excess."""
    return Doubt(np.where(where, np.inf, 0.0), reason)


def flags(doubts: Sequence[Doubt]) -> np.ndarray:
    """The first reason that applies to each reading, (n,) str; empty where none does."""
    out = np.full(len(doubts[0].excess), "", dtype=object)
    for doubt in doubts:
        for i in np.flatnonzero((doubt.excess > 1) & (out == "")):
            out[i] = doubt.reason(int(i))
    return out.astype(str)


def suspicion(doubts: Sequence[Doubt]) -> np.ndarray:
    """The largest excess of each reading, (n,) float: more than one is flagged."""
    return np.fmax.reduce([np.asarray(doubt.excess, float) for doubt in doubts])
