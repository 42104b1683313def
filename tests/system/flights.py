"""What the clients of the simulated microscope do in these tests; each function runs in a process of its own."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import ophyd
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted
from ophyd import Component as Cpt

from bluesky_edgestem.analysis.descriptor import FeatureDescriptors
from bluesky_edgestem.devices.beam import BeamBlanker
from bluesky_edgestem.devices.microscope import Microscope
from bluesky_edgestem.devices.scan_coils import ScanCoils
from bluesky_edgestem.devices.signals import ReadSignal, SetSignal, signals_of
from bluesky_edgestem.devices.statuses import NamedStatus, in_order
from bluesky_edgestem.plans.adaptive import adaptive_map
from bluesky_edgestem.plans.stubs import declare_frames, fly_positions

tell = print  # the client replaces it by what reaches the test
_made: dict[tuple, Microscope] = {}


def microscope(prefix: str, directory: str) -> Microscope:
    if prefix not in _made:
        _made[prefix] = Microscope(prefix, name="microscope")
        _made[prefix].wait_for_connection(timeout=10)
    _made[prefix].detector.files.directory = directory
    return _made[prefix]


def layer() -> str:
    return ophyd.cl.name


def plan(scope, lists, tail=None, **kwargs):
    """A run that flies each of `lists`, and `tail` after that."""

    @bpp.stage_decorator([scope])
    @bpp.run_decorator(md={"plan_name": "test"})
    def inner():
        yield from declare_frames(scope)
        for positions in lists:
            yield from fly_positions(scope, positions, **kwargs)
        if tail is not None:
            yield from tail()

    return inner()


def run(prefix, directory, lists, exposure=1e-3, settle=1e-3, **kwargs):
    """Fly `lists` in one run; the documents, and what it raised."""
    scope = microscope(prefix, directory)
    scope.detector.cam.acquire_time.set(exposure).wait()
    scope.coils.settle_time.set(settle).wait()
    documents: list = []
    engine = RunEngine()
    engine.subscribe(lambda name, document: documents.append((name, document)))
    error = ""
    try:
        engine(plan(scope, lists, **kwargs))
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
        if raised.__cause__ is not None:
            error += f" <- {type(raised.__cause__).__name__}: {raised.__cause__}"
    return documents, error, time.time()


def budget(prefix, directory, positions, max_dose):
    """A flight with a dose budget [electrons per pattern]."""
    return run(prefix, directory, [positions], max_dose=max_dose)


@contextlib.contextmanager
def frames_told(scope):
    """Tell the test the number of frames in the file as they come."""
    started = False

    def told(value, **_):
        nonlocal started
        started = started or value == 0  # what the file before had is no news
        if started:
            tell(("frames", int(value)))

    signal = scope.detector.hdf.num_captured
    number = signal.subscribe(told, run=False)
    try:
        yield
    finally:
        signal.unsubscribe(number)


def run_telling(prefix, directory, lists, exposure, settle):
    """As `run`, telling the number of frames in the file as they come."""
    with frames_told(microscope(prefix, directory)):
        return run(prefix, directory, lists, exposure, settle)


def run_again(prefix, directory, lists):
    """A run with devices that were connected before."""
    scope = _made[prefix]
    scope.detector.files.directory = directory
    documents: list = []
    engine = RunEngine()
    engine.subscribe(lambda name, document: documents.append((name, document)))
    try:
        engine(plan(scope, lists))
    except Exception as error:
        return documents, f"{type(error).__name__}: {error}", time.time()
    return documents, "", time.time()


def run_impatient(prefix, directory, lists, exposure, settle, stall):
    """As `run_telling`, with `stall` [s] for the longest silence."""
    from bluesky_edgestem.devices import detector, flight

    flight.STALL_TIMEOUT = stall
    detector.READ_OUT_TIMEOUT = 0.5  # nothing will come: the test need not wait for it
    return run_telling(prefix, directory, lists, exposure, settle)


def loop_waiting(prefix, directory, positions):
    """A closed loop whose energies never come, telling when it waits for the first; and when it ended [s]."""

    def submit(formula, strain):
        tell("waits")
        return Future()

    def predict(frames, optics):
        n = len(frames)
        phase = np.tile([1.0, 0.0], (n, 1))
        return FeatureDescriptors(
            np.zeros((n, 3)), np.tile(1e-8 * np.eye(3), (n, 1, 1)), np.zeros(n), np.full(n, 1e-3), ("MoS2", "WS2"),
            phase, np.full(n, ""),
        )  # fmt: skip

    documents: list = []
    engine = RunEngine()
    engine.subscribe(lambda name, document: documents.append((name, document)))
    try:
        engine(
            adaptive_map(
                microscope(prefix, directory),
                [-20.0, -20.0, 40.0, 40.0],
                1e-3,
                initial=positions,
                descriptors=SimpleNamespace(predict=predict, check_optics=lambda optics: None),
                energies=SimpleNamespace(submit=submit, method_name="none"),
            )
        )
    except Exception as error:
        return documents, f"{type(error).__name__}: {error}", time.time()
    return documents, "", time.time()


def stop_unaware(prefix, directory):
    """Stop a microscope whose IOC was lost before ophyd's callbacks tell of it; the time [s] it took, and the log.

    The IOC is to be killed once this tells that it is ready.
    """
    scope = microscope(prefix, directory)
    told = threading.Event()
    ophyd.cl.get_dispatcher().get_thread_context("metadata").run(told.wait)  # whatever follows has to queue
    errors: list = []
    handler = logging.Handler()
    handler.emit = lambda record: errors.append(record.getMessage())
    logging.getLogger("bluesky_edgestem").addHandler(handler)
    tell("ready")
    while not all(signal.missing for signal in signals_of(scope)):
        time.sleep(0.01)
    assert scope.beam.blank.connected, "ophyd knows already: this shows nothing"
    began = time.monotonic()
    scope.stop()
    took = time.monotonic() - began
    told.set()
    return took, errors


def end_unaware(prefix, directory, looked):
    """End an acquisition of an IOC that was lost after `looked`, ophyd or also its layer, saw it connected.

    The IOC is to be killed once this tells that it is ready. The time [s] it took, and the error.
    """
    acquire = microscope(prefix, directory).detector.cam.acquire
    tell("ready")
    while acquire.connected:
        time.sleep(0.01)
    acquire._ensure_connected = lambda *_, **__: None
    looks = iter([True])
    type(acquire).answers = property(lambda _: next(looks, False))
    type(acquire).write_access = True
    if looked == "layer":
        acquire._write_pv.wait_for_connection = lambda timeout=None: True
    began = time.monotonic()
    try:
        acquire.end()
    except Exception as error:
        return time.monotonic() - began, f"{type(error).__name__}: {error}"
    return time.monotonic() - began, ""


class UnmonitoredCoils(ScanCoils):
    """Scan coils whose counter is told by no monitor, as if each came too late."""

    index = Cpt(ReadSignal, "Index_RBV", kind="omitted", auto_monitor=False)


class UnmonitoredMicroscope(Microscope):
    """A microscope with such coils."""

    coils = Cpt(UnmonitoredCoils, "Scan:")


def run_hasty(prefix, directory, lists, exposure, settle):
    """As `run_telling`, with coils that are asked at once for what they have done, and tell it by no monitor."""
    from bluesky_edgestem.devices import flight

    flight.ENDED_GRACE = 0.0
    _made[prefix] = UnmonitoredMicroscope(prefix, name="microscope")
    _made[prefix].wait_for_connection(timeout=30)
    return run_telling(prefix, directory, lists, exposure, settle)


def step(prefix, directory, count, scan):
    """Bluesky's own count and scan with the microscope as the detector."""
    scope = microscope(prefix, directory)
    documents: list = []
    engine = RunEngine()
    engine.subscribe(lambda name, document: documents.append((name, document)))
    engine(bp.count([scope], count))
    engine(bp.scan([scope], scope.coils.x, *scan))
    return documents


