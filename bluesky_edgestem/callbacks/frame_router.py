"""The documents of a run, routed: what callbacks that look at every frame have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np
from event_model import DocumentRouter

from ..analysis.optics import Optics
from ..analysis.scan_metadata import ScanMetadata
from .announced_frames import AnnouncedFrames, CompleteFrames

Progress = TypeVar("Progress")
"""What is known of one run: frames that an aborted run left behind must not get into the next."""


class FrameRouter(DocumentRouter, ABC, Generic[Progress]):
    """Hands frames that are complete on disk to a worker, with the progress of the run that they are of.

    Parameters
    ----------
    name : str
        Of the worker's thread.
    detector : str
        Data key of the frames; the positions are at ``<detector>_x`` and ``<detector>_y`` [nm]. Where the run has none,
        they are those of the raster in its metadata (``shape``, ``field_of_view``), told by the frames' numbers.
    optics, flyback : optional
        In place of those in the run's metadata.
    """

    def __init__(self, name: str, detector: str, optics: Optics | None, flyback: int | None) -> None:
        super().__init__()
        self._keys = (detector, f"{detector}_x", f"{detector}_y")
        self._optics, self._flyback = optics, flyback
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._scan = ScanMetadata()
        self._begin(self._scan)

    @abstractmethod
    def _progress(self, scan: ScanMetadata) -> Progress:
        """Of a run that begins; what was measured before is forgotten."""

    @abstractmethod
    def _derive(self, now: Progress, frames: CompleteFrames) -> None:
        """Work on frames, in the worker."""

    @abstractmethod
    def _conclude(self, now: Progress) -> None:
        """Put into the streams what is left, in the worker, after all frames so far."""

    def start(self, doc):
        """A run begins: take beam and raster from its metadata."""
        self._begin(ScanMetadata.of({**doc}, optics=self._optics, flyback=self._flyback))

    def descriptor(self, doc):
        """A stream is declared: whether its frames have positions."""
        name, x, y = self._keys
        keys = doc["data_keys"]
        if name not in keys or (x in keys and y in keys):
            return
        if self._scan.grid is None:
            raise ValueError(
                f"the run has frames ({name}), but neither their positions ({x}, {y}) nor a raster in its metadata "
                "('shape', 'field_of_view'); give one of them"
            )
        self._frames = AnnouncedFrames([name])

    def stream_resource(self, doc):
        """A file of the run: remember where its frames and positions are."""
        self._frames.resource(doc)

    def stream_datum(self, doc):
        """More frames are on disk: work on what is complete, in the worker."""
        if complete := self._frames.datum(doc):
            self._work.append(self._worker.submit(self._derive, self._now, complete))

    def finished(self) -> Future[None]:
        """Done once each frame announced so far is in the streams."""
        work, self._work = self._work, []
        now = self._now

        def settle() -> None:
            for future in work:
                future.result()
            self._conclude(now)

        return self._worker.submit(settle)

    def _begin(self, scan: ScanMetadata) -> None:
        self._now: Progress = self._progress(scan)
        self._scan = scan
        self._frames = AnnouncedFrames(self._keys)
        self._work: list[Future[None]] = []


def positions_of(where: list[Any], scan: ScanMetadata, numbers: np.ndarray, part: slice) -> np.ndarray:
    """Positions (n, 2) [nm] of frames: from the datasets of x and y, or without these from the raster."""
    if where:
        return np.column_stack([np.asarray(each[part], float) for each in where])
    return scan.positions(numbers)
