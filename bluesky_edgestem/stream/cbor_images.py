"""Image messages of stream v2 by the batch, read in compiled code.

Only the plain ones: one channel, nothing that is not of SIMPLON, every length and number as it should be. Whatever else
a message holds, or has wrong with it, is left to the general decoder, which names it. So this reader never refuses, and
what it takes the general decoder takes too, for the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from .series import MAX_NUMBER, MAX_PIXELS

KEYS = ("type", "series_id", "image_id", "start_time", "stop_time", "real_time", "data", "series_unique_id")
TYPE, SERIES, NUMBER, START, STOP, REAL, DATA, UNIQUE = range(len(KEYS))
NEEDED = 1 << TYPE | 1 << SERIES | 1 << NUMBER | 1 << DATA
ALGORITHMS = ("none", "bslz4", "lz4")
MARK, MULTI_DIMENSIONAL, COLUMN_MAJOR, COMPRESSED = 55799, 40, 1040, 56500
UNSIGNED, BYTES, TEXT, ARRAY, MAP, TAG = 0, 2, 3, 4, 5, 6  # the major types of CBOR
LONGEST = 32
"""Bytes of the longest key, and of the longest name of an algorithm, that are compared."""

COLUMNS = (
    *("plain", "series", "number"),
    *("start", "start_of", "stop", "stop_of", "real", "real_of"),  # ticks, and ticks a second: 0 where it is not said
    *("name", "name_end", "order", "ny", "nx", "tag", "algorithm", "item", "blob", "blob_end"),
)
"""What `read` tells of a message: numbers, and where name and blob begin and end in it; -1 is the `item` of bytes that
are not said to be compressed."""
PLAIN, SERIES_ID, IMAGE_ID, TIMES, NAME, ORDER, ARRAY_TAG, ALGORITHM, ITEM, BLOB = 0, 1, 2, 3, 9, 11, 14, 15, 16, 17


def read(messages: Sequence[bytes]) -> list[list[int]]:
    """A row for each message, see `COLUMNS`; its first entry is 0 where the message is none of the plain ones."""
    ends = np.cumsum([len(message) for message in messages], dtype=np.int64)
    rows = np.zeros((len(messages), len(COLUMNS)), np.int64)
    _read(np.frombuffer(b"".join(messages), np.uint8), ends, rows)
    return rows.tolist()


def _table(words: Sequence[str]) -> np.ndarray:
    """Words (n, `LONGEST`) uint8, filled up with zeros."""
    return np.frombuffer(b"".join(word.encode().ljust(LONGEST, b"\0") for word in words), np.uint8).reshape(-1, LONGEST)


_KEYS, _KINDS, _ALGORITHMS = _table(KEYS), _table(["image"]), _table(ALGORITHMS)


@njit(nogil=True, cache=True, error_model="numpy")
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


@njit(nogil=True, cache=True, error_model="numpy")
def _number(data, at, end, most):  # pragma: no cover
    """A whole number up to `most`, and where it ends."""
    major, number, at = _head(data, at, end)
    return number, at if major == UNSIGNED and number <= most else -1


@njit(nogil=True, cache=True, error_model="numpy")
def _expect(data, at, end, major, number):  # pragma: no cover
    """Where a head ends that has to be this one."""
    found, value, at = _head(data, at, end)
    return at if found == major and value == number else -1


@njit(nogil=True, cache=True, error_model="numpy")
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


@njit(nogil=True, cache=True, error_model="numpy")
def _word(data, at, end, table):  # pragma: no cover
    """Which of the words of `table` a text is, and where it ends."""
    begin, at = _string(data, at, end, TEXT)
    if at < 0 or at - begin > LONGEST or at == begin:
        return 0, -1
    for k in range(table.shape[0]):
        same = at - begin == LONGEST or table[k, at - begin] == 0
        for i in range(at - begin):
            same = same and table[k, i] == data[begin + i]
        if same:
            return k, at
    return 0, -1


@njit(nogil=True, cache=True, error_model="numpy")
def _array(data, at, end, row):  # pragma: no cover
    """The image: a tag that says how it lies, its dimensions, its bytes; where it ends."""
    major, row[ORDER], at = _head(data, at, end)
    if major != TAG or (row[ORDER] != MULTI_DIMENSIONAL and row[ORDER] != COLUMN_MAJOR):
        return -1
    at = _expect(data, at, end, ARRAY, 2)
    at = _expect(data, at, end, ARRAY, 2)
    for k in range(2):
        row[ORDER + 1 + k], at = _number(data, at, end, MAX_PIXELS)
    pixels = row[ORDER + 1] * row[ORDER + 2]
    major, row[ARRAY_TAG], at = _head(data, at, end)
    if pixels < 1 or pixels > MAX_PIXELS or major != TAG:
        return -1
    row[ITEM] = -1
    if 0 <= at < end and data[at] >> 5 == TAG:
        at = _expect(data, at, end, TAG, COMPRESSED)
        at = _expect(data, at, end, ARRAY, 3)
        row[ALGORITHM], at = _word(data, at, end, _ALGORITHMS)
        row[ITEM], at = _number(data, at, end, 64)
    row[BLOB], at = _string(data, at, end, BYTES)
    row[BLOB + 1] = at
    return at


@njit(nogil=True, cache=True, error_model="numpy")
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
        if key == TYPE:
            _, at = _word(data, at, end, _KINDS)
        elif key in (SERIES, NUMBER):
            row[key], at = _number(data, at, end, MAX_NUMBER)
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
            row[place], at = _number(data, at, end, np.int64(2**63 - 1))
            row[place + 1], at = _number(data, at, end, np.int64(2**63 - 1))
            if row[place + 1] == 0:
                return False
    return at == end and seen & NEEDED == NEEDED


@njit(nogil=True, cache=True, error_model="numpy")
def _read(data, ends, rows):  # pragma: no cover
    """Read messages, one behind the other in `data` up to their `ends`, into `rows`."""
    begin = 0
    for i in range(ends.size):
        rows[i, PLAIN] = _image(data, begin, ends[i], rows[i])
        for k in (NAME, NAME + 1, BLOB, BLOB + 1):
            rows[i, k] -= begin
        begin = ends[i]
