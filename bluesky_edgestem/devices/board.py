"""The inference board: an FPGA on the detector's stream that tells strain before the next frame is there."""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from event_model import DataKey
from ophyd import Component as Cpt

from ..analysis.descriptor import FeatureDescriptors
from ..analysis.optics import Optics
from ..fpga import student
from ..fpga.results import COLUMNS, descriptors
from ..fpga.shipped import folder_of
from ..fpga.student import Student
from .signals import AnySignal, BusySignal, NamingDevice, ReadSignal, SetSignal, wait_until
from .statuses import NamedStatus, in_order, in_thread

if TYPE_CHECKING:
    from .microscope import Microscope

TEST_TIMEOUT = 20.0
"""Time [s] that the golden frames may take."""
PATIENCE = 1.0
"""Time [s] to wait for a result whose frame is in the file already: the board has it before the file does."""
COUNTED = 1.0
"""Time [s] that its counters may come after the results that they count."""
KEPT = 100_000
"""Results that wait to be asked for; older ones are forgotten."""
SERIES, FRAME, ELECTRONS = (COLUMNS.index(name) for name in ("series", "frame", "electrons"))

log = logging.getLogger(__name__)


class TestFailed(RuntimeError):
    """The board did not give the bits that it was built to give."""

    __test__ = False  # pytest would take it for one


@dataclass
class _Flight:
    first: int  #: index of its first frame
    series: int  #: the detector's number
    electrons: float  #: that its frames are expected to have
    announced: bool = False  #: whether the board knows of it


def _reading(signal: AnySignal) -> dict[str, Any]:
    return {"value": signal.latest, "timestamp": signal.timestamp or time.time()}


def _key_of(signal: AnySignal) -> DataKey:
    value = signal.latest
    kind: Any = "string" if isinstance(value, str) else "array" if np.ndim(value) else "number"
    return DataKey(source=f"PV:{signal.pvname}", dtype=kind, shape=list(np.shape(value)))


