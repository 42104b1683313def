"""Compressed images by the batch, verified or reduced to their sums, in compiled code without the interpreter's lock.

A bitshuffled image is unpacked block by block, by the LZ4 of the very filter that reads the file later, and reduced
while the block is in the core's first cache. Its pixels are not put together: sums and moments are those of its bit
planes, see `analysis.bit_planes`. An image in another encoding, or of another layout, is decoded and reduced as pixels;
one that cannot be decoded is refused in the words of `encoding.decompress`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from ..analysis.bit_planes import WORD, Words, add_planes
from ..analysis.reductions import PIXEL_TYPES, Reducer, Reduction, check_pixels
from .encoding import LZ4_DECOMPRESS, compress, decompress
from .series import Chunk, ProtocolError

JOINED = 1 << 20
"""Bytes of images that are handed to the compiled code at once; a larger one goes alone."""
MAX_BLOCK = 1 << 16
"""Bytes of the largest block that is unpacked here; detectors and HDF5 make them of 8 KiB."""
GROUP = 8
"""Pixels that bitshuffle shuffles together at least; those of an image's end that are fewer are stored as they are."""
NOWHERE = Words.of((1, WORD))


def verify(chunks: Sequence[Chunk]) -> list[str]:
    """For each chunk "", or why it cannot be decoded."""
    reasons = [""] * len(chunks)
    for place in _in_doubt(chunks, None, NOWHERE):
        try:
            decompress(chunks[place])
        except ProtocolError as error:
            reasons[place] = str(error)
    return reasons


def reduce(chunks: Sequence[Chunk], reducer: Reducer, out: Reduction) -> list[str]:
    """Reduce `chunks` into `out`, of the same length and all zeros; they stay zeros for what cannot be decoded.

    Returns
    -------
    list of str
        For each chunk "", or why it cannot be decoded.

    Raises
    ------
    TypeError, ValueError
        The pixels are none that `reducer` takes.
    """
    reasons = [""] * len(chunks)
    words = reducer.words
    places: Iterator[int] | range = range(len(chunks))
    if words is not None and chunks and chunks[0].dtype in PIXEL_TYPES and chunks[0].shape == reducer.shape:
        check_pixels(chunks[0].dtype, reducer.shape)
        places = _in_doubt(chunks, out, words)
    for place in places:
        chunk = chunks[place]
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
    verify([compress(np.zeros((1, WORD), np.uint16))])


def _in_doubt(chunks: Sequence[Chunk], out: Reduction | None, words: Words) -> Iterator[int]:
    """Unpack what can be, and reduce it where there is an `out`; gives the places of all other chunks."""
    like = chunks[0] if chunks else None
    group: list[int] = []
    size = 0
    for place, chunk in enumerate(chunks):
        _, shape, dtype, encoding, data, column_major = chunk
        assert like is not None
        if encoding != "bslz4" or column_major or shape != like.shape or dtype != like.dtype:
            yield place
            continue
        if group and size + len(data) > JOINED:
            yield from _unpacked(chunks, group, out, words)
            group, size = [], 0
        group.append(place)
        size += len(data)
    if group:
        yield from _unpacked(chunks, group, out, words)


def _unpacked(chunks: Sequence[Chunk], group: list[int], out: Reduction | None, words: Words) -> list[int]:
    """As `_in_doubt`, for chunks of one layout."""
    blobs = [chunks[place].data for place in group]
    ends = np.cumsum([len(blob) for blob in blobs], dtype=np.int64)
    joined = np.frombuffer(b"".join(blobs), np.uint8)
    like = chunks[group[0]]
    item, pixels = like.dtype.itemsize, like.shape[0] * like.shape[1]
    found = np.zeros((len(group), 3), np.uint64)
    counted = np.zeros((len(group), len(words.masks)), np.uint64)
    good = np.zeros(len(group), np.bool_)
    layout = (GROUP, 0) if out is None else (WORD, 8 * item)
    where = words.rows, words.columns, words.wrapped, words.masks, words.nx
    _unpack(LZ4_DECOMPRESS, joined, ends, pixels, item, *layout, *where, found, counted, good)
    places = np.array(group)
    if out is not None:
        there = places[good]
        out.total[there], out.moments[there], out.counted[there] = found[good, 0], found[good, 1:], counted[good]
    return [] if good.all() else places[~good].tolist()


def _call(typingctx, function, source, target, length, room):
    """``LZ4_decompress_safe`` at the address `function`; the other arguments are its own."""
    signature = types.int32(types.uint64, types.uint64, types.uint64, types.int32, types.int32)

    def generate(context, builder, signature, args):
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(number, [byte, byte, number, number]).as_pointer()
        pointers = (builder.inttoptr(arg, t) for arg, t in zip(args, (kind, byte, byte), strict=False))
        function, source, target = pointers
        return builder.call(function, [source, target, *args[3:]])

    return signature, generate


_decompress: Any = intrinsic(_call)


@njit(nogil=True, cache=True, error_model="numpy")
def _number(blobs, at, nbytes):  # pragma: no cover
    """The whole number in `nbytes` from `at` on, most significant byte first."""
    number = 0
    for byte in blobs[at : at + nbytes]:
        number = number << 8 | np.int64(byte)
    return number


@njit(nogil=True, cache=True, error_model="numpy")
def _unpack(
    lz4, blobs, ends, pixels, item, unit, planes, rows, columns, wrapped, masks, nx, found, counted, good
):  # pragma: no cover
    """Unpack bitshuffled blobs, one behind the other in `blobs` up to their `ends`, and add up their first `planes`.

    `good` says which could be: those whose lengths account for every byte, and whose blocks are of whole `unit` pixels.
    """
    block = np.empty(MAX_BLOCK // 8, np.uint64)
    source, target = np.uint64(blobs.ctypes.data), np.uint64(block.ctypes.data)
    loose = pixels % GROUP * item
    shuffled = pixels * item - loose
    begin = 0
    for i in range(ends.size):
        at, end = begin + 12, ends[i] - loose
        begin = ends[i]
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
            if _decompress(lz4, source + np.uint64(at), target, np.int32(length), np.int32(here)) != here:
                break
            if planes:
                words, first = np.uint64(here // (item * WORD)), np.uint64(done // (item * WORD))
                add_planes(block, words, first, planes, rows, columns, wrapped, masks, nx, found[i], counted[i])
            at += length
            done += here
        good[i] = done == shuffled and at == end
