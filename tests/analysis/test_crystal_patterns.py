"""Patterns drawn in batches for training are those that are drawn one by one for files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from bluesky_edgestem.analysis import disk_tables, pattern_draws
from bluesky_edgestem.analysis.crystal_patterns import N_PIXELS, conditions
from bluesky_edgestem.analysis.diffuse_scattering import diffuse_pattern
from bluesky_edgestem.analysis.disk_rendering import DeviceTable
from bluesky_edgestem.analysis.optics import Optics

TO_MRAD = 1e3 * Optics(200.0).wavelength


@pytest.fixture(scope="module")
def table():
    return disk_tables.compute("Si", 200.0, [24, 110, 210], 8.9, step_mrad=1.6, g_max=1.0)


def as_drawn(under, i: int) -> pattern_draws.Drawn:
    """The i-th of the conditions, as they are kept in files."""

    def floats(tensor: torch.Tensor) -> tuple[float, ...]:
        return tuple(tensor[i].double().flatten().tolist())

    return pattern_draws.Drawn(
        semiangle_mrad=float(under.cutoff[i]) * TO_MRAD,
        pixel_mrad=float(under.pixel[i]) * TO_MRAD,
        psf_px=float(under.psf_px[i]),
        background=float(under.background[i]),
        strain=floats(under.strain),
        rotation=float(under.rotation[i]),
        layers=float(under.layers[i]),
        mistilt_mrad=tuple(value * TO_MRAD for value in floats(under.tilt)),
        shift_px=floats(under.shift_px),
        distortion=floats(under.distortion),
        dose=1.0,
    )


def test_the_same_conditions_give_the_same_pattern_but_for_what_is_diffuse(table):
    under = conditions(DeviceTable.of(table), 8, np.random.default_rng(4))
    # One by one the background is as wide as a quarter of the frame; in batches its width is drawn, too.
    under = replace(under, width=torch.full_like(under.width, N_PIXELS / 4))
    batch = under.expected(DeviceTable.of(table)).numpy()
    for i, seen in enumerate(batch):
        drawn = as_drawn(under, i)
        alone = pattern_draws.expected(table, drawn, N_PIXELS)
        diffuse = diffuse_pattern(table, drawn.optics(200.0, N_PIXELS), drawn.layers, drawn.shift_px).sum()
        diffuse *= 1 - drawn.background
        # Of the electrons: where they are otherwise, and how many are missing. Single precision, and what only a
        # surface shows, leave 2e-3.
        assert np.abs(alone - seen).sum() < diffuse + 2e-3
        assert alone.sum() - seen.sum() == pytest.approx(diffuse, abs=2e-3)


def test_they_draw_from_the_same_microscopes(table):
    rng = np.random.default_rng(5)
    under = conditions(DeviceTable.of(table), 2000, rng)
    alone = [pattern_draws.draw(table, N_PIXELS, rng) for _ in range(2000)]

    def ellipticity(distortion) -> np.ndarray:
        return np.linalg.cond(np.reshape(np.asarray(distortion), (-1, 2, 2))) - 1

    # Kolmogorov and Smirnov: of 2000 and 2000 draws the distributions differ by less than 0.062 in 999 of 1000 cases.
    for one, other in (
        (under.shift_px[:, 0].numpy(), [d.shift_px[0] for d in alone]),
        (ellipticity(under.distortion), ellipticity([d.distortion for d in alone])),
        (np.mod(under.rotation.numpy(), np.pi), [np.mod(d.rotation, np.pi) for d in alone]),
        (np.arctan2(*under.tilt.T.numpy()), [np.arctan2(*d.mistilt_mrad) for d in alone]),
    ):
        assert ks_2samp(one, other).statistic < 0.062
