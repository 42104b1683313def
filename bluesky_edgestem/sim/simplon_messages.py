"""The messages of both SIMPLON streams, as a detector sends them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import cbor2
import numpy as np
import orjson

from ..stream.protocol_v2 import TYPED_ARRAYS
from ..stream.series import Chunk

TAGS = {(dtype.kind, dtype.itemsize, dtype.byteorder): tag for tag, dtype in TYPED_ARRAYS.items() if tag != 68}
CLOCK = 50_000_000
"""Ticks a second of the clock that stream v2 counts in."""
OPEN = "\0open"
"""Stands in a template of a message for what each message says for itself."""
UINT64 = b"\x1b"
"""First byte of CBOR's head of a number of 8 bytes: of one size, whatever its value."""


class Messages(Protocol):
    """How a protocol says what there is to say; each a list of messages, or the parts of one."""

    def start(self, series: int, detail: str, config: Mapping[str, Any], frames: int) -> list[bytes]:
        """Parts of the message before the first frame."""
        ...

    def frame(self, series: int, number: int, chunks: Sequence[Chunk], start: float, stop: float) -> list[bytes]:
        """Parts of a frame's message; times are in s since the series began."""
        ...

    def end(self, series: int) -> list[bytes]:
        """Parts of the message after the last frame."""
        ...


class MessagesV1:
    """Stream v1, of one channel."""

    def __init__(self, appendix: str = "") -> None:
        self._appendix = [appendix.encode()] if appendix else []
        self._described: dict[tuple, bytes] = {}

    def start(self, series: int, detail: str, config: Mapping[str, Any], frames: int) -> list[bytes]:
        """See `Messages.start`; with the detail "all", flatfield, pixel mask and count rate table follow."""
        parts = [orjson.dumps({"htype": "dheader-1.0", "series": series, "header_detail": detail})]
        if detail != "none":
            parts.append(orjson.dumps(dict(config)))
        if detail == "all":
            nx, ny = config["x_pixels_in_detector"], config["y_pixels_in_detector"]
            for kind, (x, y), dtype in (
                ("dflatfield-1.0", (nx, ny), "float32"),
                ("dpixelmask-1.0", (nx, ny), "uint32"),
                ("dcountrate_table-1.0", (2, 1000), "float32"),
            ):
                parts.append(orjson.dumps({"htype": kind, "shape": [x, y], "type": dtype}))
                parts.append(np.zeros((y, x), dtype).tobytes())
        return parts

    def frame(self, series: int, number: int, chunks: Sequence[Chunk], start: float, stop: float) -> list[bytes]:
        """See `Messages.frame`."""
        (chunk,) = chunks
        key = chunk.shape, chunk.dtype, chunk.encoding, len(chunk.data)
        described = self._described.get(key)
        if described is None:
            described = self._described[key] = orjson.dumps(
                {
                    "htype": "dimage_d-1.0",
                    "shape": list(chunk.shape[::-1]),
                    "type": chunk.dtype.name,
                    "encoding": encoding_name(chunk),
                    "size": len(chunk.data),
                }
            )
        begin, end = round(start * 1e9), round(stop * 1e9)
        return [
            b'{"htype":"dimage-1.0","series":%d,"frame":%d,"hash":"%s"}' % (series, number, digest(chunk.data)),
            described,
            chunk.data,
            b'{"htype":"dconfig-1.0","start_time":%d,"stop_time":%d,"real_time":%d}' % (begin, end, end - begin),
            *self._appendix,
        ]

    def end(self, series: int) -> list[bytes]:
        """See `Messages.end`."""
        return [orjson.dumps({"htype": "dseries_end-1.0", "series": series})]


