"""Sums and moments of bitshuffled pixels from their bit planes: they need not be put together first.

Bitshuffle stores bit k of all pixels of a block side by side. A sum of counts is then 2^k times the bits that are set
in plane k, and a sum of columns the positions of those bits: both are population counts of words of 64 pixels. Frames
of few electrons have bits in two or three planes of sixteen; the others are read once, to see that they are empty.
Everything is added in integers: results equal those of `reductions`, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from .kernels import kernel

WORD = 64
"""Pixels whose bits are in a word."""


@dataclass(frozen=True)
class Words:
    """Where the pixels of each word of 64 are in a frame.

    Parameters
    ----------
    rows, columns : numpy.ndarray
        (words,) uint64, of the first pixel.
    wrapped : numpy.ndarray
        (words,) uint64, a bit for each pixel that is in the row after it.
    masks : numpy.ndarray
        (masks, words) uint64, a bit for each pixel that a virtual detector counts.
    nx : int
        Pixels in a row.
    """

    rows: np.ndarray
    columns: np.ndarray
    wrapped: np.ndarray
    masks: np.ndarray
    nx: int

    @classmethod
    def of(cls, shape: tuple[int, int], masks: Sequence[np.ndarray] = ()) -> Words:
        """For frames (ny, nx) [pixels] that `fits` allows, and masks (ny, nx) of bool."""
        ny, nx = shape
        first = np.arange(0, ny * nx, WORD, dtype=np.uint64)
        rows, columns = np.divmod(first, np.uint64(nx))
        wrapped = columns[:, None] + np.arange(WORD, dtype=np.uint64) >= nx
        bits = np.array([_packed(mask) for mask in masks], np.uint64).reshape(len(masks), len(first))
        return cls(rows, columns, _packed(wrapped), bits, nx)


def fits(shape: tuple[int, int]) -> bool:
    """Whether frames of this shape (ny, nx) are made of whole words, each in two rows at most."""
    return shape[0] * shape[1] % WORD == 0 and shape[1] >= WORD


def _packed(bits: np.ndarray) -> np.ndarray:
    """Words of bits, the first the lowest."""
    return np.packbits(bits.ravel(), bitorder="little").view("<u8").astype(np.uint64)


def _count(typingctx, word):
    """Bits that are set in a word: an instruction of the processor."""
    return types.uint64(types.uint64), lambda context, builder, signature, args: builder.ctpop(args[0])


_population: Any = intrinsic(_count)


@kernel
def add_planes(block, words, first, planes, rows, columns, wrapped, masks, nx, found, counted):  # pragma: no cover
    """Add what a block holds to the sums of its frame.

    Parameters
    ----------
    block : numpy.ndarray
        uint64, `planes` times `words`: the planes one after another, that of the lowest bit first.
    words, first : int
        Words of a plane, and which word of the frame is the first.
    planes : int
        Bits of a pixel.
    rows, columns, wrapped, masks, nx
        See `Words`.
    found : numpy.ndarray
        (3,) uint64: sum, and sums of counts times column and times row.
    counted : numpy.ndarray
        (masks,) uint64.
    """
    for plane in range(planes):
        bits = block[plane * words : (plane + 1) * words]
        any_bit = np.uint64(0)
        for i in range(words):
            any_bit |= bits[i]
        if any_bit == 0:
            continue
        total = np.uint64(0)
        moment_x = np.uint64(0)
        moment_y = np.uint64(0)
        for i in range(words):
            word = bits[i]
            count = _population(word)
            later = _population(word & wrapped[first + i])
            place = _population(word & np.uint64(0xAAAAAAAAAAAAAAAA))
            place += _population(word & np.uint64(0xCCCCCCCCCCCCCCCC)) << np.uint64(1)
            place += _population(word & np.uint64(0xF0F0F0F0F0F0F0F0)) << np.uint64(2)
            place += _population(word & np.uint64(0xFF00FF00FF00FF00)) << np.uint64(3)
            place += _population(word & np.uint64(0xFFFF0000FFFF0000)) << np.uint64(4)
            place += _population(word & np.uint64(0xFFFFFFFF00000000)) << np.uint64(5)
            total += count
            moment_x += columns[first + i] * count + place - np.uint64(nx) * later
            moment_y += rows[first + i] * count + later
        shift = np.uint64(plane)
        found[0] += total << shift
        found[1] += moment_x << shift
        found[2] += moment_y << shift
        for k in range(masks.shape[0]):
            part = np.uint64(0)
            for i in range(words):
                part += _population(bits[i] & masks[k, first + i])
            counted[k] += part << shift
