"""One series of a detector, from the moment it is armed until its frames are in a file."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...stream.gate import Gate
from ...stream.nexus import Context
from ...stream.receiver import BackPressure, Item, Receiver
from ...stream.recorder import Recorder
from ...stream.recording import Recording, spelled
from ...stream.series import Series
from ...stream.series_file import SeriesFile
from ..statuses import LostConnection, NamedStatus
from .rest import DetectorRefused, Simplon

GRACE = 0.1
"""Time [s] for frames after the end message; with one socket there are none."""
POLL = 0.5
"""Time [s] between two looks at the detector's state."""
IDLE = 2.0
"""Time [s] without a frame after which an idle detector is believed to have nothing more to send."""
HEADER = 5.0
"""Time [s] for the header to come once the detector is armed; it is sent before the first trigger."""
READ_OUT = 5.0
"""Time [s] for the frames already exposed to come once the detector is disarmed."""
ARMED = ("ready", "acquire", "configure")
STOPPED = "stopped before a series began"

log = logging.getLogger(__name__)


class MissingFrames(RuntimeError):
    """More frames were lost on their way than are tolerated."""


class _One:
    """A receiver that gives one series only: what the detector still held of another is not for this file."""

    def __init__(self, receiver: Receiver, number: int) -> None:
        self._receiver, self._number = receiver, number
        self.began = False
        """Whether the header has come."""

    @property
    def back_pressure(self) -> BackPressure:
        return self._receiver.back_pressure

    def gate(self, series: Series) -> Gate:
        return self._receiver.gate(series)

    def forget(self, number: int) -> None:
        self._receiver.forget(number)

    def get(self, timeout: float) -> list[Item]:
        items = [item for item in self._receiver.get(timeout) if self._of(item) in (None, self._number)]
        self.began = self.began or any(isinstance(item, Series) for item in items)
        return items

    @staticmethod
    def _of(item: Any) -> int | None:
        if isinstance(item, Series):
            return item.number
        return getattr(getattr(item, "frames", item), "series", None)


