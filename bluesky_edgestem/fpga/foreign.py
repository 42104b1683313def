"""Bins of frames that show no lattice: what a student is to know that it does not know."""

from __future__ import annotations

import numpy as np

from .frontend import Frontend

KINDS = ("scrambled", "beam alone", "even", "saturated")


def foreign(kind: str, bins: np.ndarray, frontend: Frontend, rng: np.random.Generator) -> np.ndarray:
    """Counts (n, CORE²) int64 without a lattice, of as many electrons as `bins` (n, CORE²) have.

    Parameters
    ----------
    kind : str
        "scrambled", the same bins in another order; "beam alone", as through a hole, with a faint background; "even",
        the same everywhere but for counting; "saturated", every bin full.
    bins : array (n, CORE²)
        Counts of patterns, before they are shifted.
    frontend : Frontend
    rng : np.random.Generator
    """
    outer = frontend.outer
    if kind == "scrambled":
        where = np.flatnonzero(outer)
        out = bins.copy()
        out[:, where] = bins[:, rng.permutation(where)]
        return out
    if kind == "beam alone":
        out = bins.copy()
        share = rng.uniform(0.0, 0.1, (len(bins), 1)) * bins.sum(1, keepdims=True) / outer.sum()
        out[:, outer] = rng.poisson(np.broadcast_to(share, (len(bins), int(outer.sum()))))
        return out
    if kind == "even":
        return rng.poisson(np.broadcast_to(bins.mean(1, keepdims=True), bins.shape))
    if kind == "saturated":
        return np.full_like(bins, 2**16 - 1)
    raise ValueError(f"no kind {kind!r} of foreign frames; there are {', '.join(KINDS)}")
