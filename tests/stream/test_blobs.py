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
from bluesky_edgestem.stream.frames import Frames
from bluesky_edgestem.stream.series import Chunk, Frame, ProtocolError

SHAPE = (64, 96)


def images(shape: tuple[int, int], dtype: str = "uint16", n: int = 5, rate: float = 0.1) -> list[np.ndarray]:
    """Counts, a few of them near the largest."""
    random = np.random.default_rng(n)
    frames = random.poisson(rate, (n, *shape)).astype(dtype)
    frames[random.random(frames.shape) < 0.01] = np.iinfo(dtype).max - 3
    return list(frames)


def batch(*channels: Sequence[Chunk]) -> Frames:
    """Frames with an image of each channel, numbered from 0."""
    return Frames.of([Frame(1, k, chunks, 0.0, 0.0, 0.0) for k, chunks in enumerate(zip(*channels, strict=True))])


def reduced(chunks: Sequence[Chunk], reducer: Reducer) -> tuple[Reduction, list[str]]:
    out = Reduction.zeros(len(chunks), reducer.masks)
    return out, blobs.reduce(batch(chunks), reducer, out)


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
    assert blobs.verify(batch(chunks)) == [""] * len(frames)
    found, reasons = reduced(chunks, reducer)
    assert reasons == [""] * len(frames)
    check(found, frames, reducer)


@pytest.mark.parametrize("kind", ["bslz4", "none", "lz4", "lz4-block", "turned"])
def test_one_that_is_damaged_leaves_the_others_as_they_are(kind: str) -> None:
    reducer, frames = Reducer(SHAPE), images(SHAPE, n=6)
    if kind == "turned":
        turned = [compress(np.ascontiguousarray(frame.T)) for frame in frames]
        chunks = [chunk._replace(shape=SHAPE, column_major=True) for chunk in turned]
    else:
        chunks = [compress(frame, kind) for frame in frames]
    chunks[4] = chunks[4]._replace(data=chunks[4].data[:-1])
    found, reasons = reduced(chunks, reducer)
    assert [k for k, reason in enumerate(reasons) if reason] == [4]
    assert reasons == blobs.verify(batch(chunks))
    frames[4] = np.zeros(SHAPE, np.uint16)
    check(found, frames, reducer)


def test_every_channel_is_verified_and_the_first_one_reduced() -> None:
    reducer, frames = Reducer(SHAPE), images(SHAPE)
    first, second = ([compress(frame, "bslz4", name) for frame in frames] for name in ("a", "b"))
    second[1] = compress(frames[0], "bslz4", "b")
    second[3] = second[3]._replace(data=b"\xff" * 50)
    assert [k for k, reason in enumerate(blobs.verify(batch(first, second))) if reason] == [3]
    out = Reduction.zeros(len(frames), reducer.masks)
    assert blobs.reduce(batch(first, second), reducer, out) == [""] * len(frames)
    check(out, frames, reducer)


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
    assert blobs.verify(batch([chunk, chunk])) == [reason] * 2
    found, reasons = reduced([chunk], reducer)
    assert reasons == [reason]
    check(found, [frame], reducer)
