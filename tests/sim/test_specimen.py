"""Another seed is another specimen; the truth is smooth, and the beam sees the local structure."""

import numpy as np
import pytest

from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.geometry import FieldOfView, ScanGrid
from bluesky_edgestem.sim.specimen import Heterojunction

GRID = ScanGrid(FieldOfView.centred(100.0), 101, 101)


@pytest.mark.parametrize("seed", range(5))
def test_strain_is_of_the_size_that_experiments_show_and_smooth(seed):
    strain = Heterojunction(seed).strain(GRID.positions).reshape(101, 101, 3)
    assert 0.015 < np.abs(strain).max() < 0.05
    # Between positions 1 nm apart; the probe is 1.3 nm wide.
    assert np.abs(np.diff(strain, axis=0)).max() < 0.008
    assert np.abs(np.diff(strain, axis=1)).max() < 0.008


def test_both_phases_and_a_rotated_grain_are_in_the_field():
    specimen = Heterojunction(3)
    assert set(specimen.phase(GRID.positions)) == {"MoS2", "WS2"}
    assert np.deg2rad(9) < np.ptp(specimen.rotation(GRID.positions)) < np.deg2rad(21)


def test_a_seed_is_reproducible_and_another_differs():
    one, same, other = (Heterojunction(seed).strain(GRID.positions) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert np.abs(one - other).max() > 0.01


def test_a_patch_across_the_interface_holds_both_phases():
    specimen = Heterojunction(1)
    row = ScanGrid(FieldOfView(-50, 0, 100, 1), 401, 2).positions[:401]
    edge = row[np.flatnonzero(specimen.phase(row) == "WS2")[0]]
    atoms = specimen.atoms(edge, 80.0, np.random.default_rng(0))
    assert {"Mo", "W", "S"} == set(atoms.symbols)


def test_a_frame_holds_the_dose():
    frame = Heterojunction(1).frame(np.array([10.0, 5.0]), 1e5, Optics(), np.random.default_rng(0))
    assert frame.shape == (128, 128)
    assert frame.dtype == np.uint16
    assert int(frame.sum()) == pytest.approx(1e5, rel=0.02)
