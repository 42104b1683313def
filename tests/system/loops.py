"""Closed loops that a client of the simulated microscope runs; each function runs in a process of its own."""

from __future__ import annotations

import threading

from runs import microscope, run

from bluesky_edgestem.analysis.networks import DescriptorNetwork
from bluesky_edgestem.energetics.emulator import Emulator
from bluesky_edgestem.plans.adaptive import adaptive_map
from bluesky_edgestem.plans.survey import raster_map, sobol_map

FIELD = [-50.0, -50.0, 100.0, 100.0]


def stop_at(batch):
    """A pause, and so an abort, with the map of `batch`."""

    def watch(engine, name, doc):
        if name == "event_page" and "max_sd" in doc["data"] and doc["data"]["batch"][-1] == batch:
            threading.Thread(target=engine.request_pause).start()

    return watch


def loop(prefix, directory, target=0.004, interrupt_at_batch=None, earlier=(), field=FIELD, **settings):
    plan = adaptive_map(
        microscope(prefix, directory),
        field,
        target,
        dwell_time=1.6e-3,
        descriptors=DescriptorNetwork.pretrained(),
        energies=Emulator(),
        resume_from=earlier,
        **{"initial": 32, "batch": 16, **settings},
    )
    return run(plan, stop_at(interrupt_at_batch))


def budget(prefix, directory, earlier=()):
    """A target out of reach, and 40 positions."""
    return loop(prefix, directory, 1e-5, earlier=earlier, max_positions=40)


def too_large(prefix, directory):
    """A field beyond the coils' range."""
    return loop(prefix, directory, field=[-500.0, -50.0, 1000.0, 100.0])


def raster(prefix, directory, nx, ny):
    network = DescriptorNetwork.pretrained()
    return run(raster_map(microscope(prefix, directory), FIELD, nx, ny, dwell_time=1.6e-3, descriptors=network))


def sobol(prefix, directory, count, seed):
    return run(sobol_map(microscope(prefix, directory), FIELD, count, seed=seed, dwell_time=1.6e-3))