def fly_blanked(prefix, directory, positions):
    """Fly the coils and the detector without the microscope, so that nothing unblanks."""
    scope = microscope(prefix, directory)
    detector = scope.detector
    detector.stage().wait(5)
    detector.prepare(len(positions)).wait(5)
    scope.coils.load(np.asarray(positions)).wait(5)
    detector.kickoff().wait(5)
    scope.coils.start(lambda: None)
    detector.complete().wait(5)
    detector.unstage().wait(5)
    return scope.beam.blanked


def attempt(prefix, directory, what, *args):
    """The error of one of the microscope's methods, or "" """
    return attempt_on(microscope(prefix, directory), what, *args)


def attempt_on(scope, what, *args):
    for name in what.split(".")[:-1]:
        scope = getattr(scope, name)
    try:
        outcome = getattr(scope, what.split(".")[-1])(*args)
        if hasattr(outcome, "wait"):
            outcome.wait(10)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def dose(prefix, directory, exposure, settle):
    scope = microscope(prefix, directory)
    scope.detector.cam.acquire_time.set(exposure).wait()
    scope.coils.settle_time.set(settle).wait()
    return scope.dose_per_pattern, scope.exposure_for(1e5), scope.optics


def connect(prefix, beam, timeout):
    """The error of a microscope whose blanker has PVs of its own, and the time [s] it took."""

    class Other(Microscope):
        beam = Cpt(BeamBlanker, "", add_prefix=())

    Other.beam.suffix = beam
    started = time.monotonic()
    return attempt_on(Other(prefix, name="microscope"), "wait_for_connection", False, timeout), (
        time.monotonic() - started
    )


