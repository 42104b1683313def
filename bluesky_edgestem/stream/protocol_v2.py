"""SIMPLON stream v2: one CBOR map to a message, of type ``start``, ``image`` or ``end``.

An image's ``data`` maps each channel to a multi-dimensional array (RFC 8746, tag 40, or 1040 column-major) of a typed
array (tags 64 to 87), whose bytes may be compressed (DECTRIS's tag 56500: algorithm, element size, bytes).
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cbor2
import numpy as np

from . import cbor_images, plain_images
from .encoding import check_header
from .frames import Frames, Layout, gathered, raised
from .messages import Messages
from .plain_images import NAME
from .series import PIXEL_TYPES, Chunk, End, Event, Frame, ProtocolError, Series, number_in, shape_of

MAX_CHANNELS = 16
MAX_DEPTH = 12
CHANNEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
ALGORITHMS = {"bslz4": "bslz4", "lz4": "lz4", "none": "none"}

TYPED_ARRAYS = {
    **{64 + k: np.dtype(f">u{1 << k}") for k in range(4)},
    **{68 + k: np.dtype(f"<u{1 << k}") for k in range(4)},
    **{72 + k: np.dtype(f">i{1 << k}") for k in range(4)},
    **{77 + k: np.dtype(f"<i{1 << (k + 1)}") for k in range(3)},
    **{80 + k: np.dtype(f">f{2 << k}") for k in range(3)},
    **{84 + k: np.dtype(f"<f{2 << k}") for k in range(3)},
}
"""Pixel types by their tags, RFC 8746; numpy has no 128-bit floats for 83 and 87."""

SEMANTIC = (2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000)
"""Tags that cbor2 would make objects of (numbers of any size, patterns, addresses, references): none is of SIMPLON."""


def _refuse(decoder: cbor2.CBORDecoder, /, immutable: bool = False) -> None:
    raise ProtocolError("a CBOR tag", "a value type of its own", "tags 0, 1, 40, 64 to 87, 1040, 56500 and 55799")


REFUSED: dict[int, Any] = dict.fromkeys(SEMANTIC, _refuse)


class ProtocolV2:
    """Makes events of messages. Several threads may call its methods."""

    def __init__(self) -> None:
        self._channels: dict[bytes, str] = {}  # names that were found to be well-formed
        cbor_images.read(Messages.of([[b""]]))  # loads the compiled code: before frames come

    def events(self, parts: Sequence[bytes]) -> list[Event]:
        """What a message says.

        Raises
        ------
        ProtocolError
        """
        return raised(self.all_events(Messages.of([parts])))

    def all_events(self, messages: Messages) -> list[Series | Frames | End | ProtocolError]:
        """What messages say, or why they are refused; a part is a message, of which a busy sender may join several."""

        def layout(row: np.ndarray) -> Layout | None:
            return self._layout(row, messages.data)

        def general(k: int) -> Iterator[Event | ProtocolError]:
            try:
                yield event(messages.part(k))
            except ProtocolError as error:
                yield error

        rows = cbor_images.read(messages)
        return list(gathered(plain_images.events(rows, messages.data, layout, general)))

    def _layout(self, row: np.ndarray, data: np.ndarray) -> Layout | None:
        """That of a message that `cbor_images` could read; None where it is not so plain."""
        name, name_end, order, ny, nx, tag, algorithm, item = row[NAME:].tolist()
        dtype = TYPED_ARRAYS.get(tag)
        name = data[name:name_end].tobytes()
        channel = self._channels.get(name) or self._channel(name)
        if dtype is None or channel is None or (item != dtype.itemsize and item != -1):
            return None
        return Layout(channel, (ny, nx), dtype, cbor_images.ALGORITHMS[algorithm], order == cbor_images.COLUMN_MAJOR)

    def _channel(self, name: bytes) -> str | None:
        if not CHANNEL.fullmatch(name.decode("ascii")):
            return None
        if len(self._channels) >= MAX_CHANNELS:  # of series long over
            self._channels.clear()
        return self._channels.setdefault(name, name.decode("ascii"))


def event(part: bytes) -> Event:
    """What a message says, whatever its kind. Raises ProtocolError."""
    message = _decode(part)
    kind = message.get("type")
    if kind == "image":
        return _frame(message)
    if kind == "start":
        return _series(message)
    if kind == "end":
        return End(number_in(message, "series_id", "end"))
    raise ProtocolError("type", kind, "start | image | end")


def _decode(part: bytes) -> Mapping[Any, Any]:
    try:
        found = cbor2.loads(
            part,
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
            semantic_decoders=REFUSED,
        )
    except Exception as error:  # cbor2 wraps what its callbacks raise, and passes on what datetime does
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ProtocolError):
            cause = cause.__cause__
        raise cause or ProtocolError("message", part[:40], f"CBOR ({error})") from error
    if isinstance(found, cbor2.CBORTag) and found.tag == 55799:
        found = found.value
    if not isinstance(found, Mapping):
        raise ProtocolError("message", part[:40], "a CBOR map")
    return found


def _series(message: Mapping[str, Any]) -> Series:
    shape = shape_of(message.get("image_size_x"), message.get("image_size_y"), "start.image_size_x, image_size_y")
    kind = message.get("image_dtype")
    if kind is not None and (not isinstance(kind, str) or kind not in PIXEL_TYPES):
        raise ProtocolError("start.image_dtype", kind, " | ".join(PIXEL_TYPES))
    channels = message.get("channels")
    if not isinstance(channels, list | tuple) or not 1 <= len(channels) <= MAX_CHANNELS:
        raise ProtocolError("start.channels", channels, f"1 to {MAX_CHANNELS} names")
    for name in channels:
        if not isinstance(name, str) or not CHANNEL.fullmatch(name):
            raise ProtocolError("start.channels", name, "letters, digits, _, . and -, at most 64")
    if len(set(channels)) != len(channels):
        raise ProtocolError("start.channels", channels, "names that differ")
    unique = message.get("series_unique_id", "")
    return Series(
        number_in(message, "series_id", "start"),
        shape,
        PIXEL_TYPES[kind] if kind else None,
        number_in(message, "number_of_images", "start"),
        tuple(channels),
        unique=unique[:100] if isinstance(unique, str) else "",
        config={key: value for key in message if (value := _plain(message[key])) is not None},
    )


def _plain(value: Any) -> Any:
    """`value` without its arrays, as JSON could hold it; None where nothing is left."""
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        kept = {str(key): found for key in value if (found := _plain(value[key])) is not None}
        return kept or None
    if isinstance(value, list | tuple) and len(value) <= 100:
        return [_plain(found) for found in value]
    return None


def _frame(message: Mapping[str, Any]) -> Frame:
    series, number = number_in(message, "series_id", "image"), number_in(message, "image_id", "image")
    try:
        data = message.get("data")
        if not isinstance(data, Mapping) or not 1 <= len(data) <= MAX_CHANNELS:
            raise ProtocolError("image.data", type(data).__name__, f"a map of 1 to {MAX_CHANNELS} channels")
        start, stop, real = (_seconds(message, name) for name in ("start_time", "stop_time", "real_time"))
        return Frame(series, number, tuple(_chunk(name, data[name]) for name in data), start, stop, real)
    except ProtocolError as error:
        raise error.of(series, number) from None


def _tagged(value: Any, tags: Sequence[int] | Mapping[int, Any], where: str) -> tuple[int, Any]:
    if not isinstance(value, cbor2.CBORTag) or value.tag not in tags:
        given = f"tag {value.tag}" if isinstance(value, cbor2.CBORTag) else type(value).__name__
        raise ProtocolError(where, given, "tag " + ", ".join(str(tag) for tag in tags))
    return value.tag, value.value


def _chunk(name: object, value: Any) -> Chunk:
    if not isinstance(name, str) or not CHANNEL.fullmatch(name):
        raise ProtocolError("image.data", name, "the channels that the start message names")
    where = f"image.data[{name!r}]"
    order, array = _tagged(value, (40, 1040), where)
    if not isinstance(array, list | tuple) or len(array) != 2:
        raise ProtocolError(where, type(array).__name__, "[dimensions, typed array]")
    dimensions, typed = array
    if not isinstance(dimensions, list | tuple) or len(dimensions) != 2:
        raise ProtocolError(f"{where} dimensions", dimensions, "[ny, nx]")
    shape = shape_of(dimensions[1], dimensions[0], f"{where} dimensions")
    tag, held = _tagged(typed, TYPED_ARRAYS, f"{where} typed array")
    dtype, encoding = TYPED_ARRAYS[tag], "none"
    if isinstance(held, cbor2.CBORTag):
        _, held = _tagged(held, (56500,), f"{where} bytes")
        if not isinstance(held, list | tuple) or len(held) != 3:
            raise ProtocolError(f"{where} tag 56500", type(held).__name__, "[algorithm, element size, bytes]")
        algorithm, size, held = held
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise ProtocolError(f"{where} algorithm", algorithm, " | ".join(ALGORITHMS))
        if size != dtype.itemsize:
            raise ProtocolError(f"{where} element size", size, f"{dtype.itemsize}, that of tag {tag}")
        encoding = ALGORITHMS[algorithm]
    if not isinstance(held, bytes):
        raise ProtocolError(f"{where} bytes", type(held).__name__, "a byte string")
    chunk = Chunk(name, shape, dtype, encoding, held, column_major=order == 1040)
    check_header(chunk)
    return chunk


def _seconds(message: Mapping[str, Any], name: str) -> float:
    value = message.get(name)
    if value is None:
        return math.nan
    if isinstance(value, list | tuple) and len(value) == 2:
        above, below = value
        if type(above) is int and type(below) is int and 0 <= above < 2**64 and 0 < below < 2**64:
            return above / below
    raise ProtocolError(f"image.{name}", value, "[numerator, denominator] of a time in s, from 0")
