"""Frame sources: counts, dark frames, noise of their own."""

from __future__ import annotations

import numpy as np
import pytest

from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.geometry import FieldOfView
from bluesky_edgestem.sim.column import Column
from bluesky_edgestem.sim.frames import Disks, Renderer, make_source

OPTICS = Optics(n_pixels=64)
FIELD = FieldOfView.centred(100.0)


def test_disks_hold_the_dose_and_differ_by_position():
    source = Disks()
    here = source.frame(np.array([0.0, 0.0]), 1e6, OPTICS, np.random.default_rng(0)).astype(float)
    again = source.frame(np.array([0.0, 0.0]), 1e6, OPTICS, np.random.default_rng(1)).astype(float)
    there = source.frame(np.array([40.0, 0.0]), 1e6, OPTICS, np.random.default_rng(0)).astype(float)
    assert here.shape == (64, 64)
    assert here.sum() == pytest.approx(1e6, abs=5e3)
    noise = ((here - again) ** 2).sum() / (here + again).sum()
    assert noise == pytest.approx(1.0, abs=0.15), "Poisson: the variance of a difference is the sum of the means"
    assert ((here - there) ** 2).sum() / (here + there).sum() > 10


def test_an_unknown_source_names_those_there_are():
    with pytest.raises(ValueError, match="no frame source is called 'spots'; there are specimen, disks"):
        make_source("spots", 0, FIELD)


def test_the_renderer_repeats_a_frame_by_its_number_and_seed():
    renderer = Renderer("disks", 3, FIELD)
    try:
        a, b, c = (renderer.submit((1.0, 2.0), 1e4, OPTICS, n).result(10) for n in (5, 5, 6))
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()
    finally:
        renderer.close()


def test_without_electrons_nothing_is_computed():
    renderer = Renderer("disks", 0, FIELD)
    renderer.close()
    dark = renderer.submit((0.0, 0.0), 0.0, OPTICS, 0)
    assert dark.done() and dark.result().max() == 0 and dark.result().shape == (64, 64)


def test_renderers_need_a_worker():
    with pytest.raises(ValueError, match="at least 1 worker, got 0"):
        Renderer("disks", 0, FIELD, workers=0)


def test_electrons_are_current_times_time_and_none_while_blanked():
    column = Column(current=16.02176634, blanked=False)
    assert column.electrons(1e-3) == pytest.approx(1e5)
    column.blanked = True
    assert column.electrons(1e-3) == 0


def test_multislice_frames_come_from_a_worker_process():
    renderer = Renderer("specimen", 0, FIELD, workers=1)
    try:
        frame = renderer.submit((0.0, 0.0), 1e5, OPTICS, 0).result(100)
        assert frame.shape == (64, 64) and frame.dtype == np.uint16
        assert frame.sum() == pytest.approx(1e5, rel=0.05)
    finally:
        renderer.close()
