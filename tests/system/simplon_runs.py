"""Maps by a microscope whose detector has no IOC; each function runs in a process of its own."""

from __future__ import annotations

import json
import threading
import time
import urllib.request

import numpy as np
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted
from runs import run

from bluesky_edgestem.analysis.descriptor import FeatureDescriptors
from bluesky_edgestem.devices.simplon.microscope import SimplonMicroscope
from bluesky_edgestem.energetics.emulator import Emulator
from bluesky_edgestem.plans.adaptive import adaptive_map
from bluesky_edgestem.plans.survey import raster_map

tell = print  # the client replaces it by what reaches the test
FIELD = [-20.0, -10.0, 40.0, 30.0]


def connected(prefix, host, stream, directory):
    scope = SimplonMicroscope(prefix, host=host, stream=stream, directory=directory)
    scope.wait_for_connection(timeout=10)
    return scope


def raster(prefix, host, stream, directory, nx, ny, dwell_time=5e-4, max_missing=0.01):
    """Documents of a map, what it raised, when it ended, and whether the beam is blanked."""
    scope = connected(prefix, host, stream, directory)
    scope.detector.max_missing = max_missing

    def watch(engine, name, doc):
        if name == "stream_datum":
            tell(doc["indices"]["stop"])

    documents, error = run(raster_map(scope, FIELD, nx, ny, dwell_time=dwell_time, max_dose=1e12), watch)
    ended = time.time()
    time.sleep(0.3)
    return documents, error, ended, scope.beam.blanked


def paused_while_arming(prefix, host, stream, directory, nx, ny, then, armed):
    """Pause a map when the detector is told to arm, then abort or resume it; the beam brings the triggers.

    The detector arms while the run is paused, or afterwards, as `armed` says. Returned: the documents, and the blanker,
    the detector and whether the beam was ever on, at the end of the pause and at the end of all.
    """
    scope = connected(prefix, host, stream, directory)
    command = scope.detector.rest.command
    engine = RunEngine({})
    may_arm, told_to, has_armed = threading.Event(), threading.Event(), threading.Event()
    documents: list = []
    lit: list = []

    def arm_late(name, *args):
        if name != "arm":
            return command(name, *args)
        told_to.set()
        may_arm.wait(30)
        answer = command(name, *args)
        has_armed.set()
        return answer

    def interrupt():
        told_to.wait()
        engine.request_pause()

    def go_on(new, old):
        if old == "paused":  # to be aborted, or to run
            threading.Timer(0.5, may_arm.set).start()

    def note(value, **_):
        if value == "Unblanked":
            lit.append(engine.state)
            threading.Thread(target=pulse, daemon=True).start()

    def pulse():
        body = json.dumps({"value": nx * ny}).encode()
        request = urllib.request.Request(f"http://{host}/simulator/pulse", body, method="PUT")
        urllib.request.urlopen(request, timeout=10).close()

    def what_is():
        blanker = scope.beam.blank.get(use_monitor=False)
        return blanker, scope.detector.rest.value("detector/status/state"), bool(lit)

    engine.subscribe(lambda name, document: documents.append((name, document)))
    engine.state_hook = go_on
    threading.Thread(target=interrupt, daemon=True).start()
    number = scope.beam.blank.subscribe(note, run=False)
    scope.detector.rest.command = arm_late
    try:
        try:
            engine(raster_map(scope, FIELD, nx, ny, dwell_time=5e-4, max_dose=1e12))
        except RunEngineInterrupted:
            if armed == "while paused":
                may_arm.set()
                has_armed.wait(10)
                time.sleep(0.5)  # for what must not happen
            in_pause = what_is()
            getattr(engine, then)()
        has_armed.wait(10)
        time.sleep(0.5)
        return documents, in_pause, what_is()
    finally:
        scope.beam.blank.unsubscribe(number)


class Brightness:
    """Descriptors that say which frame they are of: its sum [10^-6] as the strain along x."""

    def check_optics(self, optics):
        """It reads all."""

    def predict(self, frames, optics):
        n = len(frames)
        strain = np.zeros((n, 3))
        strain[:, 0] = frames.sum((1, 2)) * 1e-6
        return FeatureDescriptors(
            strain=strain,
            covariance=np.tile(np.eye(3) * 1e-6, (n, 1, 1)),
            rotation=np.zeros(n),
            rotation_sd=np.full(n, 0.01),
            phases=("MoS2", "WS2"),
            phase_probability=np.tile([0.9, 0.1], (n, 1)),
            flagged=np.full(n, ""),
        )


def loop(prefix, host, stream, directory, settings):
    """Documents of a closed loop, and what it raised."""
    plan = adaptive_map(
        connected(prefix, host, stream, directory),
        FIELD,
        dwell_time=5e-4,
        descriptors=Brightness(),
        energies=Emulator(),
        **settings,
    )
    return run(plan)
