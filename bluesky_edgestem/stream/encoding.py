"""Compressed images: checked before they are believed, decompressed in compiled code without the interpreter's lock.

The C functions are those of the bitshuffle filter that hdf5plugin carries, so that what is checked here is decoded by
the very code that will read the file.
"""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

import hdf5plugin
import numpy as np

from .series import Chunk, ProtocolError

ENCODINGS = ("bslz4", "lz4", "lz4-block", "none")
BLOCK = 8192
"""Bytes of a bitshuffle block, as the detector and HDF5 have it."""
MAX_BLOCK = 1 << 30
MAX_RATIO = 255
"""By which LZ4 shortens at most: what a message makes us allocate stays in proportion to what came."""

_library = ctypes.CDLL(str(Path(hdf5plugin.PLUGIN_PATH) / "libh5bshuf.so"))
_void, _size = ctypes.c_void_p, ctypes.c_size_t
_unshuffle = _library.bshuf_decompress_lz4
_unshuffle.restype, _unshuffle.argtypes = ctypes.c_int64, [_void, _void, _size, _size, _size]
_shuffle = _library.bshuf_compress_lz4
_shuffle.restype, _shuffle.argtypes = ctypes.c_int64, [_void, _void, _size, _size, _size]
_shuffle_bound = _library.bshuf_compress_lz4_bound
_shuffle_bound.restype, _shuffle_bound.argtypes = _size, [_size, _size, _size]
_unpack = _library.LZ4_decompress_safe
_unpack.restype, _unpack.argtypes = ctypes.c_int, [_void, _void, ctypes.c_int, ctypes.c_int]
LZ4_DECOMPRESS = np.uint64(ctypes.cast(_unpack, _void).value or 0)
"""Address of ``LZ4_decompress_safe``, for compiled code."""
_pack = _library.LZ4_compress_default
_pack.restype, _pack.argtypes = ctypes.c_int, [_void, _void, ctypes.c_int, ctypes.c_int]

_header = struct.Struct(">QI")
_length = struct.Struct(">I")


def _wrong(chunk: Chunk, what: str) -> ProtocolError:
    return ProtocolError(f"data ({chunk.encoding})", f"{len(chunk.data)} bytes", what)


def nbytes(chunk: Chunk) -> int:
    """Size of the decompressed image [bytes]."""
    return chunk.shape[0] * chunk.shape[1] * chunk.dtype.itemsize


def check_header(chunk: Chunk) -> int:
    """Check that a blob can hold its image, and says that it does; gives the size of its blocks [bytes], or 0.

    Raises
    ------
    ProtocolError
    """
    _, (ny, nx), dtype, encoding, data, _ = chunk
    size = ny * nx * dtype.itemsize
    if encoding == "none":
        if len(data) != size:
            raise _wrong(chunk, f"{size}, those of the frame")
        return 0
    if encoding == "lz4-block":
        if not size // MAX_RATIO <= len(data) <= size + size // 255 + 16:
            raise _wrong(chunk, f"within LZ4's bounds for a frame of {size} bytes")
        return 0
    if len(data) < 12:
        raise _wrong(chunk, "a header of 12 bytes, then blocks")
    if size > MAX_RATIO * len(data):
        raise _wrong(chunk, f"at least {size // MAX_RATIO}, as LZ4 shortens {size} bytes by a factor of 255 at most")
    declared, block = _header.unpack_from(data)
    if declared != size:
        raise ProtocolError(f"data ({encoding}) header", f"{declared} bytes", f"{size}, those of the frame")
    return block


