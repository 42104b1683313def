"""What a detector streams, whichever protocol it speaks: a series, its frames, its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

MAX_PIXELS = 1 << 26
"""Pixels of the largest frame that is believed: a declared shape beyond it is an error, not an allocation."""

MAX_NUMBER = 1 << 31
"""Frame numbers, image counts and trigger counts stay below it, as in SIMPLON."""

TRIGGER_MODES = ("exte", "exts", "inte", "ints", "extg", "eies")


class ProtocolError(ValueError):
    """A message that no detector would send.

    Parameters
    ----------
    field : str
        What was wrong in the message, e.g. ``"dimage_d-1.0.shape"``.
    given : object
        What it held.
    allowed : str
        What it may hold.

    Attributes
    ----------
    series, number : int, optional
        Of the frame that it is about, where so much could be read.
    """

    def __init__(self, field: str, given: object, allowed: str) -> None:
        shown = repr(given)
        super().__init__(f"{field} is {shown if len(shown) <= 80 else shown[:77] + '...'}; allowed is {allowed}")
        self.field = field
        self.series: int | None = None
        self.number: int | None = None

    def of(self, series: int, number: int) -> ProtocolError:
        """This error, about frame `number` of `series`."""
        self.series, self.number = series, number
        return self


def frames_expected(trigger_mode: str, nimages: int, ntrigger: int, ntriggers_skipped: int = 0) -> int | None:
    """Frames of a series, or None where the configuration does not tell.

    In the enable modes (``exte``, ``inte``) each trigger is one frame, whatever `nimages` is. In ``ints``, ``exts`` and
    ``extg`` each trigger starts `nimages`. In ``eies`` a trigger ends one frame and begins the next: 11 triggers make
    10 frames (EIGER2 manual 1.8.2, section 9.6).
    """
    if trigger_mode in ("exte", "inte"):
        return ntrigger
    if trigger_mode in ("exts", "ints", "extg"):
        return nimages * ntrigger
    if trigger_mode == "eies":
        return max(ntrigger - 1, 0) if not ntriggers_skipped else None
    raise ProtocolError("trigger_mode", trigger_mode, " | ".join(TRIGGER_MODES))


@dataclass(frozen=True)
class Series:
    """What is said of a series before its first frame.

    Parameters
    ----------
    number : int
        The detector's count of series since it was initialised.
    shape : tuple[int, int], optional
        Of a frame (ny, nx) [pixels]; the first frame tells where the header does not.
    dtype : numpy.dtype, optional
        Of a pixel, byte order included; as for `shape`.
    frames : int, optional
        That will come; None where only the end message tells.
    channels : tuple[str, ...]
        Energy thresholds that each frame has an image of; one without a name in protocol v1.
    trigger_mode : str
        One of `TRIGGER_MODES`; empty where the protocol does not say.
    unique : str
        Name of the series that no other has; empty in protocol v1.
    config : Mapping[str, Any]
        Everything else that was said, by the detector's own names and in its units (m, s, eV), without arrays.
    """

    number: int
    shape: tuple[int, int] | None
    dtype: np.dtype | None
    frames: int | None
    channels: tuple[str, ...] = ("",)
    trigger_mode: str = ""
    unique: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)


class Chunk(NamedTuple):  # a tuple, as 10^5 of them are made a second: a frozen dataclass takes three times as long
    """One image as the detector compressed it.

    `shape` is (ny, nx) [pixels], `dtype` that of a pixel with its byte order; `encoding` is "bslz4", "lz4" (HDF5's
    framing), "lz4-block" (no framing) or "none"; `column_major` says that the bytes are those of the transposed image.
    """

    channel: str
    shape: tuple[int, int]
    dtype: np.dtype
    encoding: str
    data: bytes
    column_major: bool = False


class Frame(NamedTuple):
    """The images of one exposure, one for each of the series' channels.

    Times are in s since the series began; nan where they were not said.
    """

    series: int
    number: int
    chunks: tuple[Chunk, ...]
    start: float
    stop: float
    real: float


@dataclass(frozen=True)
class End:
    """The detector has nothing more to send of this series."""

    series: int


Event = Series | Frame | End


def number_in(message: Mapping, key: str, where: str, low: int = 0, high: int = MAX_NUMBER) -> int:
    """The whole number `key` of a message part called `where`, between `low` and `high` inclusive.

    Raises
    ------
    ProtocolError
    """
    value = message.get(key)
    if type(value) is not int or not low <= value <= high:  # bool is an int, and none here
        raise ProtocolError(f"{where}.{key}", value, f"a whole number from {low} to {high}")
    return value


def shape_of(nx: object, ny: object, where: str) -> tuple[int, int]:
    """The array shape (ny, nx) of a frame with `nx` by `ny` pixels.

    Raises
    ------
    ProtocolError
    """
    if type(nx) is not int or type(ny) is not int or nx < 1 or ny < 1 or nx * ny > MAX_PIXELS:
        raise ProtocolError(where, (nx, ny), f"two whole numbers from 1, and at most {MAX_PIXELS} pixels")
    return ny, nx


PIXEL_TYPES = {
    name: np.dtype(name)
    for name in ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64")
}
"""Types of a pixel by their names in the protocols, little-endian."""