class ArmedSeries:
    """Writes a series that was armed, in threads of its own, and watches the detector meanwhile.

    `status` is done when the series has ended and its file is closed; it fails where the detector is lost, nothing came
    or too much is missing, or the file could not be written. An end by `stop` is none of these.

    Parameters
    ----------
    rest : Simplon
    receiver : Receiver
        Connected to the detector's stream.
    address : str
        Of the stream, for messages.
    number : int
        What the detector calls the series.
    frames : int
        That it will have.
    path : Path
        A file that does not exist yet.
    context : Context
        For the file.
    max_missing : float
        Part of the frames that may be lost.
    progress : callable
        Called without arguments when `index` may have grown.
    ended : callable
        Called with what came of the series, before `status` is done.
    """

    def __init__(
        self,
        rest: Simplon,
        receiver: Receiver,
        address: str,
        number: int,
        frames: int,
        path: Path,
        context: Context,
        max_missing: float,
        progress: Callable[[], object],
        ended: Callable[[Recording], object],
    ) -> None:
        self.rest, self.number, self.frames, self.path = rest, number, frames, path
        self.status = NamedStatus(f"series {number} of {rest.url}")
        self.recording: Recording | None = None
        self._file: SeriesFile | None = None
        self._last: int | None = None
        self._receiver, self._one, self._address = receiver, _One(receiver, number), address
        self._context, self._max_missing = context, max_missing
        self._progress, self._ended = progress, ended
        self._stop, self._closed = threading.Event(), threading.Event()
        self._told_to_end = False
        self._error: Exception | None = None
        self._latest = time.monotonic()
        for work in (self._record, self._watch):
            threading.Thread(target=work, name=f"{work.__name__[1:]} series {number}", daemon=True).start()

    @property
    def index(self) -> int:
        """Frames that readers may ask for, those that are missing between them included."""
        if self._last is not None:
            return self._last
        # Frames come in the order of their numbers through one socket: so many are there, or known to be missing.
        return 0 if self._file is None else self._file.acknowledged

    def stop(self) -> None:
        """Disarm, keep what was exposed, close the file. The status ends well, unless it has failed before."""
        if self.status.done:
            self._closed.wait(READ_OUT)
            return
        self._told_to_end = True
        try:
            disarm(self.rest)
        except (LostConnection, DetectorRefused) as error:
            log.error("%s could not be disarmed: %s", self.rest.url, error)
            self._stop.set()
        if not self._closed.wait(READ_OUT):
            self._stop.set()
            self._closed.wait(READ_OUT)

    def give_up(self, error: Exception) -> None:
        """Disarm and keep what was exposed; the status fails with `error` then."""
        self._error = error
        try:
            disarm(self.rest)
        except (LostConnection, DetectorRefused):
            self._stop.set()

    def _record(self) -> None:
        # The time between two frames is the scan's affair, which may be paused; `_watch` knows when nothing will come.
        recorder = Recorder(self._one, timeout=float("inf"), grace=GRACE)  # type: ignore[arg-type]
        try:
            self.recording = recorder.record(self.path, context=self._context, progress=self._came, stop=self._stop)
        except TimeoutError as error:
            if not str(error).startswith(STOPPED):
                self._error = self._error or error
        except Exception as error:
            self._error = self._error or error
        finally:
            self._settle()

    def _came(self, file: SeriesFile) -> None:
        self._latest, self._file = time.monotonic(), file
        self._progress()

    def _watch(self) -> None:
        """Find out that the detector is gone, or has done without saying so."""
        while not self._closed.wait(POLL):
            try:
                state = self.rest.value("detector/status/state")
            except (LostConnection, DetectorRefused) as error:
                self._fail(error)
                return
            if not self._one.began and time.monotonic() - self._latest > HEADER:
                self._fail(self._nothing())
                return
            if state == "error":
                self._fail(RuntimeError(f"{self.rest.url} is in the state 'error'; look at its own log"))
                return
            quiet = time.monotonic() - self._latest > IDLE and not self._receiver.depth
            if state not in ARMED and quiet:
                self._stop.set()
                return

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._stop.set()
        self.status.fail(error)

    def _settle(self) -> None:
        error = self._error
        if self.recording is not None:
            if not self._told_to_end:
                error = error or self._shortcoming(self.recording)
            whole = error is None and not self._told_to_end
            self._last = self.recording.expected if whole else _last_frame(self.recording)
            self._ended(self.recording)
        elif not self._told_to_end:
            error = error or self._nothing()
        if error is None:
            self._closed.set()
            self._progress()
            self.status.finish()
            return
        if isinstance(error, LostConnection):  # nobody has to wait for a last try
            self.status.fail(error)
            self._closed.set()
        with contextlib.suppress(LostConnection, DetectorRefused):  # the error says enough
            disarm(self.rest)
        self._closed.set()
        self.status.fail(error)

    def _nothing(self) -> TimeoutError:
        return TimeoutError(
            f"{self.rest.url} was armed for series {self.number}, but nothing of it came from {self._address}; "
            "is that the address of its stream, and does nobody else take it?"
        )

    def _shortcoming(self, recording: Recording) -> Exception | None:
        lost = sum(map(len, recording.missing))
        if recording.ended.startswith("disk full"):
            return OSError(recording.ended)
        if recording.missing:
            log.warning("%s: %s", self.rest.url, recording)
        if lost <= self._max_missing * self.frames:
            return None
        ended = "" if recording.ended == "end message" else ", and no end message came"
        why = (
            f"; the first of {recording.refused_count} refused: {recording.refused[0].reason}"
            if recording.refused
            else ""
        )
        return MissingFrames(
            f"{self.rest.url}: {lost} of the {self.frames} frames of series {self.number} are missing: "
            f"{spelled(recording.missing)}{ended}{why}; at most {self._max_missing:g} of them may be. "
            f"The others are in {recording.path}"
        )


def disarm(rest: Simplon) -> None:
    """Leave the detector ready for the next series, whatever it does now.

    Raises
    ------
    LostConnection, DetectorRefused
    """
    try:
        rest.command("disarm")
    except (LostConnection, DetectorRefused):
        rest.command("abort")  # does not wait for the frame under way


def _last_frame(recording: Recording) -> int:
    """One past the last frame that came."""
    if recording.missing and recording.missing[-1].stop == recording.expected:
        return recording.missing[-1].start
    return recording.expected