@lru_cache(maxsize=128)
def digest(data: bytes) -> bytes:
    """MD5 of a blob, as the detector gives it; frames that are sent in turn are digested once."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest().encode()


def encoding_name(chunk: Chunk) -> str:
    """``bs16-lz4<`` and the like."""
    order = ">" if chunk.dtype.byteorder == ">" else "<"
    names = {"bslz4": f"bs{8 * chunk.dtype.itemsize}-lz4", "lz4-block": "lz4", "none": ""}
    return names[chunk.encoding] + order


class MessagesV2:
    """Stream v2, of one channel or several."""

    def __init__(self, channels: Sequence[str] = ("threshold_1",)) -> None:
        self.channels = tuple(channels)

    def start(self, series: int, detail: str, config: Mapping[str, Any], frames: int) -> list[bytes]:
        """See `Messages.start`."""
        message: dict[str, Any] = {
            "type": "start",
            "series_id": series,
            "series_unique_id": unique(series),
            "number_of_images": frames,
            "image_size_x": config["x_pixels_in_detector"],
            "image_size_y": config["y_pixels_in_detector"],
            "image_dtype": f"uint{config['bit_depth_image']}",
            "channels": list(self.channels),
            "count_time": config["count_time"],
            "frame_time": config["frame_time"],
            "detector_description": config["description"],
            "detector_serial_number": config["detector_number"],
            "pixel_size_x": config["x_pixel_size"],
            "pixel_size_y": config["y_pixel_size"],
            "sensor_material": config["sensor_material"],
            "sensor_thickness": config["sensor_thickness"],
            "beam_center_x": config["beam_center_x"],
            "beam_center_y": config["beam_center_y"],
            "incident_energy": config["incident_energy"],
            "saturation_value": config["countrate_correction_count_cutoff"],
        }
        if detail == "all":
            ny, nx = config["y_pixels_in_detector"], config["x_pixels_in_detector"]
            table = cbor2.CBORTag(40, [[ny, nx], cbor2.CBORTag(85, bytes(4 * ny * nx))])
            message["flatfield"] = dict.fromkeys(self.channels, table)
        return [_tagged(message)]

    def frame(self, series: int, number: int, chunks: Sequence[Chunk], start: float, stop: float) -> list[bytes]:
        """See `Messages.frame`."""
        begin, end = round(start * CLOCK), round(stop * CLOCK)
        numbers, (a, b, c, d), before = _template(series)
        data = _data(self.channels, tuple(chunks))
        return [numbers.pack(a, number, b, begin, c, end, d, end - begin, before) + data]

    def end(self, series: int) -> list[bytes]:
        """See `Messages.end`."""
        return [_tagged({"type": "end", "series_id": series, "series_unique_id": unique(series)})]


def unique(series: int) -> str:
    """A name of the series' own, of the form that the detector's have."""
    return f"01HBV3JPF9T4ZDPADX{series:08d}"


@lru_cache(maxsize=1)
def _template(series: int) -> tuple[struct.Struct, Sequence[bytes], bytes]:
    """What is the same before the data of a series' images, and what packs it together with what is not.

    Four pieces have a number behind them each, then comes the last. To put them together takes a tenth of the time that
    the general encoder takes.
    """
    message = {
        "type": "image",
        "series_id": series,
        "series_unique_id": unique(series),
        "image_id": OPEN,
        "start_time": [OPEN, CLOCK],
        "stop_time": [OPEN, CLOCK],
        "real_time": [OPEN, CLOCK],
        "data": OPEN,
    }
    *pieces, before, _ = _tagged(message).split(cbor2.dumps(OPEN))
    packed = "".join(f"{len(piece) + 1}sQ" for piece in pieces)
    return struct.Struct(f">{packed}{len(before)}s"), [piece + UINT64 for piece in pieces], before


@lru_cache(maxsize=128)
def _data(channels: Sequence[str], chunks: Sequence[Chunk]) -> bytes:
    """The channels' images; of frames that are sent in turn they are encoded once."""
    return cbor2.dumps({name: _array(chunk) for name, chunk in zip(channels, chunks, strict=True)})


def _array(chunk: Chunk) -> cbor2.CBORTag:
    held: Any = chunk.data
    if chunk.encoding != "none":
        held = cbor2.CBORTag(56500, [chunk.encoding, chunk.dtype.itemsize, chunk.data])
    order = "|" if chunk.dtype.itemsize == 1 else ">" if chunk.dtype.byteorder == ">" else "<"
    tag = TAGS.get((chunk.dtype.kind, chunk.dtype.itemsize, order))
    if tag is None:
        tag = TAGS[chunk.dtype.kind, chunk.dtype.itemsize, "="]
    return cbor2.CBORTag(1040 if chunk.column_major else 40, [list(chunk.shape), cbor2.CBORTag(tag, held)])


def _tagged(message: dict[str, Any]) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(55799, message))
