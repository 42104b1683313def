"""Batches of compressed images: refused as one by one, and reduced to what their pixels are reduced to."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bluesky_edgestem.analysis.reductions import Reducer, Reduction
from bluesky_edgestem.stream import blobs
from bluesky_edgestem.stream.encoding import ENCODINGS, _shuffle, _shuffle_bound, compress, decompress
from bluesky_edgestem.stream.series import Chunk, ProtocolError

SHAPE = (64, 96)


def images(shape: tuple[int, int], dtype: str = "uint16", n: int = 5, rate: float = 0.1) -> list[np.ndarray]:
    """Counts, a few of them near the largest."""
    random = np.random.default_rng(n)
    frames = random.poisson(rate, (n, *shape)).astype(dtype)
    frames[random.random(frames.shape) < 0.01] = np.iinfo(dtype).max - 3
    return list(frames)


def reduced(chunks: Sequence[Chunk], reducer: Reducer) -> tuple[Reduction, list[str]]:
    out = Reduction.zeros(len(chunks), reducer.masks)
    return out, blobs.reduce(chunks, reducer, out)


def check(found: Reduction, frames: Sequence[np.ndarray], reducer: Reducer) -> None:
    """`found` is what the pixels are reduced to: integers exactly, weights but for the order of their sum."""
    expected = reducer.reduce(np.array(frames))
    np.testing.assert_array_equal(found.total, expected.total)
    np.testing.assert_array_equal(found.moments, expected.moments)
    np.testing.assert_array_equal(found.counted, expected.counted)
    np.testing.assert_allclose(found.weighted, expected.weighted, rtol=1e-12)


def with_blocks(image: np.ndarray, block: int) -> Chunk:
    """A bitshuffled chunk with blocks of `block` bytes."""
    item, source = image.dtype.itemsize, np.ascontiguousarray(image)
    out = ctypes.create_string_buffer(_shuffle_bound(image.size, item, block // item))
    length = _shuffle(source.ctypes.data, out, image.size, item, block // item)
    data = struct.pack(">QI", image.nbytes, block) + out.raw[:length]
    return Chunk("", (image.shape[0], image.shape[1]), image.dtype, "bslz4", data)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("shape", [SHAPE, (192, 192), (96, 96), (65, 64), (12, 20), (71, 53)])
@pytest.mark.parametrize("kind", ["none", "pixels", "weights"])
def test_images_are_reduced_to_what_their_pixels_are(
    encoding: str, dtype: str, shape: tuple[int, int], kind: str
) -> None:
    y, x = np.indices(shape)
    masks: dict[str, np.ndarray] = {"upper": y < x, "few": (y + x) % 7 == 0} if kind != "none" else {}
    if kind == "weights":
        masks["ramp"] = x * 0.1 - 1
    reducer = Reducer(shape, masks)
    frames = images(shape, dtype)
    found, reasons = reduced([compress(frame, encoding) for frame in frames], reducer)
    assert reasons == [""] * len(frames)
    check(found, frames, reducer)


@pytest.mark.parametrize("block", [64, 128, 1024, 8192, 16384, 1 << 16, 1 << 17, 96 * 16])
def test_blocks_of_any_size(block: int) -> None:
    reducer, frames = Reducer((192, 192)), images((192, 192))
    chunks = [with_blocks(frame, block) for frame in frames]
    assert blobs.verify(chunks) == [""] * len(frames)
    found, reasons = reduced(chunks, reducer)
    assert reasons == [""] * len(frames)
    check(found, frames, reducer)


def test_all_sorts_of_images_in_one_batch() -> None:
    reducer, frames = Reducer(SHAPE), images(SHAPE, n=6)
    kinds = ["bslz4", "none", "bslz4", "lz4", "lz4-block", "bslz4"]
    chunks = [compress(frame, kind) for frame, kind in zip(frames, kinds, strict=True)]
    turned = compress(np.ascontiguousarray(frames[2].T))
    chunks[2] = turned._replace(shape=SHAPE, column_major=True)
    chunks[5] = chunks[5]._replace(data=chunks[5].data[:-1])
    found, reasons = reduced(chunks, reducer)
    assert [bool(reason) for reason in reasons] == [False] * 5 + [True]
    assert reasons == blobs.verify(chunks)
    check(found, [*frames[:5], np.zeros(SHAPE, np.uint16)], reducer)


def test_more_than_is_handed_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = images(SHAPE, n=30)
    chunks = [compress(frame) for frame in frames]
    monkeypatch.setattr(blobs, "JOINED", 3 * len(chunks[0].data))
    reducer = Reducer(SHAPE)
    found, reasons = reduced(chunks, reducer)
    assert reasons == [""] * 30
    check(found, frames, reducer)
    chunks[7] = chunks[7]._replace(data=b"\xff" * 50)
    assert [k for k, reason in enumerate(blobs.verify(chunks)) if reason] == [7]


def test_nothing_is_nothing() -> None:
    assert blobs.verify([]) == []
    assert reduced([], Reducer(SHAPE))[1] == []


def test_pixels_that_cannot_be_reduced_are_named() -> None:
    swapped = compress(images(SHAPE)[0].astype(">u2"))
    with pytest.raises(TypeError, match="native byte order"):
        reduced([swapped], Reducer(SHAPE))
    with pytest.raises(ValueError, match=r"frames are \(1, 64, 96\); allowed is \(n, 96, 64\)"):
        reduced([compress(images(SHAPE)[0])], Reducer((96, 64)))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damage_is_judged_as_by_the_decoder(dtype: str, data: st.DataObject) -> None:
    """Neither believes what the other refuses; what both take has the same sums."""
    shape = data.draw(st.sampled_from([(64, 64), (96, 96), (9, 9)]))
    chunk = compress(images(shape, dtype, n=1)[0])
    mutated = bytearray(chunk.data)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        mutated[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    chunk = chunk._replace(data=bytes(mutated))
    reducer, frame, reason = Reducer(shape), np.zeros(shape, dtype), ""
    try:
        frame = decompress(chunk)
    except ProtocolError as error:
        reason = str(error)
    assert blobs.verify([chunk, chunk]) == [reason] * 2
    found, reasons = reduced([chunk], reducer)
    assert reasons == [reason]
    check(found, [frame], reducer)
