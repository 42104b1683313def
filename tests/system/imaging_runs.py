"""Scans with live imaging that a client of the microscope runs; each function runs in a process of its own."""

from __future__ import annotations

import threading
import time

import h5py
import hdf5plugin  # noqa: F401  registers the bitshuffle-lz4 filter
from runs import microscope, run

from bluesky_edgestem.analysis.sparse_masks import Annulus
from bluesky_edgestem.callbacks.imaging import Imaging
from bluesky_edgestem.plans.survey import raster_map, sobol_map

FIELD = [-20.0, -10.0, 40.0, 30.0]
MASKS = {"disk": Annulus(0.0, 3.0), "ring": Annulus(3.0, 9.0)}


def imaged(plan, imaging, png=None, abort_after=None):
    """Documents, what was raised, the frames as they are in the file, the images, and when they grew."""
    grown: list = []

    def watch(engine, name, doc):
        if name == "stream_datum":
            grown.append((doc["indices"]["stop"], imaging.images().frames))
        if name == "event_page" and abort_after is not None and imaging.images().frames >= abort_after:
            threading.Thread(target=engine.request_pause).start()

    documents, error = run(plan, watch)
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
    return imaged(raster_map(scan, FIELD, nx, ny, dwell_time=5e-4, imaging=imaging), imaging, png, abort_after)


def sobol(prefix, directory, count):
    imaging = Imaging()
    return imaged(sobol_map(microscope(prefix, directory), FIELD, count, dwell_time=5e-4, imaging=imaging), imaging)
