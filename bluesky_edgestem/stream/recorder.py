"""Keeps a series: frames by their number, what is missing known by name, an end whatever happens."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import chunk_writes
from .frame_set import FrameSet
from .frames import Frames
from .gate import Refusal
from .nexus import Context
from .receiver import BackPressure, Early, Item, Receiver
from .recording import Recording
from .series import End, Series
from .series_file import DiskFull, SeriesFile

EARLY = 4096
"""Frames that are kept for a series whose header has not come, or whose predecessor has not ended."""
NAMED = 1000
"""Refusals that are kept with their reasons; all are counted."""
TICK = 0.05
"""Time [s] between two looks at the clock while nothing comes."""

log = logging.getLogger(__name__)


class Recorder:
    """Writes the series that a receiver takes, one call each.

    Parameters
    ----------
    receiver : Receiver
    timeout : float
        A series whose next message does not come for so long [s], after its first frame, is closed as it is.
    grace : float
        After the end message (or the next series' header) frames may still come from another worker for so long [s].
    """

    def __init__(self, receiver: Receiver, *, timeout: float = 10.0, grace: float = 1.0) -> None:
        self.receiver, self.timeout, self.grace = receiver, timeout, grace
        self._next: list[Item] = []  # what came for the series after the one under way
        self._kept = 0
        self._last: int | None = None
        chunk_writes.load()

    def record(
        self,
        path: Path,
        *,
        context: Context | None = None,
        progress: Callable[[SeriesFile], object] | None = None,
        waiting: Callable[[], object] | None = None,
        stop: threading.Event | None = None,
        start_timeout: float | None = None,
    ) -> Recording:
        """Keep the next series in `path`.

        Parameters
        ----------
        path : Path
            A file that does not exist yet.
        context : Context, optional
            Probe positions, optics and sample, for the file.
        progress : callable, optional
            Called with the file after each batch; its ``acknowledged`` are the frames that readers see.
        waiting : callable, optional
            Called once the detector is connected, where that is before the series begins.
        stop : threading.Event, optional
            Once set, the series is closed as it is.
        start_timeout : float, optional
            How long to wait for a series to begin [s]; for ever by default.

        Raises
        ------
        FileExistsError
        TimeoutError
            No series began.
        OSError
            The file cannot be made, or written.
        """
        if path.exists():
            raise FileExistsError(f"{path} exists; frames are never written over: give another name")
        if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
            raise OSError(f"{path} cannot be made: {path.absolute().parent} is no folder that can be written to")
        stop = stop or threading.Event()
        series, came = self._await_series(stop, start_timeout, waiting)
        self._last = series.number
        under_way = _UnderWay(self, series, path, context or Context(), progress)
        self.receiver.back_pressure.waited_s, self.receiver.back_pressure.deepest = 0.0, 0
        try:
            under_way.run(came, stop)
        except BaseException as error:
            under_way.ended = under_way.ended or ("interrupt" if isinstance(error, KeyboardInterrupt) else str(error))
            under_way.finish()
            raise
        finally:
            self.receiver.forget(series.number)
        return under_way.finish()

    def keep(self, item: Item) -> bool:
        """Keep what belongs to a later series; False, and not kept, where there is too much of it."""
        size = len(item) if isinstance(item, Frames) else 1
        if self._kept + size > EARLY:
            return False
        self._next.append(item)
        self._kept += size
        return True

    def _await_series(
        self, stop: threading.Event, timeout: float | None, waiting: Callable[[], object] | None
    ) -> tuple[Series, list[Item]]:
        """The next header, and what came for its series before it did or with it."""
        began = time.monotonic()
        items, self._next, self._kept = self._next, [], 0
        before: deque[Item] = deque(maxlen=EARLY)
        headless: Frames | None = None  # the first that waits for its header, since then
        since, told = 0.0, False
        while not stop.is_set():
            for k, item in enumerate(items):
                if isinstance(item, Series):
                    return item, [*before, *items[k + 1 :]]
                if isinstance(item, Refusal) and item.series is None:
                    log.warning("refused before the series began: %s", item.reason)
                elif _number(item) != self._last:  # what is late for the last series is lost
                    before.append(item)
                    if headless is None and isinstance(item, Frames | Early):
                        headless, since = item.frames if isinstance(item, Early) else item, time.monotonic()
            if headless is not None and not told and time.monotonic() - since > self.grace:
                told = True
                log.warning(
                    "frames of series %s come without its header: was it armed before this receiver was connected? "
                    "The last %d are kept for it",
                    headless.series,
                    EARLY,
                )
            if waiting is not None and self.receiver.connected():
                waiting()
                waiting = None
            if timeout is not None and time.monotonic() - began > timeout:
                raise TimeoutError(f"no series began within {timeout:g} s; is the detector armed, its stream enabled?")
            items = self.receiver.get(TICK)
        raise TimeoutError("stopped before a series began")


def _number(item: Frames | Early | End | Refusal) -> int | None:
    return item.frames.series if isinstance(item, Early) else item.series


class _UnderWay:
    """One series from its header to its end."""

    def __init__(
        self,
        recorder: Recorder,
        series: Series,
        path: Path,
        context: Context,
        progress: Callable[[SeriesFile], object] | None,
    ) -> None:
        self.recorder, self.series, self.path = recorder, series, path
        self.context, self.progress = context, progress
        self.gate = recorder.receiver.gate(series)
        self.file: SeriesFile | None = None
        self.came = FrameSet()
        self.duplicates = self.refused_count = self.nbytes = 0
        self.refused: list[Refusal] = []
        self.ended, self.deadline = "", float("inf")
        self.replaced = False  # by another series of the same number: what comes of that number is the other's
        self.first = self.last = 0.0

    def run(self, items: list[Item], stop: threading.Event) -> None:
        """Take `items`, then what comes, until the series has ended."""
        while not stop.is_set():
            now = time.monotonic()
            frames = [new for item in items if (new := self._sort(item)) is not None and len(new)]
            self._write(frames)
            if frames:
                self.first, self.last = self.first or now, now
            elif self.file is not None:
                with self._writing(self.file):
                    self.file.flush()
            everything = self.series.frames is not None and len(self.came) == self.series.frames
            if self.ended and (everything or now > self.deadline):
                return
            if self.first and not self.ended and now - self.last > self.recorder.timeout:
                self.ended = f"timeout: nothing came for {self.recorder.timeout:g} s, and no end message"
                return
            items = self.recorder.receiver.get(TICK)
        self.ended = self.ended or "stop"

    def _sort(self, item: Item) -> Frames | None:
        """Frames to write, if there are any in `item`; everything else is noted, or kept for the next series."""
        if isinstance(item, Refusal):
            if item.series in (None, self.series.number):
                self._refuse(item)
        elif isinstance(item, Series):
            self.recorder.keep(item)
            if item.number == self.series.number:
                self._end(f"a second start of series {item.number}, without an end message")
                self.replaced, self.deadline = True, 0.0
            else:
                self._end(f"the header of series {item.number}, without an end message")
        elif self.replaced or _number(item) != self.series.number:
            if not self.recorder.keep(item):
                numbers = item.numbers.tolist() if isinstance(item, Frames) else [None]
                for number in numbers:
                    self._refuse(Refusal("it belongs to a series that has not begun", _number(item), number))
        elif isinstance(item, End):
            self._end("end message")
        else:
            if isinstance(item, Early):
                item, refused = self.gate.admit(item.frames)
                for refusal in refused:
                    self._refuse(refusal)
            new = self.came.add_all(item.numbers)
            if new.all():
                return item
            self.duplicates += len(new) - int(new.sum())
            return item[new]
        return None

    def _refuse(self, refusal: Refusal) -> None:
        self.refused_count += 1
        if len(self.refused) < NAMED:
            self.refused.append(refusal)

    def _end(self, how: str) -> None:
        self.ended = self.ended or how
        # Where the count is not known, what other workers still hold can only be waited for.
        self.deadline = min(self.deadline, time.monotonic() + self.recorder.grace)

    def _write(self, batches: list[Frames]) -> None:
        if not batches:
            return
        if self.file is None:
            self.file = SeriesFile(self.path, self.series, batches[0].chunk(0), self.context)
        for k, frames in enumerate(batches):
            try:
                with self._writing(self.file):
                    self.file.write(frames)
            except DiskFull as error:
                log.error("%s", error)
                self.ended, self.deadline = f"disk full: {error}", 0.0
                for lost in batches[k:]:
                    self.came.discard_all(lost.numbers)
                return
            self.nbytes += frames.nbytes
        if self.progress is not None:
            self.progress(self.file)

    @contextmanager
    def _writing(self, file: SeriesFile) -> Iterator[None]:
        """What HDF5 cannot write ends the series, and leaves the file as it was flushed last."""
        try:
            yield
        except DiskFull:
            raise
        except (OSError, RuntimeError) as error:
            file.abandon()
            self.file = None
            raise OSError(
                f"{self.path} cannot be written ({error}); {file.acknowledged} frames in it are safe: find out what "
                "ails the disk, then `edgestem stream mend` makes it a file for any reader"
            ) from error

    def finish(self) -> Recording:
        """Close the file and tell."""
        expected = self.series.frames if self.series.frames is not None else self.came.end
        written = self.file.written if self.file is not None else 0
        missing = tuple(self.came.missing(expected))
        pressure = self.recorder.receiver.back_pressure
        if self.file is not None:
            with self._writing(self.file):
                self.file.finish(
                    missing,
                    expected,
                    ended=self.ended,
                    duplicate_frames=self.duplicates,
                    refused_frames=self.refused_count,
                    backpressure_s=pressure.waited_s,
                )
        return Recording(
            path=self.path,
            series=self.series,
            frames=written,
            expected=expected,
            missing=missing,
            ended=self.ended,
            duplicates=self.duplicates,
            refused=tuple(self.refused),
            refused_count=self.refused_count,
            back_pressure=BackPressure(pressure.capacity, pressure.waited_s, pressure.deepest),
            nbytes=self.nbytes,
            seconds=self.last - self.first,
        )
