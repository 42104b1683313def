"""Maps whose patterns an inference board reads; each function runs in a process of its own."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

from runs import microscope, run

from bluesky_edgestem.analysis.descriptor import FeatureDescriptors
from bluesky_edgestem.analysis.networks import DescriptorNetwork
from bluesky_edgestem.devices.simplon.microscope import SimplonMicroscope
from bluesky_edgestem.energetics.emulator import Emulator
from bluesky_edgestem.plans.adaptive import adaptive_map
from bluesky_edgestem.plans.survey import raster_map

FIELD = [-20.0, -10.0, 40.0, 30.0]


class Marked:
    """A network that says strain 0.5 of whatever it reads: what the fallback has read is seen."""

    def __init__(self):
        self.network = DescriptorNetwork.pretrained()

    def predict(self, frames, optics):
        found = self.network.predict(frames, optics)
        return FeatureDescriptors(
            0 * found.strain + 0.5, found.covariance, found.rotation, found.rotation_sd, found.phases,
            found.phase_probability, found.flagged,
        )  # fmt: skip

    def check_optics(self, optics):
        self.network.check_optics(optics)


def told(scope, plan, watch=None):
    """Documents, what was raised, whether the beam is blanked, and the frames that the detector has counted."""
    documents, error = run(plan, watch)
    time.sleep(0.3)
    return documents, error, scope.beam.blanked, scope.detector.get_index()


def raster(prefix, directory, nx, ny, board_pid=0, kill_at=None, signal_sent=signal.SIGKILL, load=None, dwell=1e-2):
    """A raster read by the board, which gets a signal at `kill_at` frames in the file, once it has told of them.

    It may go on some time after the fallback has taken over.
    """
    scope = microscope(prefix, directory)
    scope.beam.current.set(10.0).wait()
    scope.board.fallback = Marked()
    scope.board.wait_for_connection(timeout=5)
    if load is not None:
        scope.board.load(load)
    sent: list[int] = []

    class Wake(logging.Handler):
        def emit(self, record):
            if signal_sent == signal.SIGSTOP and "fallback reads on" in record.getMessage():
                threading.Timer(1.0, os.kill, (board_pid, signal.SIGCONT)).start()

    logging.getLogger("bluesky_edgestem.devices.board").addHandler(Wake())

    def watch(engine, name, doc):
        if name == "stream_datum" and kill_at is not None and doc["indices"]["stop"] >= kill_at and not sent:
            scope.board.results(range(kill_at))  # on a busy machine its monitor comes after the file's
            os.kill(board_pid, signal_sent)
            sent.append(signal_sent)

    return told(
        scope, raster_map(scope, FIELD, nx, ny, dwell_time=dwell, descriptors=scope.board, max_dose=1e12), watch
    )


def simplon_raster(prefix, host, stream, directory, nx, ny):
    """A raster whose frames a DECTRIS detector streams, to the edge computer and to the board."""
    scope = SimplonMicroscope(prefix, host=host, stream=stream, directory=directory)
    scope.wait_for_connection(timeout=10)
    scope.detector.max_missing = 0.1
    scope.board.fallback = Marked()
    scope.board.wait_for_connection(timeout=5)
    return told(scope, raster_map(scope, FIELD, nx, ny, dwell_time=5e-4, descriptors=scope.board, max_dose=1e12))


def ruled(prefix, directory, rules, stop_after=None):
    """A raster for each of `rules`, None for none, aborted after so many frames; and when frames and beam ended [s]."""
    scope = microscope(prefix, directory)
    scope.queue.wait_time.set(3.0).wait()  # however late the board is on a slow machine
    made = []
    for rule in rules:
        plan = raster_map(scope, FIELD, 6, 5, dwell_time=1e-3, descriptors=scope.board, max_dose=1e12, rule=rule)

        def watch(engine, name, doc):
            if name == "stream_datum" and stop_after is not None and doc["indices"]["stop"] >= stop_after:
                threading.Thread(target=engine.request_pause).start()

        made.append(told(scope, plan, watch))
    return made


def loop(prefix, directory, board_pid=0, stop_at=None):
    """A closed loop on the board's descriptors, and what is told of it; the board is stopped after so many frames."""
    scope = microscope(prefix, directory)
    scope.board.fallback = Marked()
    scope.board.wait_for_connection(timeout=5)
    messages, stopped = [], []

    class Note(logging.Handler):
        def emit(self, record):
            messages.append(record.getMessage())

    logging.getLogger("bluesky_edgestem.devices").addHandler(Note())

    def watch(engine, name, doc):
        if name == "stream_datum" and stop_at is not None and doc["indices"]["stop"] >= stop_at and not stopped:
            scope.board.results(range(stop_at))  # on a busy machine its monitor comes after the file's
            os.kill(board_pid, signal.SIGSTOP)
            stopped.append(True)

    plan = adaptive_map(
        scope, FIELD, 1e-5, dwell_time=1.6e-3, descriptors=scope.board, energies=Emulator(), initial=16, batch=8,
        max_positions=32, max_dose=1e12,
    )  # fmt: skip
    found = told(scope, plan, watch)
    if stopped:
        os.kill(board_pid, signal.SIGCONT)
    return *found, messages


def load(prefix, directory, folder):
    """Have the board load a build: what is raised, and the hash that the board then says."""
    board = microscope(prefix, directory).board
    board.wait_for_connection(timeout=5)
    error = ""
    try:
        board.load(folder)
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    return error, board.model_hash.get(use_monitor=False)


def load_by_pv(prefix, directory, folder):
    """The same, as any other client would."""
    board = microscope(prefix, directory).board
    board.wait_for_connection(timeout=5)
    error = ""
    try:
        board.model.set(folder).wait(10)
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    return error, board.model_hash.get(use_monitor=False)
