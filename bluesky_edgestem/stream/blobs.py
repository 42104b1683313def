"""Compressed images by the batch, verified or reduced to their sums, in compiled code without the interpreter's lock.

A bitshuffled image is unpacked block by block, by the LZ4 of the very filter that reads the file later, and reduced
while the block is in the core's first cache. Its pixels are not put together: sums and moments are those of its bit
planes, see `analysis.bit_planes`. An image in another encoding, or of another layout, is decoded and reduced as pixels;
one that cannot be decoded is refused in the words of `encoding.decompress`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from ..analysis.bit_planes import WORD, Words, add_planes
from ..analysis.kernels import kernel
from ..analysis.reductions import PIXEL_TYPES, Reducer, Reduction, check_pixels
from .encoding import LZ4_DECOMPRESS, compress, decompress
from .foreign import call
from .frames import Frames
from .series import Frame, ProtocolError

MAX_BLOCK = 1 << 16
"""Bytes of the largest block that is unpacked here; detectors and HDF5 make them of 8 KiB."""
GROUP = 8
"""Pixels that bitshuffle shuffles together at least; those of an image's end that are fewer are stored as they are."""
NOWHERE = Words.of((1, WORD))


def verify(frames: Frames) -> list[str]:
    """For each frame "", or why one of its images cannot be decoded."""
    reasons = [""] * len(frames)
    for channel in range(len(frames.layouts)):
        for place in _in_doubt(frames, channel, None, NOWHERE):
            try:
                decompress(frames.chunk(place, channel))
            except ProtocolError as error:
                reasons[place] = reasons[place] or str(error)
    return reasons


def reduce(frames: Frames, reducer: Reducer, out: Reduction) -> list[str]:
    """Reduce the first channel into `out`, of the same length and all zeros; zeros stay for what cannot be decoded.

    Returns
    -------
    list of str
        For each frame "", or why it cannot be decoded.

    Raises
    ------
    TypeError, ValueError
        The pixels are none that `reducer` takes.
    """
    reasons = [""] * len(frames)
    words = reducer.words
    places: Sequence[int] = range(len(frames))
    like = frames.layouts[0]
    if words is not None and like.dtype in PIXEL_TYPES and like.shape == reducer.shape:
        check_pixels(like.dtype, like.shape)
        places = _in_doubt(frames, 0, out, words)
    for place in places:
        chunk = frames.chunk(place)
        try:
            image = decompress(chunk)
        except ProtocolError as error:
            reasons[place] = str(error)
            continue
        upright = np.ascontiguousarray(image.T) if chunk.column_major else image
        reducer.reduce_into(upright[None], out[place : place + 1])
    return reasons


@cache
def load() -> None:
    """Load the compiled code, which takes seconds where it has to be compiled: before frames come."""
    verify(Frames.of([Frame(0, 0, (compress(np.zeros((1, WORD), np.uint16)),), 0.0, 0.0, 0.0)]))


def _in_doubt(frames: Frames, channel: int, out: Reduction | None, words: Words) -> Sequence[int]:
    """Unpack what can be, and reduce it where there is an `out`; gives the places of all other images."""
    _, (ny, nx), dtype, encoding, column_major = frames.layouts[channel]
    n = len(frames)
    if encoding != "bslz4" or column_major:
        return range(n)
    item = dtype.itemsize
    found = np.zeros((n, 3), np.uint64)
    counted = np.zeros((n, len(words.masks)), np.uint64)
    good = np.zeros(n, np.bool_)
    layout = (GROUP, 0) if out is None else (WORD, 8 * item)
    where = words.rows, words.columns, words.wrapped, words.masks, words.nx
    blobs = frames.data, frames.begins[channel], frames.ends[channel]
    _unpack(LZ4_DECOMPRESS, *blobs, ny * nx, item, *layout, *where, found, counted, good)
    if out is not None:
        out.total[good], out.moments[good], out.counted[good] = found[good, 0], found[good, 1:], counted[good]
    return np.flatnonzero(~good).tolist()


@kernel
def _number(blobs, at, nbytes):  # pragma: no cover
    """The whole number in `nbytes` from `at` on, most significant byte first."""
    number = 0
    for byte in blobs[at : at + nbytes]:
        number = number << 8 | np.int64(byte)
    return number


@kernel
def _unpack(
    lz4, blobs, begins, ends, pixels, item, unit, planes, rows, columns, wrapped, masks, nx, found, counted, good
):  # pragma: no cover
    """Unpack bitshuffled blobs, which are in `blobs` from `begins` to `ends`, and add up their first `planes`.

    `good` says which could be: those whose lengths account for every byte, and whose blocks are of whole `unit` pixels.
    """
    block = np.empty(MAX_BLOCK // 8, np.uint64)
    source, target = np.uint64(blobs.ctypes.data), np.uint64(block.ctypes.data)
    loose = pixels % GROUP * item
    shuffled = pixels * item - loose
    for i in range(ends.size):
        at, end = begins[i] + 12, ends[i] - loose
        if at > end or _number(blobs, at - 12, 8) != pixels * item:
            continue
        room = _number(blobs, at - 4, 4)
        if room == 0 or room > MAX_BLOCK or room % (unit * item):
            continue
        done = 0
        while done < shuffled and at + 4 <= end:
            here = min(room, shuffled - done)
            length = _number(blobs, at, 4)
            at += 4
            if length > min(end - at, 2 * MAX_BLOCK):
                break
            arguments = source + np.uint64(at), target, np.int32(length), np.int32(here)
            if np.int32(call(lz4, arguments)) != here:
                break
            if planes:
                words, first = np.uint64(here // (item * WORD)), np.uint64(done // (item * WORD))
                add_planes(block, words, first, planes, rows, columns, wrapped, masks, nx, found[i], counted[i])
            at += length
            done += here
        good[i] = done == shuffled and at == end
