"""Frames that every form of the student has to agree on, and the count of those on which they do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .frontend import CORE
from .student import Student
from .teaching import Lessons


def golden_frames(student: Student, lessons: Lessons, n: int, seed: int = 0) -> np.ndarray:
    """Frames as they come and as they should not, (n, n_pixels, n_pixels) unsigned.

    Half are lessons at doses from 10³ to 10⁷ electrons, a quarter Poisson noise of any strength, the others pixels of
    any value up to one that differs from frame to frame; among them empty, saturated and single-pixel ones.
    """
    frontend, rng = student.frontend, np.random.default_rng([seed, 3])
    side, most = frontend.n_pixels, 2**frontend.pixel_bits - 1
    dtype = np.uint8 if frontend.pixel_bits == 8 else np.uint16
    frames = np.zeros((n, side, side), dtype)
    inner = slice(frontend.margin, side - frontend.margin)
    for i in range(n):
        if i < n // 2:
            bins = lessons[[i % len(lessons)]].counts(np.array([10 ** rng.uniform(3, 7)]), rng).reshape(CORE, CORE)
            # A bin's electrons arrive in its first pixel: the sum is what counts.
            spread = np.zeros((CORE * frontend.bin,) * 2, np.int64)
            spread[:: frontend.bin, :: frontend.bin] = bins
            frames[i, inner, inner] = np.minimum(spread, most)
        elif i < 3 * n // 4:
            frames[i] = np.minimum(rng.poisson(10 ** rng.uniform(-3, 3), (side, side)), most)
        else:
            frames[i] = rng.integers(0, 2 ** rng.integers(1, frontend.pixel_bits + 1), (side, side))
    # Of each kind of the rest a few, as far as there is room.
    special = [np.zeros((side, side), dtype), np.full((side, side), most, dtype)]
    for place in ((0, 0), (side - 1, side - 1), (side // 2, side // 2)):
        one = np.zeros((side, side), dtype)
        one[place] = most
        special.append(one)
    frames[-len(special) :] = special[-n:]
    return frames


def interrupted(packets: Sequence[np.ndarray], pixels_a_clock: int, seed: int = 0) -> list[np.ndarray]:
    """Frames (pixels,), each followed by one that ends too early or too late, by up to a frame, in whole beats."""
    rng, size = np.random.default_rng([seed, 5]), len(packets[0])
    beats = size // pixels_a_clock
    out = []
    for packet in packets:
        wrong = int(rng.integers(1, beats) + rng.choice([0, beats]))
        out += [packet, np.resize(packet, wrong * pixels_a_clock)]
    return out


@dataclass(frozen=True)
class Mismatches:
    """How often another form of the student disagreed with its whole numbers."""

    frames: int
    words: int  #: output words that differ
    largest: int  #: difference, in units of the last place

    @classmethod
    def between(cls, expected: np.ndarray, found: np.ndarray) -> Mismatches:
        """Of rows of words (n, words); each word of a row that only one of both has differs."""
        both = min(len(expected), len(found))
        difference = np.abs(expected[:both] - found[:both])
        lone = (max(len(expected), len(found)) - both) * expected.shape[1]
        return cls(len(expected), int((difference != 0).sum()) + lone, int(difference.max(initial=0)))


def in_portions(compute: Callable[[np.ndarray], np.ndarray], values: np.ndarray, size: int = 1000) -> np.ndarray:
    """What `compute` gives for all of `values`, a portion at a time."""
    return np.concatenate([compute(values[at : at + size]) for at in range(0, len(values), size)])