def read_early(prefix, late):
    """What a text reads while ophyd asks for its time and alarm, as it connects; its monitor comes `late` [s]."""
    import epics
    from ophyd._pyepics_shim import PyepicsShimPV

    subscribe = PyepicsShimPV._check_auto_monitor
    connected = threading.Event()

    def ask(pv):
        epics.ca.use_initial_context()
        until = time.monotonic() + late
        while time.monotonic() < until:
            pv.get_timevars()
            connected.set()
        subscribe(pv)

    PyepicsShimPV._check_auto_monitor = lambda pv: threading.Thread(target=ask, args=(pv,), daemon=True).start()
    try:
        text = ReadSignal(f"{prefix}cam1:Model_RBV", string=True, name="text")
        connected.wait(10)
        return [text.get() for _ in range(20)]
    finally:
        PyepicsShimPV._check_auto_monitor = subscribe


def read_unmonitored(prefix, texts):
    """What a text reads that was set to each of `texts`, without the monitor of any but the first."""
    text = SetSignal(f"{prefix}HDF1:FileName", string=True, name="text")
    text.wait_for_connection(timeout=10)
    text.set(texts[0]).wait(10)
    text._read_pv.clear_auto_monitor()
    read = []
    for written in texts[1:]:
        text.put(written, wait=True)
        read.append(text.get(use_monitor=False))
    return read


def paused(prefix, directory, positions, then, exposure=2e-3, settle=2e-3):
    """Start a run, wait for the test's Ctrl-C, tell it, then resume or abort, or stay paused."""
    scope = microscope(prefix, directory)
    scope.detector.cam.acquire_time.set(exposure).wait()
    scope.coils.settle_time.set(settle).wait()
    documents: list = []
    engine = RunEngine()
    engine.subscribe(lambda name, document: documents.append((name, document)))
    try:
        with frames_told(scope):
            engine(plan(scope, [positions]))
    except RunEngineInterrupted:
        tell(("paused", scope.coils.state.get(use_monitor=False)))
        if then == "stay":
            time.sleep(60)
        getattr(engine, then)()
    return documents


