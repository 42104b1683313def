"""Scans with strain, and calibrations; each function runs in a process of its own."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from bluesky import RunEngine
from runs import run

from bluesky_edgestem.analysis.affine_readings import AffineReadings
from bluesky_edgestem.callbacks import Imaging, StrainMap
from bluesky_edgestem.devices.simplon.microscope import SimplonMicroscope
from bluesky_edgestem.plans.calibration import calibrate_rotation
from bluesky_edgestem.plans.survey import raster_map

FIELD = [-15.0, -10.0, 31.0, 23.0]


class Reader:
    """Reads a dilatation that is in the first pixel of a frame [10^-4]."""

    base_vectors = np.array([[10.0, 0.0], [0.0, 10.0]])
    caution = ""

    def read(self, frames):
        n = len(frames)
        transform = np.eye(2) / (1 + 1e-4 * frames[:, 0, 0].astype(float))[:, None, None]
        flagged = np.where(frames[:, 0, 0] == 0, "no electrons: the frame is empty", "").astype(object)
        some = np.full((n, 2), 15.5)
        return AffineReadings(transform, np.repeat(1e-8 * np.eye(4)[None], n, 0), some, some, some[:, 0], flagged)


def connected(prefix, host, stream, directory):
    scope = SimplonMicroscope(prefix, host=host, stream=stream, directory=directory)
    scope.wait_for_connection(timeout=10)
    scope.detector.max_missing = 0.1
    return scope


def strained(prefix, host, stream, directory, nx, ny):
    """Documents of a raster with strain and images, and what it raised."""
    scope = connected(prefix, host, stream, directory)
    strain = StrainMap(Reader(), reference=FIELD)
    return run(
        raster_map(
            scope, FIELD, nx, ny, dwell_time=5e-4, max_dose=1e12, strain=strain, imaging=Imaging(), md={"sample": "Si"}
        )
    )


def calibrated(prefix, host, stream, directory, nx, ny):
    """Documents of a calibration, what it raised, and what it gave."""
    scope = connected(prefix, host, stream, directory)
    documents: list = []
    engine = RunEngine({}, call_returns_result=True)
    engine.subscribe(lambda name, doc: documents.append((name, doc)))
    try:
        result = engine(calibrate_rotation(scope, FIELD, nx, ny, dwell_time=5e-4, max_dose=1e12))
    except Exception as error:
        return documents, f"{type(error).__name__}: {error}", None
    return documents, "", asdict(result.plan_result)
