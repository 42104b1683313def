"""The file of a series: NeXus (NXmx), readable while it grows, the detector's own blobs as its chunks.

Flush policy: frames become visible to readers, and are acknowledged, with each flush, every `FLUSH` seconds and at the
end. What was acknowledged survives the death of the process (`mend` then makes the file an ordinary one), not that of
the machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .chunk_writes import write_chunks
from .encoding import decompress, frame_block, nbytes
from .frames import Frames, Layout
from .nexus import TIMES, Context, Missing, describe, group, list_missing, listed, make_data, make_detector
from .series import Chunk, Series

FLUSH = 0.1
"""Time [s] between two flushes while frames come."""
GAP = 64
"""Frames that are missing in a row before the times on either side of them are written apart, not together."""
CHUNKS = 1 << 17
"""Bytes of chunks that HDF5 keeps of a dataset. Only times pass there; HDF5's 8 MiB would fill for a million frames."""
INDEX = 1 << 18
"""Bytes of the index of chunks that HDF5 keeps for a channel; left to itself it takes more the longer the series is."""
RESERVE = 1 << 22
"""Bytes that must stay free on the disk: HDF5 cannot even close a file on a full one."""

log = logging.getLogger(__name__)


class DiskFull(OSError):
    """There is no room for the next frames."""


