"""Image messages of stream v1 by the batch, read in compiled code; see `plain_images`.

Only the plain ones: four parts, in three of them JSON objects of nothing that is not of SIMPLON: text without escapes,
whole numbers, the shape.
"""

from __future__ import annotations

import numpy as np

from ..analysis.kernels import kernel
from .messages import Messages
from .plain_images import (
    BLOB,
    COLUMNS,
    ENCODING,
    MAX_TICKS,
    NUMBER,
    PLAIN,
    SERIES,
    SHAPE,
    TIMES,
    TYPE,
    compare,
    table,
    word,
)
from .series import MAX_NUMBER, MAX_PIXELS, PIXEL_TYPES

MAX_JSON = 1 << 20
"""Bytes of the longest JSON part that is taken, by the general decoder too."""

KEYS = ("htype", "series", "frame", "shape", "type", "encoding", "size", "start_time", "stop_time", "real_time", "hash")
HTYPE, SERIES_KEY, FRAME, SHAPE_KEY, TYPE_KEY, ENCODING_KEY, SIZE, START, STOP, REAL, HASH = range(len(KEYS))
KINDS = ("dimage-1.0", "dimage_d-1.0", "dconfig-1.0")
PIXELS = tuple(PIXEL_TYPES)
ENCODINGS = tuple(name + order for name in ("", "lz4", *(f"bs{8 << k}-lz4" for k in range(4))) for order in "<>")
TICKS = 1_000_000_000
"""Of the clock that v1 counts in, a second."""
ABSENT, TEXT, WHOLE, PAIR = range(4)  # what a key's value is
QUOTE, BACKSLASH, COMMA, COLON, ZERO, NINE = (ord(sign) for sign in '"\\,:09')
OPEN, CLOSE, OPEN_ARRAY, CLOSE_ARRAY = (ord(sign) for sign in "{}[]")


def read(messages: Messages) -> np.ndarray:
    """A row of `COLUMNS` for each message."""
    rows = np.zeros((len(messages), len(COLUMNS)), np.int64)
    _read(messages.data, messages.ends, messages.firsts, rows)
    return rows


_KEYS, _KINDS, _PIXELS, _ENCODINGS = (table(words) for words in (KEYS, KINDS, PIXELS, ENCODINGS))


@kernel
def _space(data, at, end):  # pragma: no cover
    """Where white space ends."""
    while at < end and (data[at] == 32 or 9 <= data[at] <= 10 or data[at] == 13):
        at += 1
    return at


@kernel
def _text(data, at, end):  # pragma: no cover
    """Where the text of a string begins, and where its quotes end; -1 for what is no plain string."""
    if at < end and data[at] == QUOTE:
        for k in range(at + 1, end):
            if data[k] == QUOTE:
                return at + 1, k + 1
            if data[k] < 32 or data[k] > 126 or data[k] == BACKSLASH:
                break
    return 0, -1


@kernel
def _whole(data, at, end):  # pragma: no cover
    """A whole number from 0 to `MAX_TICKS`, and where it ends."""
    begin, number = at, np.int64(0)
    while at < end and ZERO <= data[at] <= NINE and at - begin < 17:
        number = 10 * number + np.int64(data[at]) - ZERO
        at += 1
    if at == begin or (data[begin] == ZERO and at > begin + 1) or number > MAX_TICKS:
        return 0, -1
    return number, at


@kernel
def _sign(data, at, end, sign):  # pragma: no cover
    """Where a sign ends, with the space around it."""
    at = _space(data, at, end)
    return _space(data, at + 1, end) if at < end and data[at] == sign else -1


@kernel
def _value(data, at, end, value):  # pragma: no cover
    """Read a text (where it begins and ends), a whole number or two into `value`; where it ends."""
    if at < end and data[at] == QUOTE:
        value[0] = TEXT
        value[1], at = _text(data, at, end)
        value[2] = at - 1
    elif at < end and data[at] == OPEN_ARRAY:
        value[0] = PAIR
        value[1], at = _whole(data, _space(data, at + 1, end), end)
        at = _sign(data, at, end, COMMA) if at >= 0 else -1
        if at >= 0:
            value[2], at = _whole(data, at, end)
        at = _sign(data, at, end, CLOSE_ARRAY) if at >= 0 else -1
    else:
        value[0] = WHOLE
        value[1], at = _whole(data, at, end)
    return at


@kernel
def _object(data, at, end, kind, values):  # pragma: no cover
    """Read the object that is all of a part into `values` (keys, 3); whether it is a plain one of this `kind`."""
    if end - at > MAX_JSON:
        return False
    values[:, 0] = ABSENT
    at = _sign(data, at, end, OPEN)
    while at >= 0:
        begin, at = _text(data, at, end)
        key = word(data, begin, at - 1, _KEYS) if at >= 0 else -1
        if key < 0 or values[key, 0] != ABSENT:
            return False
        at = _sign(data, at, end, COLON)
        at = _value(data, at, end, values[key]) if at >= 0 else -1
        if at < 0:
            return False
        at = _space(data, at, end)
        if at < end and data[at] == CLOSE:
            named = values[HTYPE, 0] == TEXT and word(data, values[HTYPE, 1], values[HTYPE, 2], _KINDS) == kind
            return named and _space(data, at + 1, end) == end
        at = _sign(data, at, end, COMMA)
    return False


@kernel
def _image(data, ends, first, values, row):  # pragma: no cover
    """Read a message of four parts, the first of which is `first`, into `row`; whether it is a plain one."""
    begin = ends[first - 1] if first else 0
    if not _object(data, begin, ends[first], 0, values):
        return False
    for key, column in ((SERIES_KEY, SERIES), (FRAME, NUMBER)):
        if values[key, 0] != WHOLE or values[key, 1] > MAX_NUMBER:
            return False
        row[column] = values[key, 1]
    if not _object(data, ends[first], ends[first + 1], 1, values):
        return False
    row[BLOB], row[BLOB + 1] = ends[first + 1], ends[first + 2]
    nx, ny = values[SHAPE_KEY, 1], values[SHAPE_KEY, 2]
    if values[SHAPE_KEY, 0] != PAIR or not (1 <= nx <= MAX_PIXELS and 1 <= ny <= MAX_PIXELS and nx * ny <= MAX_PIXELS):
        return False
    row[SHAPE], row[SHAPE + 1] = ny, nx
    for key, column, words in ((TYPE_KEY, TYPE, _PIXELS), (ENCODING_KEY, ENCODING, _ENCODINGS)):
        row[column] = word(data, values[key, 1], values[key, 2], words)
        if values[key, 0] != TEXT or row[column] < 0:
            return False
    size = values[SIZE]
    if size[0] != ABSENT and (size[0] != WHOLE or size[1] != row[BLOB + 1] - row[BLOB]):
        return False
    if not _object(data, ends[first + 2], ends[first + 3], 2, values):
        return False
    for k in range(3):
        time = values[START + k]
        if time[0] == WHOLE:
            row[TIMES + 2 * k], row[TIMES + 2 * k + 1] = time[1], TICKS
        elif time[0] != ABSENT:
            return False
    return True


@kernel
def _read(data, ends, firsts, rows):  # pragma: no cover
    """Read messages into `rows`."""
    values = np.zeros((_KEYS.shape[0], 3), np.int64)
    for i in range(rows.shape[0]):
        if firsts[i + 1] - firsts[i] == 4:
            rows[i, PLAIN] = _image(data, ends, firsts[i], values, rows[i])
            compare(rows, i, data)
