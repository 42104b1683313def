"""SIMPLON stream v1: JSON parts around each blob, several parts to a message.

Series header: ``dheader-1.0``, and the detector's configuration without a type of its own, in one message or in two.
Frame: ``dimage-1.0``, ``dimage_d-1.0``, the blob, ``dconfig-1.0``. End: ``dseries_end-1.0``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from . import json_images, plain_images
from .encoding import check_header, shuffled_header
from .frames import Frames, Layout, gathered
from .json_images import MAX_JSON
from .messages import Messages
from .plain_images import ENCODING, SHAPE, TYPE
from .series import (
    PIXEL_TYPES,
    Chunk,
    End,
    Event,
    Frame,
    ProtocolError,
    Series,
    frames_expected,
    number_in,
    shape_of,
)

KNOWN = 1024
"""Descriptions of images that are remembered: but for the size of the blob they are the same for all of a series."""
KNOWN_BYTES = 4096
"""Size of the longest description that is remembered; a detector's are of some hundred bytes."""
NAMED = re.compile(r"(?:bs(8|16|32|64)-)?(lz4)?([<>])")
EMPTY = bytes(12)
"""A header that was left empty, as libertem-dectris does in frames of its own: the blocks have the default size."""
TABLES = ("dflatfield-1.0", "flatfield-1.0", "dpixelmask-1.0", "dcountrate_table-1.0")
"""Arrays that come with the header where ``header_detail`` is "all", each with a blob behind it."""


