"""Sums from bit planes are those of the pixels, exactly."""

from __future__ import annotations

import numpy as np
import pytest

from bluesky_edgestem.analysis.bit_planes import WORD, Words, add_planes, fits

RANDOM = np.random.default_rng(5)


def planes_of(pixels: np.ndarray) -> np.ndarray:
    """Bits of (n,) pixels: those of the lowest value first, a bit for each pixel in a plane."""
    bits = 8 * pixels.dtype.itemsize
    return np.concatenate([np.packbits((pixels >> k) & 1, bitorder="little") for k in range(bits)]).view(np.uint64)


@pytest.mark.parametrize("shape", [(1, 64), (64, 64), (192, 192), (96, 96), (64, 65), (128, 127), (16, 100)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("kind", ["sparse", "any count", "saturated"])
def test_sums_and_moments(shape: tuple[int, int], dtype: str, kind: str) -> None:
    most = np.iinfo(dtype).max
    frame = RANDOM.integers(0, most, shape, dtype, endpoint=True)
    if kind == "sparse":
        frame = RANDOM.poisson(0.02, shape).astype(dtype)
    elif kind == "saturated":
        frame[:] = most
    masks = [RANDOM.random(shape) < 0.3, np.ones(shape, bool), np.zeros(shape, bool)]
    words = Words.of(shape, masks)
    found, counted = np.zeros(3, np.uint64), np.zeros(3, np.uint64)
    pixels, size = frame.ravel(), 16 * WORD
    for first in range(0, frame.size, size):  # block by block
        part = pixels[first : first + size]
        where = words.rows, words.columns, words.wrapped, words.masks, words.nx
        count, begin = np.uint64(part.size // WORD), np.uint64(first // WORD)
        add_planes(planes_of(part), count, begin, 8 * frame.itemsize, *where, found, counted)
    y, x = np.indices(shape, np.uint64)
    wide = frame.astype(np.uint64)
    assert found.tolist() == [wide.sum(), (wide * x).sum(), (wide * y).sum()]
    assert counted.tolist() == [wide[mask].sum() for mask in masks]


@pytest.mark.parametrize(
    ("shape", "allowed"),
    [((192, 192), True), ((96, 96), True), ((64, 65), True), ((10, 70), False), ((64, 63), False), ((512, 32), False)],
)
def test_frames_of_whole_words_in_at_most_two_rows(shape: tuple[int, int], allowed: bool) -> None:
    assert fits(shape) is allowed
