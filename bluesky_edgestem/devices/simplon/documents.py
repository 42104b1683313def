"""Documents of the frames: a file, and so a resource of each data key, for each series."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from bluesky.protocols import StreamAsset
from event_model import DataKey, compose_stream_resource

from ..frame_files import ATTRIBUTE_CHUNK, FRAMES, SCAN_X, SCAN_Y, frame_keys
from .series import ArmedSeries


class _Told:
    """What was told of one series."""

    def __init__(self, series: ArmedSeries) -> None:
        self.series, self.emitted = series, 0
        self.bundles: list[Any] = []


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
        self._told: list[_Told] = []

    def add(self, series: ArmedSeries) -> None:
        """Another series begins."""
        self._told.append(_Told(series))

    @property
    def index(self) -> int:
        """Frames of all series."""
        return sum(told.series.index for told in self._told)

    def describe(self) -> dict[str, DataKey]:
        """Data keys."""
        keys = frame_keys(self.name, self._source, self._shape, self._dtype.str)
        return keys if self.positions else {self.name: keys[self.name]}

    def new(self, index: int | None) -> Iterator[StreamAsset]:
        """Documents of what was not told of, up to `index`, of one series: the run takes all keys in equal numbers."""
        before = 0
        for told in self._told:
            stop = told.series.index if index is None else min(told.series.index, index - before)
            before += told.series.index
            if stop > told.emitted:
                yield from self._of(told, stop)
                return

    def _of(self, told: _Told, stop: int) -> Iterator[StreamAsset]:
        if not told.bundles:
            datasets = [(self.name, FRAMES, [1, *self._shape])]
            if self.positions:
                datasets += [(f"{self.name}_{a}", d, [ATTRIBUTE_CHUNK]) for a, d in (("x", SCAN_X), ("y", SCAN_Y))]
            for key, dataset, chunk in datasets:
                bundle = compose_stream_resource(
                    mimetype="application/x-hdf5",
                    uri=f"file://localhost{told.series.path}",
                    data_key=key,
                    parameters={"dataset": dataset, "swmr": True, "chunk_shape": chunk},
                )
                told.bundles.append(bundle)
                yield "stream_resource", bundle.stream_resource_doc
        start, told.emitted = told.emitted, stop
        for bundle in told.bundles:
            yield "stream_datum", bundle.compose_stream_datum(indices={"start": start, "stop": stop})
