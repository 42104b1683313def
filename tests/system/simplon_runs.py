"""Maps by a microscope whose detector has no IOC; each function runs in a process of its own."""

from __future__ import annotations

import time

import numpy as np
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
