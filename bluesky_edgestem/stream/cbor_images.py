"""Image messages of stream v2 by the batch, read in compiled code; see `plain_images`.

Only the plain ones: one channel, nothing that is not of SIMPLON, every length and number as it should be.
"""

from __future__ import annotations

import numpy as np

from ..analysis.kernels import kernel
from .messages import Messages
from .plain_images import (
    BLOB,
    COLUMNS,
    ENCODING,
    ITEM,
    MAX_TICKS,
    NAME,
    NUMBER,
    ORDER,
    PLAIN,
    SERIES,
    SHAPE,
    TIMES,
    TYPE,
    compare,
    table,
    word,
)
from .series import MAX_NUMBER, MAX_PIXELS

KEYS = ("type", "series_id", "image_id", "start_time", "stop_time", "real_time", "data", "series_unique_id")
KIND, SERIES_KEY, IMAGE, START, STOP, REAL, DATA, UNIQUE = range(len(KEYS))
NEEDED = 1 << KIND | 1 << SERIES_KEY | 1 << IMAGE | 1 << DATA
ALGORITHMS = ("none", "bslz4", "lz4")
MARK, MULTI_DIMENSIONAL, COLUMN_MAJOR, COMPRESSED = 55799, 40, 1040, 56500
UNSIGNED, BYTES, TEXT, ARRAY, MAP, TAG = 0, 2, 3, 4, 5, 6  # the major types of CBOR


def read(messages: Messages) -> np.ndarray:
    """A row of `COLUMNS` for each part, which is a message; the type is a tag, the item -1 where none is said."""
    rows = np.zeros((len(messages.ends), len(COLUMNS)), np.int64)
    _read(messages.data, messages.ends, rows)
    return rows


_KEYS, _KINDS, _ALGORITHMS = (table(words) for words in (KEYS, ("image",), ALGORITHMS))


@kernel
def _head(data, at, end):  # pragma: no cover
    """Major type, number and where it ends; the end is -1 for what is no head, is cut, or is of unknown length."""
    if at < 0 or at >= end:
        return 0, 0, -1
    major, number = np.int64(data[at]) >> 5, np.int64(data[at]) & 31
    at += 1
    if number < 24:
        return major, number, at
    if number > 27:
        return 0, 0, -1
    nbytes = 1 << (number - 24)
    if at + nbytes > end:
        return 0, 0, -1
    number = 0
    for k in range(nbytes):
        number = number << 8 | np.int64(data[at + k])
    return major, number, at + nbytes if number >= 0 else -1


@kernel
def _number(data, at, end, most):  # pragma: no cover
    """A whole number up to `most`, and where it ends."""
    major, number, at = _head(data, at, end)
    return number, at if major == UNSIGNED and number <= most else -1


@kernel
def _expect(data, at, end, major, number):  # pragma: no cover
    """Where a head ends that has to be this one."""
    found, value, at = _head(data, at, end)
    return at if found == major and value == number else -1


@kernel
def _string(data, at, end, major):  # pragma: no cover
    """Where a string begins and ends; the text has to be ASCII."""
    found, length, at = _head(data, at, end)
    if at < 0 or found != major or length > end - at:
        return 0, -1
    if major == TEXT:
        for k in range(at, at + length):
            if data[k] >= 128 or data[k] < 32:
                return 0, -1
    return at, at + length


@kernel
def _word(data, at, end, table):  # pragma: no cover
    """Which of the words of `table` a text is, and where it ends."""
    begin, at = _string(data, at, end, TEXT)
    found = word(data, begin, at, table) if at >= 0 else -1
    return found, at if found >= 0 else -1


@kernel
def _array(data, at, end, row):  # pragma: no cover
    """The image: a tag that says how it lies, its dimensions, its bytes; where it ends."""
    major, row[ORDER], at = _head(data, at, end)
    if major != TAG or (row[ORDER] != MULTI_DIMENSIONAL and row[ORDER] != COLUMN_MAJOR):
        return -1
    at = _expect(data, at, end, ARRAY, 2)
    at = _expect(data, at, end, ARRAY, 2)
    for k in range(2):
        row[SHAPE + k], at = _number(data, at, end, MAX_PIXELS)
    pixels = row[SHAPE] * row[SHAPE + 1]
    major, row[TYPE], at = _head(data, at, end)
    if pixels < 1 or pixels > MAX_PIXELS or major != TAG:
        return -1
    row[ITEM] = -1
    if 0 <= at < end and data[at] >> 5 == TAG:
        at = _expect(data, at, end, TAG, COMPRESSED)
        at = _expect(data, at, end, ARRAY, 3)
        row[ENCODING], at = _word(data, at, end, _ALGORITHMS)
        row[ITEM], at = _number(data, at, end, 64)
    row[BLOB], at = _string(data, at, end, BYTES)
    row[BLOB + 1] = at
    return at


@kernel
def _image(data, at, end, row):  # pragma: no cover
    """Read one message into `row`; whether it is a plain one."""
    major, count, at = _head(data, at, end)
    if major == TAG and count == MARK:
        major, count, at = _head(data, at, end)
    if major != MAP:
        return False
    seen = 0
    for _ in range(min(count, len(KEYS) + 1)):
        key, at = _word(data, at, end, _KEYS)
        if at < 0 or seen >> key & 1:
            return False
        seen |= 1 << key
        if key == KIND:
            _, at = _word(data, at, end, _KINDS)
        elif key == SERIES_KEY:
            row[SERIES], at = _number(data, at, end, MAX_NUMBER)
        elif key == IMAGE:
            row[NUMBER], at = _number(data, at, end, MAX_NUMBER)
        elif key == UNIQUE:
            _, at = _string(data, at, end, TEXT)
        elif key == DATA:
            at = _expect(data, at, end, MAP, 1)
            row[NAME], at = _string(data, at, end, TEXT)
            row[NAME + 1] = at
            at = _array(data, at, end, row)
        else:
            place = TIMES + 2 * (key - START)
            at = _expect(data, at, end, ARRAY, 2)
            row[place], at = _number(data, at, end, MAX_TICKS)
            row[place + 1], at = _number(data, at, end, MAX_TICKS)
            if row[place + 1] == 0:
                return False
    return at == end and seen & NEEDED == NEEDED


@kernel
def _read(data, ends, rows):  # pragma: no cover
    """Read messages, one behind the other in `data` up to their `ends`, into `rows`."""
    for i in range(ends.size):
        rows[i, PLAIN] = _image(data, ends[i - 1] if i else 0, ends[i], rows[i])
        compare(rows, i, data)
