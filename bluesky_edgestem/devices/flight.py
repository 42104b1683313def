"""One flight over a list of positions, watched from its start to its end."""

from __future__ import annotations

import threading
import time

from .pattern_detector import PatternDetector
from .scan_coils import FLYING, ScanCoils
from .signals import wait_until, watch
from .statuses import LostConnection, NamedStatus

STALL_TIMEOUT = 20.0
"""Time [s] without a frame after which a flight has failed; an IOC can hang without losing its connection."""
ENDED_GRACE = 0.5
"""Time [s] after the coils say that the flight is over for what ended it, a lost connection or a failed write, to tell
of itself first: it says more than the coils know."""


class Flight:
    """Follows the coils and the detector by monitors; `status` is done when all frames are in the file.

    `departure` is done when the coils fly, or when the flight has ended before they did. `status` fails where a PV is
    lost, a frame cannot be written, the coils end early, or no frame comes for `STALL_TIMEOUT`.

    Parameters
    ----------
    coils, detector
        What flies; the list is loaded and the detector prepared.
    n : int
        Positions in the list.
    grows : bool
        Positions may be added while it is under way: it is over when the coils say so, and all their frames are there.
    """

    def __init__(self, coils: ScanCoils, detector: PatternDetector, n: int, *, grows: bool = False) -> None:
        self.coils, self.detector, self.n, self.grows = coils, detector, n, grows
        self._total = None if grows else n
        self.status = NamedStatus(f"flight over {n} positions")
        self.departure = NamedStatus(f"start {coils.fly.pvname}")
        self.blanked = NamedStatus("blank the beam after the flight")
        """Done when the beam is off the specimen again, which the microscope sees to as soon as `status` is done."""
        self.armed = False
        """Whether the detector takes triggers: the coils may be sent off."""
        self.started = False
        """Whether the coils were sent off."""
        self.first = detector.get_index()
        """Index of its first frame."""
        self._progress = time.monotonic()
        self._over = threading.Event()
        self.status.add_callback(lambda _: self._over.set())
        self.status.add_callback(self._give_up_departure)
        detector.follow(self._counted, self.status)
        watch((coils.state,), self.status)
        threading.Thread(target=self._watch_progress, name="flight", daemon=True).start()

    @property
    def taken(self) -> int:
        """Frames of this flight that are in the file."""
        return self.detector.get_index() - self.first

    def start(self) -> None:
        """Send the coils off, and wait until they fly or have flown: before, they can be neither held nor ended.

        Raises
        ------
        LostConnection
            The coils are not there.
        TimeoutError
            They do not say that they fly.
        """
        self._progress = time.monotonic()
        self.started = True
        away = wait_until(self.coils.state, lambda state: state in FLYING, f"start {self.coils.fly.pvname}")

        def ended() -> None:
            away.finish()
            self._coils_ended()

        self.coils.start(ended, self.grows)
        away.wait()

    def _give_up_departure(self, status: NamedStatus) -> None:
        error = status.exception()
        if error is None:
            self.departure.finish()
        else:
            self.departure.fail(error)

    def _counted(self, value: int) -> None:
        self._progress = time.monotonic()
        if self._total is not None and value - self.first >= self._total:
            self.status.finish()

    def _coils_ended(self) -> None:
        self.status.after(ENDED_GRACE, self._check_end)

    def _check_end(self) -> None:
        """Fail where the coils ended early.

        They are asked: a monitor may be late, and pyepics completes a put also when the connection is lost.
        """
        index, message, state = self.coils.index, self.coils.message, self.coils.state
        try:
            done, why, now = (
                s.get(use_monitor=False, timeout=1.0, connection_timeout=0.5) for s in (index, message, state)
            )
        except Exception as error:
            self.status.fail(
                LostConnection(
                    f"lost the connection to {index.pvname}: it does not answer after the end of the flight "
                    f"({self._where()}): {error}"
                )
            )
            return
        if self.grows and int(done) >= self.n and now == "Idle":
            self._total = int(done)
            self._counted(self.detector.get_index())
        elif int(done) != self.n:
            self.status.fail(RuntimeError(f"{message.pvname}: {why or 'the coils ended the flight'} ({self._where()})"))

    def _where(self) -> str:
        return f"{self.taken} of {self.n} frames are in the file"

    def _watch_progress(self) -> None:
        while not self._over.wait(1.0):
            if not self.started or self.coils.state.latest == "Paused":
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
