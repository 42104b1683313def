"""One flight over a list of positions, watched from its start to its end."""

from __future__ import annotations

import threading
import time

from .pattern_detector import PatternDetector
from .scan_coils import ScanCoils
from .signals import watch
from .statuses import NamedStatus

STALL_TIMEOUT = 20.0
"""Time [s] without a frame after which a flight has failed; an IOC can hang without losing its connection."""
ENDED_GRACE = 0.5
"""Time [s] for the coils' counter to arrive after they say that the flight is over."""


class Flight:
    """Follows the coils and the detector by monitors; `status` is done when all frames are in the file.

    It fails where a PV is lost, a frame cannot be written, the coils end early, or no frame comes for `STALL_TIMEOUT`.

    Parameters
    ----------
    coils, detector
        What flies; the list is loaded and the detector prepared.
    n : int
        Positions in the list.
    """

    def __init__(self, coils: ScanCoils, detector: PatternDetector, n: int) -> None:
        self.coils, self.detector, self.n = coils, detector, n
        self.status = NamedStatus(f"flight over {n} positions")
        self._first = detector.get_index()
        self._progress = time.monotonic()
        self._over = threading.Event()
        self.status.add_callback(lambda _: self._over.set())
        detector.follow(self._counted, self.status)
        watch((coils.state,), self.status)
        threading.Thread(target=self._watch_progress, name="flight", daemon=True).start()

    @property
    def taken(self) -> int:
        """Frames of this flight that are in the file."""
        return self.detector.get_index() - self._first

    def start(self) -> None:
        """Send the coils off."""
        self._progress = time.monotonic()
        self.coils.start(self._coils_ended)

    def _counted(self, value: int) -> None:
        self._progress = time.monotonic()
        if value - self._first >= self.n:
            self.status.finish()

    def _coils_ended(self) -> None:
        self.status.after(ENDED_GRACE, self._check_end)

    def _check_end(self) -> None:
        if self.coils.index.latest != self.n:
            message = self.coils.message
            self.status.fail(
                RuntimeError(f"{message.pvname}: {message.latest or 'the coils ended the flight'} ({self._where()})")
            )

    def _where(self) -> str:
        return f"{self.taken} of {self.n} frames are in the file"

    def _watch_progress(self) -> None:
        while not self._over.wait(1.0):
            if self.coils.state.latest == "Paused":
                self._progress = time.monotonic()
            exposure = self.detector.exposure.latest or 0.0
            settle = self.coils.settle_time.latest or 0.0
            if time.monotonic() - self._progress > STALL_TIMEOUT + exposure + settle:
                self.status.fail(
                    TimeoutError(
                        f"no frame for {STALL_TIMEOUT:g} s, {self._where()}; "
                        f"{self.coils.state.pvname} is {self.coils.state.latest}, {self.detector.condition}"
                    )
                )