def paused_while_arming(prefix, directory, positions, then, armed):
    """Pause a run when the detector is told to arm, then abort or resume it.

    The detector arms while the run is paused, or afterwards, as `armed` says. Returned: the documents; the blanker,
    the frames in the file, the detector and whether the beam was ever on, at the end of the pause and at the end of
    all; and whether the detector has armed.
    """
    scope = microscope(prefix, directory)
    scope.detector.cam.acquire_time.set(2e-3).wait()
    arm = scope.detector.arming.arm
    engine = RunEngine()
    may_arm, told_to, has_armed = NamedStatus("the test lets the detector arm"), threading.Event(), threading.Event()
    documents: list = []
    lit: list = []

    def arm_late():
        told_to.set()
        whole = in_order("arm late", lambda: may_arm, arm)
        whole.add_callback(lambda _: has_armed.set())
        return whole

    def interrupt():
        told_to.wait()
        engine.request_pause()

    def note(value, **_):
        if value == "Unblanked":
            lit.append(engine.state)

    def what_is():
        signals = scope.beam.blank, scope.detector.hdf.num_captured, scope.detector.cam.armed
        return tuple(signal.get(use_monitor=False) for signal in signals)

    engine.subscribe(lambda name, document: documents.append((name, document)))
    if (then, armed) == ("resume", "afterwards"):
        engine.state_hook = lambda new, old: may_arm.finish() if (new, old) == ("running", "paused") else None
    threading.Thread(target=interrupt, daemon=True).start()
    number = scope.beam.blank.subscribe(note, run=False)
    scope.detector.arming.arm = arm_late
    try:
        try:
            engine(plan(scope, [positions]))
        except RunEngineInterrupted:
            if armed == "while paused":
                may_arm.finish()
                has_armed.wait(10)
                time.sleep(0.5)  # for what must not happen
            in_pause = (*what_is(), bool(lit))
            getattr(engine, then)()
        may_arm.finish()
        has_armed.wait(10)
        time.sleep(0.5)
        return documents, in_pause, (*what_is(), bool(lit)), has_armed.is_set()
    finally:
        scope.detector.arming.arm = arm
        scope.beam.blank.unsubscribe(number)


def never_completed(prefix, directory, positions):
    """The blanker after a flight that nobody completed, then after a pause and after its end; frames in the file."""
    scope = microscope(prefix, directory)
    scope.stage().wait(10)
    scope.prepare(positions).wait(10)
    scope.kickoff().wait(10)
    deadline = time.monotonic() + 20
    states = []
    while (scope.flying or not scope.beam.blanked) and time.monotonic() < deadline:
        time.sleep(0.01)
    states.append(scope.beam.blank.get(use_monitor=False))
    scope.pause()
    scope.resume()
    states.append(scope.beam.blank.get(use_monitor=False))
    scope.complete().wait(10)
    states.append(scope.beam.blank.get(use_monitor=False))
    taken = scope.get_index()
    scope.unstage().wait(10)
    return states, taken


def failing(prefix, directory, positions):
    """A plan that raises with a flight under way."""
    scope = microscope(prefix, directory)

    def early():
        yield from bps.prepare(scope, positions, wait=True)
        yield from bps.kickoff(scope, wait=True)
        yield from bps.sleep(0.1)
        raise RuntimeError("the plan's own error")

    return run_with_tail(scope, early)


def run_with_tail(scope, tail):
    documents: list = []
    engine = RunEngine()
    engine.subscribe(lambda name, document: documents.append((name, document)))
    try:
        engine(plan(scope, [], tail))
    except Exception as error:
        return documents, f"{type(error).__name__}: {error}"
    return documents, ""


def path_of(documents) -> Path:
    return Path(next(d["uri"] for n, d in documents if n == "stream_resource").removeprefix("file://localhost"))