def headers_fit(
    shape: tuple[int, int], dtype: np.dtype, encoding: str, data: np.ndarray, begins: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """Which of many blobs `check_header` would let pass, (n,) bool.

    Parameters
    ----------
    shape, dtype, encoding
        Of their images.
    data : numpy.ndarray
        (bytes,) uint8.
    begins, ends : numpy.ndarray
        (n,) int64, where they are in `data`.
    """
    lengths = ends - begins
    size = shape[0] * shape[1] * dtype.itemsize
    if encoding == "none":
        return lengths == size
    if encoding == "lz4-block":
        return (size // MAX_RATIO <= lengths) & (lengths <= size + size // 255 + 16)
    fit = (lengths >= _header.size) & (size <= MAX_RATIO * lengths)
    heads = data[begins[fit, None] + np.arange(8)]
    fit[fit] = heads.view(">u8")[:, 0] == size
    return fit


def check_layout(chunk: Chunk) -> None:
    """Check that headers and block lengths account for every byte: nothing behind the blob would ever be read.

    Raises
    ------
    ProtocolError
    """
    block = check_header(chunk)
    if chunk.encoding == "bslz4":
        _check_shuffled(chunk, block)
    elif chunk.encoding == "lz4":
        _check_framed(chunk, block)


def _check_shuffled(chunk: Chunk, block: int) -> None:
    item = chunk.dtype.itemsize
    pixels = chunk.shape[0] * chunk.shape[1]
    if not 0 < block <= MAX_BLOCK or block % (8 * item):
        raise ProtocolError("data (bslz4) block size", f"{block} bytes", f"a multiple of {8 * item} bytes")
    whole = pixels // 8 * 8 * item
    at, end = 12, len(chunk.data) - (pixels % 8) * item  # pixels that fill no group of eight come last, as they are
    for _ in range(-(-whole // block)):
        if at + 4 > end:
            break
        at += 4 + _length.unpack_from(chunk.data, at)[0]
    else:
        if at == end:
            return
    raise _wrong(chunk, f"what its block lengths add up to; they reach byte {at} of {end}")


def _check_framed(chunk: Chunk, block: int) -> None:
    size, at = nbytes(chunk), 12
    if not 0 < block <= MAX_BLOCK:
        raise ProtocolError("data (lz4) block size", f"{block} bytes", f"1 to {MAX_BLOCK} bytes")
    for start in range(0, size, max(block, 1)):
        if at + 4 > len(chunk.data):
            raise _wrong(chunk, f"blocks for {size} bytes; they end at byte {start}")
        at += 4 + _length.unpack_from(chunk.data, at)[0]
        if at > len(chunk.data):
            break
    if at != len(chunk.data):
        raise _wrong(chunk, f"what its block lengths add up to; they reach byte {at}")


def decompress(chunk: Chunk, out: np.ndarray | None = None) -> np.ndarray:
    """The image (ny, nx) of a chunk; of a column-major one its transpose (nx, ny), in the order of its bytes.

    Parameters
    ----------
    chunk : Chunk
    out : numpy.ndarray, optional
        Contiguous array of the image's shape and type to write to.

    Raises
    ------
    ProtocolError
        The bytes do not decode to an image of this shape and type.
    """
    check_layout(chunk)
    shape = chunk.shape[::-1] if chunk.column_major else chunk.shape
    if out is None:
        out = np.empty(shape, chunk.dtype)
    elif out.shape != shape or out.dtype != chunk.dtype or not out.flags.c_contiguous:
        raise ValueError(f"a {shape} {chunk.dtype} image does not go into a {out.shape} {out.dtype} array")
    data, target, size = chunk.data, out.ctypes.data, out.nbytes
    source = _address(data)
    if chunk.encoding == "bslz4":
        item = chunk.dtype.itemsize
        block = _header.unpack_from(data)[1]
        if _unshuffle(source + 12, target, out.size, item, block // item) != len(data) - 12:
            raise _wrong(chunk, f"bitshuffled LZ4 of {size} bytes")
    elif chunk.encoding == "lz4":
        _decompress_framed(chunk, target, size)
    elif chunk.encoding == "lz4-block":
        if _unpack(data, target, len(data), size) != size:
            raise _wrong(chunk, f"an LZ4 block of {size} bytes")
    else:
        ctypes.memmove(target, data, size)
    return out


def _address(data: bytes) -> int:
    return ctypes.cast(ctypes.c_char_p(data), _void).value or 0


def _decompress_framed(chunk: Chunk, target: int, size: int) -> None:
    data, at, done = chunk.data, 12, 0
    block = _header.unpack_from(data)[1]
    source = _address(data)
    while done < size:
        (length,) = _length.unpack_from(data, at)
        here = min(block, size - done)
        at += 4
        if length == here:  # HDF5's filter keeps a block as it is where LZ4 does not shorten it
            ctypes.memmove(target + done, source + at, here)
        elif _unpack(source + at, target + done, length, here) != here:
            raise _wrong(chunk, f"LZ4 blocks of {size} bytes")
        at, done = at + length, done + here


def compress(image: np.ndarray, encoding: str = "bslz4", channel: str = "") -> Chunk:
    """A chunk of `image` (ny, nx), as a detector would send it.

    Parameters
    ----------
    image : numpy.ndarray
    encoding : {"bslz4", "lz4", "lz4-block", "none"}
    """
    image = np.ascontiguousarray(image)
    size, item, source = image.nbytes, image.dtype.itemsize, image.ctypes.data
    ny, nx = image.shape
    if encoding == "none":
        data = image.tobytes()
    elif encoding == "bslz4":
        block = BLOCK // item
        out = ctypes.create_string_buffer(_shuffle_bound(image.size, item, block))
        length = _shuffle(source, out, image.size, item, block)
        data = shuffled_header((ny, nx), image.dtype) + out.raw[:length]
    elif encoding in ("lz4", "lz4-block"):
        out = ctypes.create_string_buffer(size + size // 255 + 16)
        length = _pack(source, out, size, len(out))
        data = out.raw[:length]
        if encoding == "lz4":
            data = frame_block(data if length < size else image.tobytes(), size)
    else:
        raise ValueError(f"no encoding is called {encoding!r}; there are {', '.join(ENCODINGS)}")
    return Chunk(channel, (ny, nx), image.dtype, encoding, data)


def shuffled_header(shape: tuple[int, int], dtype: np.dtype) -> bytes:
    """The header of a bitshuffled image with blocks of the default size."""
    return _header.pack(shape[0] * shape[1] * dtype.itemsize, BLOCK)


def frame_block(block: bytes, size: int) -> bytes:
    """HDF5's LZ4 framing around one block that holds `size` bytes."""
    return _header.pack(size, size) + _length.pack(len(block)) + block
