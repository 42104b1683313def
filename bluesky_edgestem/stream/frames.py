"""Many frames that are alike, in columns: at a hundred thousand a second none can have objects of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, overload

import numpy as np

from .series import Chunk, End, Event, Frame, ProtocolError, Series


class Layout(NamedTuple):
    """All of a `Chunk` but its data."""

    channel: str
    shape: tuple[int, int]
    dtype: np.dtype
    encoding: str
    column_major: bool = False

    @classmethod
    def of(cls, chunk: Chunk) -> Layout:
        """That of a chunk."""
        return cls(chunk.channel, chunk.shape, chunk.dtype, chunk.encoding, chunk.column_major)


@dataclass(frozen=True, eq=False)
class Frames(Sequence[Frame]):
    """Frames of one series, whose images have the same layout.

    Parameters
    ----------
    series : int
    layouts : tuple[Layout, ...]
        One for each channel.
    numbers : numpy.ndarray
        (n,) int64.
    times : numpy.ndarray
        (n, 3) float64, start, stop and real time [s], nan where they were not said.
    data : numpy.ndarray
        (bytes,) uint8, in which the blobs are.
    begins, ends : numpy.ndarray
        (channels, n) int64, where in `data`.
    """

    series: int
    layouts: tuple[Layout, ...]
    numbers: np.ndarray
    times: np.ndarray
    data: np.ndarray
    begins: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, frames: Sequence[Frame]) -> Frames:
        """`frames` that are alike, at least one."""
        chunks = [chunk for frame in frames for chunk in frame.chunks]
        ends = np.cumsum([len(chunk.data) for chunk in chunks], dtype=np.int64)
        places = [np.ascontiguousarray(at.reshape(len(frames), -1).T) for at in (np.append(0, ends[:-1]), ends)]
        return cls(
            frames[0].series,
            tuple(Layout.of(chunk) for chunk in frames[0].chunks),
            np.array([frame.number for frame in frames], np.int64),
            np.array([frame[3:] for frame in frames], float),
            np.frombuffer(bytearray().join([chunk.data for chunk in chunks]), np.uint8),
            *places,
        )

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, k: int) -> Frame: ...
    @overload
    def __getitem__(self, k: slice | np.ndarray) -> Frames: ...
    def __getitem__(self, k: Any) -> Frame | Frames:
        """One of them, or some: a slice, a mask or places."""
        if isinstance(k, slice | np.ndarray):
            columns = self.numbers[k], self.times[k], self.data, self.begins[:, k], self.ends[:, k]
            return Frames(self.series, self.layouts, *columns)
        chunks = tuple(self.chunk(k, channel) for channel in range(len(self.layouts)))
        return Frame(self.series, int(self.numbers[k]), chunks, *self.times[k].tolist())

    def chunk(self, k: int, channel: int = 0) -> Chunk:
        """One image."""
        name, shape, dtype, encoding, column_major = self.layouts[channel]
        blob = self.data[self.begins[channel, k] : self.ends[channel, k]].tobytes()
        return Chunk(name, shape, dtype, encoding, blob, column_major)

    @property
    def nbytes(self) -> int:
        """Of their blobs."""
        return int((self.ends - self.begins).sum())


def gathered(events: Iterable[Any]) -> Iterator[Any]:
    """`events`, with each `Frame` among them in `Frames` with those next to it that are alike."""
    for kind, alike in groupby(events, _kind):
        if kind is None:
            yield from alike
        else:
            yield Frames.of(list(alike))


def _kind(event: Any) -> Any:
    """What frames have in common that may be put together; None for all else."""
    return (event.series, *(Layout.of(chunk) for chunk in event.chunks)) if isinstance(event, Frame) else None


def raised(events: Iterable[Series | Frames | End | ProtocolError]) -> list[Event]:
    """`events` one by one, or the first error among them, raised."""
    found: list[Event] = []
    for event in events:
        if isinstance(event, ProtocolError):
            raise event
        found += event if isinstance(event, Frames) else [event]
    return found
