"""Image messages by the batch: the plain ones, read in compiled code, become `Frames` without an object for each.

A reader of a protocol (`json_images`, `cbor_images`) gives a row of numbers for each message, and takes only what it
knows byte by byte. Whatever else a message holds, or has wrong with it, is left to the protocol's general decoder,
which names it. So a reader never refuses, and what it takes the general decoder takes too, for the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..analysis.kernels import kernel
from .encoding import headers_fit
from .frames import Frames, Layout

COLUMNS = (
    *("plain", "like", "series", "number"),
    *("start", "start_of", "stop", "stop_of", "real", "real_of"),  # ticks, and ticks a second: 0 where it is not said
    *("blob", "blob_end", "name", "name_end"),  # places in the data
    *("order", "ny", "nx", "type", "encoding", "item"),  # the layout, by the reader's own numbers
)
"""What a row says of a message; `like` whether series and layout are those of the one before."""
PLAIN, LIKE, SERIES, NUMBER, TIMES, BLOB, NAME, LAYOUT = 0, 1, 2, 3, 4, 10, 12, 14
ORDER, SHAPE, TYPE, ENCODING, ITEM = 14, 15, 17, 18, 19
MAX_TICKS = 1 << 53
"""Above it 64-bit floats do not hold every whole number."""
LONGEST = 32
"""Bytes of the longest word that is compared."""


def table(words: Sequence[str]) -> np.ndarray:
    """Words (n, `LONGEST`) uint8, filled up with zeros."""
    return np.frombuffer(b"".join(word.encode().ljust(LONGEST, b"\0") for word in words), np.uint8).reshape(-1, LONGEST)


def events(
    rows: np.ndarray,
    data: np.ndarray,
    layout: Callable[[np.ndarray], Layout | None],
    general: Callable[[int], Iterator[Any]],
) -> Iterator[Any]:
    """What messages say, in their order.

    Parameters
    ----------
    rows : numpy.ndarray
        (messages, `COLUMNS`) int64.
    data : numpy.ndarray
        (bytes,) uint8.
    layout : callable
        The layout of which a row tells; None where there is no such one.
    general : callable
        What the general decoder makes of the message of that number.
    """
    begins = np.flatnonzero(rows[:, LIKE] == 0).tolist()
    for begin, end in zip(begins, [*begins[1:], len(rows)], strict=True):
        found = layout(rows[begin]) if rows[begin, PLAIN] else None
        if found is None:
            for k in range(begin, end):
                yield from general(k)
            continue
        frames = _frames(rows[begin:end], data, found)
        fit = headers_fit(found.shape, found.dtype, found.encoding, data, frames.begins[0], frames.ends[0])
        at = 0
        for k in np.flatnonzero(~fit).tolist():
            if at < k:
                yield frames[at:k]
            yield from general(begin + k)
            at = k + 1
        if at < len(frames):
            yield frames[at:]


def _frames(rows: np.ndarray, data: np.ndarray, layout: Layout) -> Frames:
    ticks = rows[:, TIMES : TIMES + 6 : 2].astype(float)
    each = rows[:, TIMES + 1 : TIMES + 6 : 2].astype(float)
    times = np.divide(ticks, each, out=np.full(ticks.shape, np.nan), where=each > 0)
    numbers, begins, ends = rows[:, [NUMBER, BLOB, BLOB + 1]].T.copy()
    return Frames(int(rows[0, SERIES]), (layout,), numbers, times, data, begins[None], ends[None])


@kernel
def word(data, begin, end, words):  # pragma: no cover
    """Which of `words`, a `table`, stands from `begin` to `end`; -1 for none."""
    length = end - begin
    if length > LONGEST or length < 1:
        return -1
    for k in range(words.shape[0]):
        same = length == LONGEST or words[k, length] == 0
        for i in range(length):
            same = same and words[k, i] == data[begin + i]
        if same:
            return k
    return -1


@kernel
def compare(rows, i, data):  # pragma: no cover
    """Note of row `i` whether it is of the series and the layout of the one before."""
    if i == 0 or not (rows[i, PLAIN] and rows[i - 1, PLAIN]):
        return
    like = rows[i, SERIES] == rows[i - 1, SERIES]
    for k in range(LAYOUT, rows.shape[1]):
        like = like and rows[i, k] == rows[i - 1, k]
    at, before = rows[i, NAME], rows[i - 1, NAME]
    length = rows[i, NAME + 1] - at
    like = like and length == rows[i - 1, NAME + 1] - before
    if like:
        for k in range(length):
            like = like and data[at + k] == data[before + k]
    rows[i, LIKE] = like
