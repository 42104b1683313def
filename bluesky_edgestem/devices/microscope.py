"""The microscope: scan coils, beam and detector composed into one device that flies lists of positions."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from bluesky.protocols import StreamAsset
from bluesky.utils import NoReplayAllowed
from event_model import DataKey
from ophyd import Component as Cpt
from ophyd.utils import WaitTimeoutError

from ..analysis.optics import Optics
from .beam import ELECTRON_PA_S, BeamBlanker
from .board import InferenceBoard
from .detector import PixelatedDetector
from .flight import Flight
from .position_queue import PositionQueue
from .scan_coils import ScanCoils, as_positions
from .signals import FOUND_WITHIN, NamingDevice, signals_of, watch
from .statuses import NamedStatus, in_order, together

logger = logging.getLogger(__name__)

BLANK_WITHIN = 0.5
"""Time [s] that a pause waits for the position under way to be complete, with the beam on it."""


class Microscope(NamingDevice):
    """A scanning transmission electron microscope with a pixelated detector.

    ``prepare(positions)``, ``kickoff``, ``complete``, ``collect``: the beam is unblanked when the detector is armed and
    the coils are about to start, and blanked when the last frame is in the file. Between `stage` and `unstage` all
    frames go to one file, flight after flight. `stop`, a failure and `unstage` leave the beam blanked; `pause` holds
    the flight before the next position, so that a resumed one measures every position once.

    Parameters
    ----------
    prefix : str
        Of all PVs: ``Scan:``, ``Beam:``, ``cam1:`` and ``HDF1:`` follow.
    name : str
    directory : str
        Folder that the frames go to, as the detector's IOC and the readers see it.
    """

    coils = Cpt(ScanCoils, "Scan:")
    beam = Cpt(BeamBlanker, "Beam:")
    detector = Cpt(PixelatedDetector, "", data_key="detector")

    def __init__(self, prefix: str, *, name: str = "microscope", directory: str = "/tmp", **kwargs: object) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.detector.directory = str(directory)
        self.beam.before_stop = self.hold
        self.before_flight: list[Callable[[int, int, float], object]] = []
        """Called with the detector's number of the series, the index of its first frame and the electrons per pattern,
        when the detector is armed and the beam is still blanked. What one raises is logged."""
        self.may_add = 0
        """Positions that the inference board may add to each flight, by the coils' queue."""
        self._flight: Flight | None = None
        self._prepared = 0
        self._held = False
        self._safety = threading.Lock()

    @cached_property
    def board(self) -> InferenceBoard:
        """The inference board on the detector's stream, its PVs under ``Board:``; connected to when first asked for.

        A device of its own, to be staged beside the microscope: not every microscope has one. Raises TimeoutError where
        there is none.
        """
        return _connected(InferenceBoard(f"{self.prefix}Board:", name=f"{self.name}_board", microscope=self))

    @cached_property
    def queue(self) -> PositionQueue:
        """The coils' queue for positions that the board adds; connected to when first asked for, as `board`."""
        return _connected(PositionQueue(self.coils.prefix, name=f"{self.name}_queue"))

    def destroy(self) -> None:
        """Leave the PVs, those of board and queue too."""
        for name in ("board", "queue"):
            if name in self.__dict__:
                getattr(self, name).destroy()
        super().destroy()

    # -- what a plan asks before it starts ------------------------------------------------------------------------

    def check_value(self, positions: Sequence | np.ndarray) -> None:
        """Raise `LimitError` where one of `positions` (n, 2) [nm] is outside the coils' limits."""
        self.coils.check_value(positions)

    @property
    def dose_per_pattern(self) -> float:
        """Electrons that one pattern costs the specimen: the beam is on it while the coils settle and the exposure.

        More than are in the pattern, which are those of the exposure alone.
        """
        return self.beam.dose(float(self.detector.exposure.get()) + float(self.coils.settle_time.get()))

    def exposure_for(self, dose: float) -> float:
        """Exposure [s] at the present current for `dose` [electrons] in the pattern; the settle time costs more.

        Raises
        ------
        ValueError
            The dose is not positive, or there is no current.
        """
        if not dose > 0:
            raise ValueError(f"the dose is {dose:g} electrons per pattern; it has to be above 0")
        current = float(self.beam.current.get())
        if not current > 0:
            raise ValueError(
                f"{self.beam.current.pvname} is {current:g} pA: no exposure gives a dose without a current"
            )
        return dose * ELECTRON_PA_S / current

    @property
    def dwell(self) -> float:
        """Time [s] that a flight stays at a position, to settle and to expose, as far as is known without asking."""
        return float(self.detector.exposure.latest or 0.0) + float(self.coils.settle_time.latest or 0.0)

    @property
    def optics(self) -> Optics:
        """Beam energy, semiangle and the detector's calibration as set."""
        return self.beam.optics(self.detector.width)

    @property
    def flying(self) -> bool:
        """Whether a flight is under way or held."""
        return self._flight is not None and not self._flight.status.done

    @contextlib.contextmanager
    def watched(self) -> Iterator[NamedStatus]:
        """A status that fails as soon as a PV is lost, while the context lasts: for plans that wait otherwise."""
        lost = NamedStatus(f"watch the connections of {self.name}")
        watch(signals_of(self), lost)
        try:
            yield lost
        finally:
            lost.finish()

    # -- Bluesky's protocols --------------------------------------------------------------------------------------

    def stage(self) -> NamedStatus:
        """Blank the beam and open a file. What a client that is gone left flying, armed or open is ended first."""
        self.wait_for_connection(timeout=self.coils.x.connection_timeout)
        self._forget_flight()
        return in_order(
            f"stage {self.name}", lambda: self.beam.set("Blanked"), self.coils.end_flight, self.detector.stage
        )

    def unstage(self) -> NamedStatus:
        """End what flies, blank the beam and close the file.

        A lost connection is logged, not raised: the error that ended the run says more, and must not be hidden.
        """
        self.stop()
        done = NamedStatus(f"unstage {self.name}")

        def told(status: NamedStatus) -> None:
            if not status.success:
                logger.error("%s", status)
            done.finish()

        try:
            self.detector.unstage().add_callback(told)
        except Exception as error:
            logger.error("unstage %s: %s", self.name, error)
            done.finish()
        return done

    def prepare(self, positions: Sequence | np.ndarray) -> NamedStatus:
        """Load a list of positions (n, 2) [nm]; nothing moves.

        Raises
        ------
        LimitError
            A position is outside the coils' limits.
        """
        array = as_positions(positions)
        self.check_value(array)
        self._prepared = len(array)
        return together(
            f"prepare {self._prepared} positions",
            self.coils.load(array),
            self.detector.prepare_at(array, self.may_add),
            *([self.queue.limit.set(self.may_add)] if self.may_add else []),
        )

    def kickoff(self) -> NamedStatus:
        """Arm the detector, unblank, and fly the list that was prepared.

        Done once the coils fly, or once the flight was stopped before they did: it then ended well, as it was told to.

        Raises
        ------
        RuntimeError
            Nothing is prepared, or a flight is under way.
        """
        if self.flying:
            raise RuntimeError(f"{self.name} is flying; complete or stop that flight first")
        if not self._prepared:
            raise RuntimeError(f"{self.name} has no positions to fly; prepare it with a list first")
        self._held = False  # of a flight that has ended since
        flight = self._flight = Flight(self.coils, self.detector, self._prepared, grows=self.may_add > 0)
        self._prepared = 0

        def depart() -> NamedStatus:
            # in a thread of its own: it waits for monitors, and one of them tells that the detector is armed
            threading.Thread(target=self._announce_and_depart, args=(flight,), name="depart", daemon=True).start()
            return flight.departure

        started = in_order(f"kick off {self.name}", self.detector.kickoff, depart)
        started.add_callback(lambda status: None if status.success else flight.status.fail(status.exception()))
        flight.status.add_callback(lambda _: self._blank_after(flight))
        return started

    def _announce_and_depart(self, flight: Flight) -> None:
        # Not under the lock, which who stops or pauses takes: it may wait for a board that hangs.
        try:
            self._announce(flight)
        except Exception as error:
            flight.departure.fail(error)
            return
        flight.armed = True
        self._depart(flight)

    def _depart(self, flight: Flight) -> None:
        """Unblank and send the coils off, unless the flight is held, which `resume` ends, or has ended meanwhile.

        Arming takes as long as it takes, and whoever paused or stopped in that time relies on a beam that stays off.
        """
        with self._safety:
            if not flight.armed or flight.started:
                return
            if flight.status.done:
                if self._flight is flight:  # else the detector is armed for another
                    self._log_failure(self.detector.stop)
                return
            if self._held:
                return
            failure = None
            try:
                self.beam.set("Unblanked").wait()
                if not flight.status.done:  # else whoever ended it waits for the lock, to blank
                    flight.start()
            except Exception as error:
                failure = error
        # after the lock is free: what follows on it may stop the flight
        if failure is None:
            flight.departure.finish()
        else:
            flight.departure.fail(failure)

    def _announce(self, flight: Flight) -> None:
        if self.before_flight or flight.grows:
            series, electrons = self.detector.series_number, self.beam.dose(float(self.detector.exposure.get()))
            if flight.grows:
                self.queue.series.set(series).wait()
            for announce in tuple(self.before_flight):
                try:
                    announce(series, flight.first, electrons)
                except Exception as error:
                    logger.error("before the flight of series %d: %s", series, error)

    def _blank_after(self, flight: Flight) -> None:
        """Blank, whether or not anyone waits for the flight to be complete; and after a failure end all of it."""

        def blank() -> None:
            if not flight.status.success:
                self._make_safe()
            with self._safety:
                if self._flight is not flight:  # the beam is on for another
                    flight.blanked.finish()
                    return
                try:
                    self.beam.set("Blanked").wait()
                    if flight.grows:
                        self.detector.stop()  # it was armed for as many as might have been added
                    flight.blanked.finish()
                except Exception as error:
                    flight.blanked.fail(error)

        # in a thread of its own: it waits for monitors, and the end may have been told by one
        threading.Thread(target=blank, name="blank after flight", daemon=True).start()

    def complete(self) -> NamedStatus:
        """Done once every frame is in the file and the beam is blanked again."""
        flight = self._flight
        if flight is None:
            raise RuntimeError(f"{self.name} does not fly; kick it off first")
        return in_order("complete the flight", lambda: flight.status, lambda: flight.blanked)

    def trigger(self) -> NamedStatus:
        """One pattern where the probe is, for step scans: unblanked only as long as it takes."""
        here = [self.coils.x.get(), self.coils.y.get()]
        return in_order(f"trigger {self.name}", lambda: self.prepare([here]), self.kickoff, self.complete)

    def describe(self) -> dict[str, DataKey]:
        """Data keys of an event of a step scan: positions in the event, the frame in the file."""
        return {**super().describe(), **self.describe_collect()}

    def describe_collect(self) -> dict[str, DataKey]:
        """Data keys of one stream: the frames and where the probe was."""
        return self.detector.describe_collect()

    def get_index(self) -> int:
        """Frames in the file."""
        return self.detector.get_index()

    def collect_asset_docs(self, index: int | None = None) -> Iterator[StreamAsset]:
        """Documents of the frames written since the last call, up to `index`."""
        yield from self.detector.collect_asset_docs(index)

    def hold(self) -> None:
        """Hold the flight before its next position and blank; nothing where nothing flies.

        A position that takes longer than `BLANK_WITHIN` is not waited for: the beam is blanked at once, and the pattern
        under way has fewer electrons than the others.
        """
        with self._safety:
            flight = self._flight
            if flight is None or flight.status.done or self._held:
                return
            self._held = True
            if not flight.started:  # the detector is being armed; there are no coils to hold
                self.beam.set("Blanked").wait()
                return
        held = self.coils.hold(self.dwell)
        try:
            if self.dwell <= BLANK_WITHIN:
                with contextlib.suppress(WaitTimeoutError):
                    held.wait(BLANK_WITHIN)
        finally:
            cut_short = not held.done
            self.beam.set("Blanked").wait()
        if cut_short and self.flying:
            logger.warning(
                "%s: the pattern that was under way when the beam was blanked is short of electrons", self.name
            )
        held.wait()

    def pause(self) -> None:
        """Hold the flight and blank; the RunEngine must not replay a flight that goes on where it was."""
        if self.flying:
            self.hold()
            raise NoReplayAllowed(f"{self.name} holds a flight")
        self.beam.set("Blanked").wait()

    def resume(self) -> None:
        """Unblank and go on with a held flight; one whose detector is still being armed starts once it is."""
        with self._safety:
            flight = self._flight
            if flight is None or not self._held:
                return
            self._held = False
            if flight.started and not flight.status.done:
                self.beam.set("Unblanked").wait()
                self.coils.go_on()
        self._depart(flight)

    def stop(self, *, success: bool = False) -> None:
        """End a flight where it is and blank. The flight's status ends well: it was told to."""
        self._forget_flight()
        self._make_safe()

    def _forget_flight(self) -> None:
        flight = self._flight
        if flight is not None and not flight.status.done:
            flight.status.finish()
            flight.status.exception()  # waits: another thread may be about to mark it as done
        with self._safety:  # an unblanking under way is over, and there is no other
            self._held = False

    def _make_safe(self) -> None:
        """End the flight, blank, disarm; log what cannot be done, for the rest must still be tried.

        The coils are told first, without waiting, or the positions they reach under a blanked beam would count as
        measured.
        """
        with self._safety:
            for step in (self.coils.stop, lambda: self.beam.set("Blanked").wait(), self.detector.stop):
                self._log_failure(step)

    def _log_failure(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:
            logger.error("%s could not be made safe: %s", self.name, error)


def _connected(device: InferenceBoard | PositionQueue) -> Any:
    try:
        device.wait_for_connection(timeout=FOUND_WITHIN)
    except TimeoutError:
        device.destroy()
        raise
    return device
