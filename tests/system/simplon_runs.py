"""Maps by a microscope whose detector has no IOC; each function runs in a process of its own."""

from __future__ import annotations

import time

from bluesky import RunEngine

from bluesky_edgestem.devices.simplon.microscope import SimplonMicroscope
from bluesky_edgestem.plans.survey import raster_map

tell = print  # the client replaces it by what reaches the test
FIELD = [-20.0, -10.0, 40.0, 30.0]


def raster(prefix, host, stream, directory, nx, ny, dwell_time=5e-4, max_missing=0.01):
    """Documents of a map, what it raised, when it ended, and whether the beam is blanked."""
    scope = SimplonMicroscope(prefix, host=host, stream=stream, directory=directory)
    scope.detector.max_missing = max_missing
    scope.wait_for_connection(timeout=10)
    documents: list = []
    engine = RunEngine({})

    def keep(name, document):
        documents.append((name, document))
        if name == "stream_datum":
            tell(document["indices"]["stop"])

    engine.subscribe(keep)
    error = ""
    try:
        engine(raster_map(scope, FIELD, nx, ny, dwell_time=dwell_time, max_dose=1e12))
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    ended = time.time()
    time.sleep(0.3)
    return documents, error, ended, scope.beam.blanked
