"""The specimens of the strain benchmark are what their description says, and the same again for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import strain_cases as cases

from bluesky_edgestem.analysis import disk_tables
from bluesky_edgestem.analysis.materials import material


@pytest.mark.parametrize("seed", range(5))
def test_specimens_keep_within_what_is_said_of_them(seed):
    for name, kind in cases.CASES.items():
        made = cases.draw_specimen(kind, seed)
        assert len(made) == kind.side**2
        assert np.abs(made.strain).max() <= 0.02
        assert np.hypot(*made.mistilt_mrad.T).max() <= 2.4 + 1e-9
        assert np.abs(made.shift_px).max() <= 2.5 * kind.n_pixels / 256
        assert np.array_equal(np.unique(made.grain), np.arange(kind.grains))
        assert cases.TABLES[kind.material].layers[0] < 0.95 * made.layers.min() or kind.by_multislice, name


def test_the_seed_settles_a_specimen_and_related_cases_share_it():
    one, again = (cases.draw_specimen(cases.CASES["Si-256"], 3) for _ in range(2))
    assert np.array_equal(one.strain, again.strain)
    assert not np.array_equal(one.strain, cases.draw_specimen(cases.CASES["Si-256"], 4).strain)
    noisy = cases.draw_specimen(cases.CASES["background-70"], 3)
    assert np.array_equal(one.strain, noisy.strain)
    assert np.array_equal(one.mistilt_mrad, noisy.mistilt_mrad)


def test_disks_lie_on_the_lattice_that_a_case_states():
    kind = cases.Kind("Si", 128, background=0.0, side=2, by_multislice=True)
    specimen = cases.draw_specimen(kind, 0)
    disks = disk_tables.compute("Si", 200.0, [48, 72], 6.0, step_mrad=1.0, g_max=0.5)
    pattern = cases.composed(disks, kind.optics, specimen, 3, np.zeros(6), True)
    reference = material("Si").reciprocal / kind.optics.pixel_reciprocal
    made = cases.StrainCase("Si", 0, "Si", kind.optics, specimen, reference, pattern[None], np.zeros((1, 7, 7)))
    y, x = np.indices(pattern.shape)
    for h, k in ((0, 0), (1, 1), (-1, 1), (0, 2)):
        at = made.centre[3] + np.array([h, k]) @ made.lattice[3]
        near = np.hypot(x - at[0], y - at[1])
        # The edge of each disk, whatever fills it: six pixels around the place, to the point spread.
        assert pattern[near < 4.5].min() > 2 * pattern[(near > 7.8) & (near < 8.3)].max()


def test_a_sample_is_positions_spread_over_the_scan():
    kind = cases.Kind("Si", 128, side=20)
    specimen = cases.draw_specimen(kind, 0)
    patterns = np.arange(400.0).reshape(400, 1, 1)
    scan = cases.StrainCase("Si", 0, "Si", kind.optics, specimen, np.eye(2), patterns, np.zeros((1, 7, 7)))
    sample = scan.sample()
    which = sample.patterns[:, 0, 0].astype(int)
    assert len(which) == cases.SAMPLED
    assert (which[0], which[-1]) == (0, 399)
    assert set(np.diff(which)) == {1, 2}
    assert np.array_equal(sample.specimen.strain, specimen.strain[which])
    assert np.array_equal(sample.centre, scan.centre[which])