class ProtocolV1:
    """Makes events of the messages of one detector. Several threads may call `events`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._announced: int | None = None
        self._config: dict[str, Any] | None = None
        self._known: dict[bytes, Image] = {}
        json_images.read(Messages.of([[b""]]))  # loads the compiled code: before frames come

    def all_events(self, messages: Messages) -> list[Series | Frames | End | ProtocolError]:
        """What messages say, or why they are refused."""

        def general(k: int) -> Iterator[Event | ProtocolError]:
            try:
                yield from self.events(messages[k])
            except ProtocolError as error:
                yield error

        rows = json_images.read(messages)
        return list(gathered(plain_images.events(rows, messages.data, _layout, general)))

    def events(self, parts: Sequence[bytes]) -> list[Event]:
        """What a message says, by the general decoder.

        Raises
        ------
        ProtocolError
            The message, or what is left of it, is no such message; the events before it are lost with it.
        """
        found: list[Event] = []
        at = 0
        while at < len(parts):
            head = _json(parts[at], f"part {at}")
            kind = head.get("htype")
            if kind == "dimage-1.0":
                found.append(self._frame(head, parts[at + 1 : at + 4]))
                at += 4
                if at < len(parts) and not _has_type(parts[at]):
                    at += 1  # the appendix that a user may have set
            elif kind == "dheader-1.0":
                found += self._header(number_in(head, "series", kind), head.get("header_detail"), None)
                at += 1
            elif kind is None:
                found += self._header(None, None, head)
                at += 1
            elif kind == "dseries_end-1.0":
                found.append(End(number_in(head, "series", kind)))
                at += 1
            elif kind in TABLES:
                at += 2
            else:
                raise ProtocolError("htype", kind, "one of stream v1: dheader, dimage, dseries_end, all -1.0")
        return found

    def _header(self, number: int | None, detail: object, config: dict[str, Any] | None) -> list[Series]:
        # Header and configuration may be two messages, and two workers may take them in either order.
        with self._lock:
            if number is not None:
                self._announced = number
            if config is not None:
                self._config = config
            if detail == "none" and self._announced is not None:
                series = Series(self._announced, None, None, None)
                self._announced = None
                return [series]
            if self._announced is None or self._config is None:
                return []
            number, config = self._announced, self._config
            self._announced = self._config = None
        return [_series(number, config)]

    def _frame(self, head: dict[str, Any], parts: Sequence[bytes]) -> Frame:
        series, number = number_in(head, "series", "dimage-1.0"), number_in(head, "frame", "dimage-1.0")
        try:
            if len(parts) < 3:
                raise ProtocolError("dimage-1.0", f"{len(parts) + 1} parts", "4: dimage, dimage_d, blob, dconfig")
            described, blob, timed = parts
            image = self._known.get(described) or self._image(described)
            times = _json(timed, "dconfig-1.0")
            if times.get("htype") != "dconfig-1.0":
                raise ProtocolError("htype", times.get("htype"), "dconfig-1.0")
            start, stop = _seconds(times, "start_time"), _seconds(times, "stop_time")
            return Frame(series, number, (_chunk(image, blob),), start, stop, _seconds(times, "real_time"))
        except ProtocolError as error:
            raise error.of(series, number) from None

    def _image(self, described: bytes) -> Image:
        image = _described(described)
        if len(described) > KNOWN_BYTES:
            return image
        if len(self._known) >= KNOWN:
            self._known.clear()
        return self._known.setdefault(described, image)


def _json(part: bytes, where: str) -> dict[str, Any]:
    if len(part) <= MAX_JSON:
        try:
            found = orjson.loads(part)
        except orjson.JSONDecodeError:
            found = None
        if isinstance(found, dict):
            return found
    raise ProtocolError(where, part[:40], f"a JSON object of at most {MAX_JSON} bytes")


def _has_type(part: bytes) -> bool:
    return part[:1] == b"{" and b'"htype"' in part[:200]


def _series(number: int, config: dict[str, Any]) -> Series:
    where = "config"
    shape = shape_of(
        config.get("x_pixels_in_detector"),
        config.get("y_pixels_in_detector"),
        f"{where}.x_pixels_in_detector, y_pixels_in_detector",
    )
    depth = config.get("bit_depth_image")
    if depth not in (8, 16, 32, 64):
        raise ProtocolError(f"{where}.bit_depth_image", depth, "8 | 16 | 32 | 64")
    mode = config.get("trigger_mode")
    frames = frames_expected(
        mode if isinstance(mode, str) else repr(mode),
        number_in(config, "nimages", where),
        number_in(config, "ntrigger", where),
        number_in(config, "ntriggers_skipped", where) if "ntriggers_skipped" in config else 0,
    )
    return Series(number, shape, np.dtype(f"uint{depth}"), frames, trigger_mode=str(mode), config=config)


def _layout(row: np.ndarray) -> Layout | None:
    """That of a message that `json_images` could read; None where type and encoding do not go together."""
    ny, nx = row[SHAPE : SHAPE + 2].tolist()
    try:
        return Layout("", *_pixels([nx, ny], json_images.PIXELS[row[TYPE]], json_images.ENCODINGS[row[ENCODING]]))
    except ProtocolError:
        return None


class Image(NamedTuple):
    """What a part ``dimage_d`` says; the size is None where it says none."""

    shape: tuple[int, int]
    dtype: np.dtype
    encoding: str
    size: int | None


def _described(part: bytes) -> Image:
    where = "dimage_d-1.0"
    about = _json(part, where)
    if about.get("htype") != where:
        raise ProtocolError("htype", about.get("htype"), where)
    size = number_in(about, "size", where) if "size" in about else None
    return Image(*_pixels(about.get("shape"), about.get("type"), about.get("encoding")), size)


def _pixels(shape: object, kind: object, encoding: object) -> tuple[tuple[int, int], np.dtype, str]:
    """Shape (ny, nx) and type of an image, and our name of its encoding, of what ``dimage_d`` says."""
    where = "dimage_d-1.0"
    if not isinstance(shape, list) or len(shape) != 2:
        raise ProtocolError(f"{where}.shape", shape, "[x, y]")
    dtype = PIXEL_TYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        raise ProtocolError(f"{where}.type", kind, " | ".join(PIXEL_TYPES))
    match = NAMED.fullmatch(encoding) if isinstance(encoding, str) else None
    if match is None or (match[1] and (not match[2] or int(match[1]) != 8 * dtype.itemsize)):
        bits = 8 * dtype.itemsize
        raise ProtocolError(f"{where}.encoding", encoding, f"bs{bits}-lz4< | lz4< | < (or >) for {kind}")
    name = "bslz4" if match[1] else "lz4-block" if match[2] else "none"
    ordered = dtype.newbyteorder(">") if match[3] == ">" else dtype
    return shape_of(shape[0], shape[1], f"{where}.shape"), ordered, name


def _chunk(image: Image, blob: bytes) -> Chunk:
    shape, dtype, encoding, size = image
    if size is not None and size != len(blob):
        raise ProtocolError("dimage_d-1.0.size", size, f"{len(blob)}, that of the blob")
    if encoding == "bslz4" and blob.startswith(EMPTY):
        blob = shuffled_header(shape, dtype) + blob[12:]
    chunk = Chunk("", shape, dtype, encoding, blob)
    check_header(chunk)
    return chunk


def _seconds(times: dict[str, Any], name: str) -> float:
    value = times.get(name)
    if value is None:
        return float("nan")
    if type(value) not in (int, float) or not 0 <= value < 2**63:
        raise ProtocolError(f"dconfig-1.0.{name}", value, "a time in ns, from 0")
    return value / json_images.TICKS
