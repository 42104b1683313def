"""Scans with live imaging that a client of the microscope runs; each function runs in a process of its own."""

from __future__ import annotations

import threading
import time

import h5py
import hdf5plugin  # noqa: F401  registers the bitshuffle-lz4 filter
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted

from bluesky_edgestem.analysis.sparse_masks import Annulus
from bluesky_edgestem.callbacks.imaging import Imaging
from bluesky_edgestem.devices.microscope import Microscope
from bluesky_edgestem.plans.survey import raster_map, sobol_map

FIELD = [-20.0, -10.0, 40.0, 30.0]
MASKS = {"disk": Annulus(0.0, 3.0), "ring": Annulus(3.0, 9.0)}
_made: dict[str, Microscope] = {}


def microscope(prefix: str, directory: str) -> Microscope:
    if prefix not in _made:
        _made[prefix] = Microscope(prefix, name="microscope", directory=directory)
        _made[prefix].wait_for_connection(timeout=10)
        _made[prefix].beam.current.set(100.0).wait()
    return _made[prefix]


def run(plan, imaging, png=None, abort_after=None):
    """Documents, the frames as they are in the file, the images, and when they grew."""
    documents: list = []
    grown: list = []
    engine = RunEngine({})
    engine.subscribe(lambda name, doc: documents.append((name, doc)))

    def watch(name, doc):
        if name == "stream_datum":
            grown.append((doc["indices"]["stop"], imaging.images().frames))
        if name == "event_page" and abort_after is not None and imaging.images().frames >= abort_after:
            threading.Thread(target=engine.request_pause).start()

    engine.subscribe(watch)
    error = ""
    try:
        engine(plan)
    except RunEngineInterrupted:
        engine.abort("test")
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    if png:
        imaging.write_png(png)
    resources = [doc for name, doc in documents if name == "stream_resource" and doc["data_key"] == "detector"]
    path = resources[0]["uri"].removeprefix("file://localhost")
    for _ in range(100):  # the IOC closes it
        try:
            with h5py.File(path, "r") as file:
                frames = file["/entry/data/data"][:]
            break
        except OSError:
            time.sleep(0.05)
    return documents, error, frames, imaging.images(), grown


def raster(prefix, directory, nx, ny, png=None, abort_after=None):
    imaging = Imaging(MASKS, threads=2)
    scan = microscope(prefix, directory)
    return run(raster_map(scan, FIELD, nx, ny, dwell_time=5e-4, imaging=imaging), imaging, png, abort_after)


def sobol(prefix, directory, count):
    imaging = Imaging()
    return run(sobol_map(microscope(prefix, directory), FIELD, count, dwell_time=5e-4, imaging=imaging), imaging)