class InferenceBoard(NamingDevice):
    """An inference board behind its IOC.

    `stage` runs the golden frames of its build and refuses to go on if a bit is wrong, then lets the board take the
    stream. `expect` says which frames come; `results` gives what the board made of them. As ``descriptors`` of a plan
    it takes the place of a network; frames that it gives no result for are read by `fallback`.

    Parameters
    ----------
    prefix : str
        Of the board's PVs.
    name : str
    microscope : Microscope, optional
        Whose flights the board follows while it is staged; without one, `expect` has to be called.

    Attributes
    ----------
    fallback : DescriptorSource, str or Path, optional
        What reads the frames that the board is silent about; the network that ships with the package if left out.
    """

    model = Cpt(SetSignal, "Model", string=True, kind="config")
    model_hash = Cpt(ReadSignal, "ModelHash_RBV", string=True, kind="config")
    phases = Cpt(ReadSignal, "Phases_RBV", string=True, kind="config")
    energy = Cpt(ReadSignal, "Energy_RBV", kind="config", doc="energy that it was built for [keV]")
    semiangle = Cpt(ReadSignal, "Semiangle_RBV", kind="config", doc="semiangle that it was built for [mrad]")
    pixel_angle = Cpt(ReadSignal, "PixelAngle_RBV", kind="config", doc="pixel that it was built for [mrad]")
    frame_size = Cpt(ReadSignal, "FrameSize_RBV", kind="config", doc="pixels along a side that it was built for")
    electrons = Cpt(SetSignal, "Electrons", kind="omitted", doc="electrons that a pattern is expected to have")
    run = Cpt(SetSignal, "Run", string=True, kind="omitted")
    rule = Cpt(SetSignal, "Rule", string=True, kind="config")
    rule_low = Cpt(SetSignal, "RuleLow", kind="config")
    rule_high = Cpt(SetSignal, "RuleHigh", kind="config")
    rule_side = Cpt(SetSignal, "RuleSide", string=True, kind="config")
    rule_spacing = Cpt(SetSignal, "RuleSpacing", kind="config")
    rule_lost = Cpt(ReadSignal, "RuleLost_RBV", kind="normal", doc="of the hits, those that the coils did not hear of")
    rule_hits = Cpt(ReadSignal, "RuleHits_RBV", kind="normal", doc="results for which the rule held")
    stream = Cpt(ReadSignal, "Stream_RBV", string=True, kind="config")
    state = Cpt(ReadSignal, "State_RBV", string=True, kind="normal")
    frames_in = Cpt(ReadSignal, "FramesIn_RBV", kind="normal")
    results_out = Cpt(ReadSignal, "ResultsOut_RBV", kind="normal")
    dropped = Cpt(ReadSignal, "Dropped_RBV", kind="normal")
    refused_frames = Cpt(ReadSignal, "Refused_RBV", kind="normal")
    latency_edges = Cpt(ReadSignal, "LatencyEdges_RBV", kind="config")
    latency = Cpt(ReadSignal, "Latency_RBV", kind="normal")
    latest = Cpt(ReadSignal, "Results_RBV", kind="omitted", doc="rows of the last results")
    self_test = Cpt(BusySignal, "SelfTest", kind="omitted")
    self_test_result = Cpt(ReadSignal, "SelfTest_RBV", string=True, kind="normal")
    message = Cpt(ReadSignal, "Message_RBV", string=True, kind="omitted")

    def __init__(self, prefix: str, *, name: str, microscope: Microscope | None = None, **kwargs: Any) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.fallback: Any = None
        self._microscope = microscope
        self._change = threading.Condition()
        self._rows: dict[tuple[int, int], np.ndarray] = {}
        self._flights: list[_Flight] = []
        self._stagings = 0  # what a staging under way is told by that it has been ended
        self._steps = threading.Lock()
        self._told: set[int] = set()  # series of which a frame without a result was logged
        self._last: dict[int, int] = {}  # frame of the latest result of each series
        self._given = 0  # results since it was staged
        self._silent = False

    def load(self, build: str | Path) -> None:
        """Have the board load a build, unless it has it; one that has its student, from elsewhere, may refuse.

        Parameters
        ----------
        build : str or Path
            Its folder; "shipped" is the one that comes with the package.

        Raises
        ------
        ValueError
            The folder holds no build, or the board did not load it.
        """
        folder = folder_of(build)
        wanted = Student.load(folder / student.NAME).hash
        has = self.model_hash.get(use_monitor=False) == wanted
        if has and self.model.get(use_monitor=False) == str(folder):
            return
        try:
            self.model.set(str(folder)).wait()
        except ValueError as error:
            # An IOC elsewhere has the build in a folder of its own.
            if not has:
                raise
            log.warning("%s goes on with the student %s that it has: %s", self.name, wanted, error)
        loaded = self.model_hash.get(use_monitor=False)
        if loaded != wanted:
            raise ValueError(f"{folder} holds student {wanted}; the board says that it has loaded {loaded}")

    def check_optics(self, optics: Optics) -> None:
        """Raise ValueError where the board was built for other optics, TimeoutError where there is none."""
        self.wait_for_connection(timeout=self.run.connection_timeout)
        signals = (self.energy, self.semiangle, self.pixel_angle, self.frame_size)
        own = {name: float(signal.get()) for name, signal in zip(student.OF_OPTICS, signals, strict=True)}
        if told := student.other_optics(own, optics):
            raise ValueError(
                f"{told}, as {self.prefix} says: load a build for these optics, made with `edgestem fpga build`"
            )

    # -- Bluesky's protocols --------------------------------------------------------------------------------------

    def stage(self) -> NamedStatus:
        """Test the board and let it take the stream; fails with `TestFailed` where a bit is wrong."""
        self._stagings += 1
        mine = self._stagings
        return in_thread(f"stage {self.name}", lambda: self._get_ready(mine))

    def _get_ready(self, mine: int) -> None:
        self.wait_for_connection(timeout=self.run.connection_timeout)
        self.run.set("Stopped").wait()
        self.rule.set("Off").wait()
        self._test()
        with self._change:
            self._rows.clear()
            self._flights.clear()
            self._told.clear()
            self._last.clear()
            self._given = 0
            self._silent = False
        with self._steps:  # an abort unstages while this thread goes on: what comes second has the last word
            if mine != self._stagings:
                raise RuntimeError(f"{self.name} was unstaged before it was ready")
            self.run.set("Running").wait()
            self.latest.subscribe(self._take, run=False)
            if self._microscope is not None:
                self._microscope.before_flight.append(self.expect)

    def _test(self) -> None:
        ended = threading.Event()
        self.self_test.start(ended.set)
        if not ended.wait(TEST_TIMEOUT):
            raise TimeoutError(f"{self.self_test.pvname} has not ended after {TEST_TIMEOUT:g} s")
        result = self.self_test_result.get(use_monitor=False)
        if result != "Passed":
            why = self.message.get(use_monitor=False)
            raise TestFailed(f"{self.self_test_result.pvname} is {result}: {why}; the board must not be used")

    def adds(self, limit: int) -> None:
        """Let it add up to `limit` positions to each flight of its microscope, by its rule; 0 ends that.

        Raises
        ------
        ValueError
            It has no microscope whose coils could take them.
        """
        if self._microscope is None:
            raise ValueError(f"{self.name} is the board of no microscope: no coils take what it adds")
        if limit:
            self._microscope.queue.wait_for_connection(timeout=self.run.connection_timeout)
        self._microscope.may_add = limit

    def unstage(self) -> NamedStatus:
        """End its rule and leave the stream. A board that is gone is logged, not raised: the run does without it."""
        self._stagings += 1
        return in_thread(f"unstage {self.name}", self._leave)

    def _leave(self) -> None:
        with self._steps:
            self.latest.clear_sub(self._take)
            if self._microscope is not None:
                self.adds(0)
                while self.expect in self._microscope.before_flight:
                    self._microscope.before_flight.remove(self.expect)
            for status in (self.run.set("Stopped"), self.rule.set("Off")):  # the second whatever becomes of the first
                try:
                    status.wait()
                except Exception as error:
                    log.error("%s", error)

    def trigger(self) -> NamedStatus:
        """Done once its counters have come as far as the results that it gave, or after `COUNTED`: it may be gone."""
        given = self._given

        def counted(signal: ReadSignal) -> NamedStatus:
            return wait_until(signal, lambda count: int(count) >= given, f"count results in {signal.pvname}", COUNTED)

        done = NamedStatus(f"trigger {self.name}")
        counters = (self.results_out, self.frames_in)
        in_order(done.what, *(lambda signal=signal: counted(signal) for signal in counters)).add_callback(
            lambda _: done.finish()
        )
        return done

    def read(self) -> dict[str, Any]:
        """What went through it; as last heard, since the board may be gone."""
        readings = {signal.name: _reading(signal) for signal in self._heard(self.read_attrs)}
        if not self.state.answers and self.state.name in readings:
            readings[self.state.name]["value"] = "Disconnected"
        return readings

    def describe(self) -> dict[str, DataKey]:
        """Data keys of what `read` gives."""
        return {signal.name: _key_of(signal) for signal in self._heard(self.read_attrs)}

    def read_configuration(self) -> dict[str, Any]:
        """Which build it has; as last heard."""
        return {signal.name: _reading(signal) for signal in self._heard(self.configuration_attrs)}

    def describe_configuration(self) -> dict[str, DataKey]:
        """Data keys of what `read_configuration` gives."""
        return {signal.name: _key_of(signal) for signal in self._heard(self.configuration_attrs)}

    def _heard(self, attributes: Sequence[str]) -> list[AnySignal]:
        """Those of the signals that have told a value."""
        signals: list[AnySignal] = [getattr(self, name) for name in attributes]
        return [signal for signal in signals if signal.latest is not None]

    # -- results --------------------------------------------------------------------------------------------------

    def expect(self, series: int, first: int, electrons: float) -> None:
        """The next frames, from index `first` on, are those of a series; `electrons` in each, about.

        Raises
        ------
        ConnectionError, TimeoutError, ValueError
            The board does not answer or take it, or had a series of that number since `stage`: what it makes of these
            frames is not used.
        """
        flight = _Flight(first, series, electrons)
        with self._change:
            repeated = any(series == earlier.series for earlier in self._flights)
            self._flights.append(flight)
        if repeated:
            raise ValueError(
                f"series {series} has been flown already, the detector was initialised since: which of both a result "
                "is of cannot be told, and the fallback reads these frames"
            )
        try:
            self.electrons.set(electrons, timeout=PATIENCE if self._silent else None).wait()
        except (OSError, ValueError) as error:
            self._silent = self._silent or isinstance(error, TimeoutError)
            told = f"{self.name} could not be told of series {series}, whose frames its fallback reads: {error}"
            raise type(error)(told) from None
        with self._change:
            flight.announced = True
            self._silent = False  # it has just answered

    def _take(self, value: Any, **_: Any) -> None:
        """A monitor of the latest results, most of them known."""
        values = np.asarray(value)
        if values.ndim != 1 or values.size % len(COLUMNS):
            return
        rows = values.reshape(-1, len(COLUMNS))
        with self._change:
            for row in rows[::-1]:  # the latest first: those before one that is known are known, too
                key = int(row[SERIES]), int(row[FRAME])
                if key in self._rows:
                    break
                self._rows[key] = row.copy()  # not a view, which would keep all of the monitor
                self._given += 1
                self._last[key[0]] = max(self._last.get(key[0], -1), key[1])
            while len(self._rows) > KEPT:
                del self._rows[next(iter(self._rows))]
            if self._silent and len(rows):
                log.warning("%s answers again", self.name)
                self._silent = False
            self._change.notify_all()

    def results(self, numbers: Sequence[int]) -> tuple[FeatureDescriptors, np.ndarray]:
        """What the board made of frames, by their index since `stage`.

        It waits for `PATIENCE` at most, and not at all while the board is silent, nor for a frame that the board must
        have missed: results come in the order of the frames.

        Parameters
        ----------
        numbers : sequence of int
            Ascending.

        Returns
        -------
        FeatureDescriptors
            Of the frames that there is a result of.
        numpy.ndarray
            Which of `numbers` these are, (len(numbers),) bool.
        """
        with self._change:
            keys = [self._key(number) for number in numbers]

            def missing() -> list[int]:
                of = zip(numbers, keys, strict=True)
                return [number for number, key in of if key is not None and not self._settled(key)]

            if not self._silent and not self._change.wait_for(lambda: not missing(), PATIENCE):
                self._silent = True
                log.warning(
                    "%s has given no result for frame %d within %g s; its fallback reads on until it answers",
                    *(self.name, missing()[0], PATIENCE),
                )
            rows = [None if key is None else self._trusted(key) for key in keys]
            if not self._silent:
                self._tell_of_the_first(numbers, keys, rows)
        came = np.array([row is not None for row in rows], bool)
        told = np.array([row for row in rows if row is not None]).reshape(-1, len(COLUMNS))
        first, second = str(self.phases.latest).split()
        return descriptors(told, (first, second)), came

    def _tell_of_the_first(
        self, numbers: Sequence[int], keys: Sequence[tuple[int, int] | None], rows: Sequence[np.ndarray | None]
    ) -> None:
        """Log the first frame of each series that the fallback reads although the board is not silent."""
        for number, key, row in zip(numbers, keys, rows, strict=True):
            if key is None or row is not None or key[0] in self._told:
                continue
            self._told.add(key[0])
            made = self._rows.get(key)
            why = "it was lost on the way, refused, or is no longer among the latest"
            if made is not None:
                why = f"the board was set for {made[ELECTRONS]:g} electrons when it made that"
            log.warning("%s has no result of frame %d, %s; its fallback reads such frames", self.name, number, why)

    def _key(self, number: int) -> tuple[int, int] | None:
        """Series and frame of the frame with an index; None where its flight was not announced."""
        at = bisect_right(self._flights, number, key=lambda flight: flight.first) - 1
        flight = self._flights[at] if at >= 0 else None
        return (flight.series, number - flight.first) if flight is not None and flight.announced else None

    def _settled(self, key: tuple[int, int]) -> bool:
        """Whether the board has read a frame, or has gone past it."""
        return key in self._rows or self._last.get(key[0], -1) > key[1]

    def _trusted(self, key: tuple[int, int]) -> np.ndarray | None:
        """A row, unless the board was set for other numbers of electrons when it made it."""
        row = self._rows.get(key)
        electrons = next(flight.electrons for flight in self._flights if flight.series == key[0])
        return row if row is not None and abs(row[ELECTRONS] - electrons) <= 1e-6 * electrons else None