class SeriesFile:
    """A file that takes one series.

    Parameters
    ----------
    path : Path
        A file that does not exist yet.
    series : Series
    chunk : Chunk
        An image of the series: its shape, type and encoding are those of the file.
    context : Context

    Raises
    ------
    OSError
        The file exists, or cannot be written.
    """

    def __init__(self, path: Path, series: Series, chunk: Chunk, context: Context) -> None:
        self.path, self.series, self._like = path, series, chunk
        self._folder = path.parent
        self.written = self.acknowledged = 0
        self._extent, self._flushed = 0, time.monotonic()
        self._rows: list[np.ndarray] = []  # number and times of frames, until the next flush
        self._file = h5py.File(path, "x", libver="latest", rdcc_nbytes=CHUNKS)
        entry = group(self._file, "entry", "NXentry")
        entry.attrs["default"] = "data"
        entry["definition"] = "NXmx"
        entry["start_time"] = datetime.now(UTC).isoformat()
        entry.attrs["complete"] = np.False_
        self._file.attrs["default"] = "entry"
        self._data = make_data(entry, series, chunk)
        self._detector = make_detector(entry, series, chunk)
        self._times = [self._detector[name] for name in TIMES]
        describe(entry, context, chunk.shape)
        index = self._file.id.get_mdc_config()
        index.set_initial_size = True
        index.initial_size = index.min_size = index.max_size = INDEX * len(series.channels)
        self._file.id.set_mdc_config(index)
        self._file.swmr_mode = True
        # HDF5 gives its own lock back for readers to come; this one, which they share, tells `mend` that we live.
        self._alive = os.open(path, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(self._alive, fcntl.LOCK_SH)

    def write(self, frames: Frames) -> None:
        """Add frames, in any order.

        Raises
        ------
        DiskFull
            There is no room for them; the file can still be finished.
        OSError, RuntimeError
            HDF5 could not write; `abandon` the file then.
        """
        status = os.statvfs(self._folder)
        if status.f_bavail * status.f_frsize < RESERVE + frames.nbytes:
            raise DiskFull(f"the disk of {self._folder} has no room for frame {frames.numbers[0]}")
        self._extend(int(frames.numbers.max()) + 1)
        for k, layout in enumerate(frames.layouts):
            write_chunks(self._data[layout.channel], frames.numbers, *self._as_stored(frames, k, layout))
        self._rows.append(np.column_stack((frames.numbers, frames.times)))
        self.written += len(frames)
        if time.monotonic() - self._flushed > FLUSH:
            self.flush()

    def _extend(self, extent: int) -> None:
        if extent <= self._extent:
            return
        for dataset in self._data.values():
            dataset.resize(extent, 0)
        self._extent = extent

    def _write_times(self) -> None:
        """Write the times that wait: one by one, as the frames of several workers come, they cost more than images."""
        for dataset in self._times:
            if len(dataset) < self._extent:
                dataset.resize(self._extent, 0)
        if not self._rows:
            return
        rows = np.concatenate(self._rows)
        self._rows = []
        rows = rows[np.argsort(rows[:, 0])]
        for part in np.split(rows, np.flatnonzero(np.diff(rows[:, 0]) > GAP) + 1):
            numbers = part[:, 0].astype(np.int64)
            begin, end = int(numbers[0]), int(numbers[-1]) + 1
            for dataset, times in zip(self._times, part.T[1:], strict=True):
                if len(times) < end - begin:  # what came before, or never, is between them
                    held = dataset[begin:end]
                    held[numbers - begin] = times
                    times = held
                dataset[begin:end] = times

    def _as_stored(self, frames: Frames, k: int, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Bytes that the file's filter takes for the images of a channel, where each begins and ends in them, and
        filters left out (a bit mask).
        """
        as_is = layout.encoding == self._like.encoding and not layout.column_major and layout.dtype == self._like.dtype
        if as_is and layout.encoding != "lz4-block":
            return frames.data, frames.begins[k], frames.ends[k], int(layout.encoding == "none")
        store = self._framed if as_is else self._decoded
        blobs = [store(frames.chunk(place, k)) for place in range(len(frames))]
        ends = np.cumsum([len(blob) for blob in blobs])
        return np.frombuffer(bytearray().join(blobs), np.uint8), np.append(0, ends[:-1]), ends, int(not as_is)

    @staticmethod
    def _framed(chunk: Chunk) -> bytes:
        return frame_block(chunk.data, nbytes(chunk))

    def _decoded(self, chunk: Chunk) -> bytes:
        image = decompress(chunk)
        return np.ascontiguousarray(image.T if chunk.column_major else image, self._like.dtype).tobytes()

    def flush(self) -> None:
        """Let readers see, and acknowledge, what was written.

        Raises
        ------
        OSError, RuntimeError
            HDF5 could not write; `abandon` the file then.
        """
        self._flushed = time.monotonic()
        if self.acknowledged == self.written:
            return
        self._write_times()
        for dataset in (*self._times, *self._data.values()):
            dataset.flush()
        self.acknowledged = self.written

    def finish(self, missing: Sequence[range], expected: int, **outcome: Any) -> None:
        """Note what is missing of `expected` frames and what came of the series (see `OUTCOME`), and close.

        Raises
        ------
        OSError, RuntimeError
            HDF5 could not write; `abandon` the file then.
        """
        told = listed(missing, expected)
        self._extend(expected if told.tail is None else told.tail)
        self._write_times()
        for name, value in outcome.items():
            self._detector.attrs.modify(name, value)
        self._file["entry"].attrs.modify("complete", np.bool_(not told.any))
        self.flush()
        self._close()
        if told.any:
            self._list(told)
        os.close(self._alive)

    def _list(self, missing: Missing) -> None:
        """List what is missing, in the closed file.

        HDF5 adds nothing to a file of a single writer and many readers, and readers (RosettaSciIO) stumble over an
        empty list made beforehand: what is rare pays, by a moment in which the file is not open to new readers. Those
        that have it open hold a lock that would refuse it to us; they go on reading, as it is only added to, and find
        the list when they open the file anew.
        """
        try:
            self._file = h5py.File(self.path, "r+", libver="latest", locking=False)
        except OSError as error:
            log.warning(
                "%s does not list its missing frames (%s): closed by all others, `edgestem stream mend` does it",
                self.path,
                error,
            )
            return
        list_missing(self._file, missing)
        self._close()

    def _close(self) -> None:
        self._file.flush()  # an error is met here, where the file can still be abandoned
        self._file.close()

    def abandon(self) -> None:
        """Leave a file that could not be written as it is, readable up to its last flush.

        HDF5 cannot flush it, so it can neither be closed nor collected: both end in a segmentation fault.
        """
        abandoned.append(self)


abandoned: list[SeriesFile] = []
"""Files that must outlive the process: end it by `os._exit` where there is one."""
