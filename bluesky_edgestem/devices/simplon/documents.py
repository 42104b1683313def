"""Documents of the frames of several series, each in a file of its own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from bluesky.protocols import StreamAsset
from event_model import DataKey

from ..frame_documents import FrameDocuments, frame_keys
from .series import ArmedSeries


class SeriesDocuments:
    """Composes the documents of the series between `stage` and `unstage`.

    Parameters
    ----------
    name : str
        Data key of the frames; the probe's positions are `name`_x and `name`_y.
    positions : bool
        Whether the files have positions.
    """

    def __init__(self, name: str, positions: bool) -> None:
        self.name, self.positions = name, positions
        self.open("", (0, 0), np.dtype("<u2"))

    def open(self, source: str, shape: tuple[int, int], dtype: np.dtype) -> None:
        """Begin anew, with frames of `shape` (ny, nx) and `dtype` from `source`."""
        self._source, self._shape, self._dtype = source, shape, dtype
        self._told: list[tuple[ArmedSeries, FrameDocuments]] = []

    def add(self, series: ArmedSeries) -> None:
        """Another series begins."""
        documents = FrameDocuments(series.path, self.name, self._shape, positions=self.positions)
        self._told.append((series, documents))

    @property
    def index(self) -> int:
        """Frames of all series."""
        return sum(series.index for series, _ in self._told)

    def describe(self) -> dict[str, DataKey]:
        """Data keys."""
        return frame_keys(self.name, self._source, self._shape, self._dtype.str, positions=self.positions)

    def new(self, index: int | None) -> Iterator[StreamAsset]:
        """Documents of what was not told of, up to `index`, of one series: the run takes all keys in equal numbers."""
        before = 0
        for series, documents in self._told:
            there = series.index
            stop = there if index is None else min(there, index - before)
            before += there
            if stop > documents.emitted:
                yield from documents.up_to(stop)
                return
