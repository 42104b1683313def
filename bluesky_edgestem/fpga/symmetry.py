"""The eight ways to turn and mirror a square frame, and what they make of a lattice's strain, rotation and centre.

A monolayer of these crystals has a mirror line: each variant of a pattern is a pattern again, of another strain. So
every lesson is eight.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from .frontend import CORE


@dataclass(frozen=True)
class Variant:
    """Mirrored along x, along y, then with both axes exchanged."""

    mirror_x: bool
    mirror_y: bool
    exchange: bool

    def bins(self, values: np.ndarray) -> np.ndarray:
        """Bins (n, CORE²) of the variant, of those of patterns."""
        frames = values.reshape(-1, CORE, CORE)
        frames = frames[:, :: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]
        if self.exchange:
            frames = frames.transpose(0, 2, 1)
        return frames.reshape(len(values), CORE**2)

    def targets(self, values: np.ndarray) -> np.ndarray:
        """What a student is to give (n, 8), in the order of `student.OUTPUTS` without the spread, for the variant."""
        out = values.copy()
        if self.mirror_x:
            out[:, 5] *= -1
        if self.mirror_y:
            out[:, 6] *= -1
        if self.mirror_x != self.mirror_y:
            out[:, [2, 4]] *= -1
        if self.exchange:
            # A rotation by θ becomes one by π/2 - θ, and six times that 3π - 6θ.
            out = out[:, [1, 0, 2, 3, 4, 6, 5, 7]]
            out[:, 3] *= -1
        return out


VARIANTS = tuple(Variant(*which) for which in product((False, True), repeat=3))
