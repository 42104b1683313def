"""Compressed images: what HDF5's filters read, and what is refused before it is read."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bluesky_edgestem.stream.encoding import ENCODINGS, check_layout, compress, decompress
from bluesky_edgestem.stream.series import Chunk, ProtocolError


def picture(shape: tuple[int, int], dtype: str) -> np.ndarray:
    return np.random.default_rng(1).poisson(0.7, shape).astype(dtype)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", ">u2"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 9), (64, 64), (192, 192), (130, 1030)])
def test_what_is_compressed_comes_back(shape: tuple[int, int], dtype: str, encoding: str) -> None:
    image = picture(shape, dtype)
    chunk = compress(image, encoding)
    assert chunk.shape == shape and chunk.dtype == image.dtype
    np.testing.assert_array_equal(decompress(chunk), image)


@pytest.mark.parametrize(("encoding", "filters"), [("bslz4", hdf5plugin.Bitshuffle()), ("lz4", hdf5plugin.LZ4())])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_the_blob_is_hdf5s_chunk(tmp_path: Path, encoding: str, filters: object, dtype: str) -> None:
    image = picture((100, 90), dtype)
    with h5py.File(tmp_path / "file.h5", "w") as file:
        kept = file.create_dataset("kept", data=image[None], chunks=(1, *image.shape), compression=filters)
        _, blob = kept.id.read_direct_chunk((0, 0, 0))
        np.testing.assert_array_equal(decompress(Chunk("", image.shape, image.dtype, encoding, blob)), image)
        ours = file.create_dataset("ours", (1, *image.shape), dtype, chunks=(1, *image.shape), compression=filters)
        ours.id.write_direct_chunk((0, 0, 0), compress(image, encoding).data)
        np.testing.assert_array_equal(ours[0], image)


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(at=st.integers(0, 2**16), value=st.integers(1, 255), cut=st.one_of(st.none(), st.integers(0, 2**16)))
def test_damage_is_refused_or_gives_an_image_of_the_right_size(
    encoding: str, at: int, value: int, cut: int | None
) -> None:
    chunk = compress(picture((70, 70), "uint16"), encoding)
    data = bytearray(chunk.data)
    data[at % len(data)] ^= value
    data = data[: None if cut is None else cut % (len(data) + 1)]
    try:
        image = decompress(chunk._replace(data=bytes(data)))
    except ProtocolError as error:
        assert "data" in error.field
    else:
        assert image.shape == (70, 70)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(ENCODINGS), st.binary(max_size=300))
def test_random_bytes_are_refused_or_decoded(encoding: str, data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decompress(Chunk("", (9, 9), np.dtype("uint16"), encoding, struct.pack(">QI", 162, 8192) + data))


def test_a_header_of_another_size_is_named() -> None:
    chunk = compress(picture((64, 64), "uint16"))
    with pytest.raises(ProtocolError, match=r"header is '8192 bytes'; allowed is 7936, those of the frame"):
        check_layout(chunk._replace(shape=(62, 64)))


def test_a_frame_that_no_blob_of_this_size_can_hold_is_refused_before_anything_is_allocated() -> None:
    blob = struct.pack(">QI", 8192 * 8192 * 2, 8192) + bytes(100)
    with pytest.raises(ProtocolError, match="factor of 255"):
        check_layout(Chunk("", (8192, 8192), np.dtype("uint16"), "bslz4", blob))


def test_block_lengths_that_point_outside_are_refused() -> None:
    chunk = compress(picture((64, 64), "uint16"))
    far = chunk.data[:12] + b"\xff\xff\xff\xf0" + chunk.data[16:]
    with pytest.raises(ProtocolError, match="block lengths"):
        check_layout(chunk._replace(data=far))


def test_a_column_major_image_comes_as_its_bytes_lie() -> None:
    image = picture((6, 9), "uint16")
    chunk = compress(np.asfortranarray(image).T)._replace(shape=(6, 9), column_major=True)
    np.testing.assert_array_equal(decompress(chunk).T, image)
