"""DFT of strained cells: zero, slopes, symmetry, and calculations that do not end well."""

from dataclasses import replace

import numpy as np
import pytest

from bluesky_edgestem.analysis.crystals import strain_tensor, strain_vector
from bluesky_edgestem.energetics.dft import MonolayerDFT, plane_waves, strained_atoms
from bluesky_edgestem.energetics.emulator import Emulator
from bluesky_edgestem.energetics.method import DRAFT, STANDARD, relaxed_cell

STRAIN = (0.01, -0.006, 0.008)


@pytest.fixture(scope="module")
def mos2():
    return MonolayerDFT("MoS2")


@pytest.fixture(scope="module")
def draft():
    return MonolayerDFT("MoS2", DRAFT)


def test_cell_follows_the_strain():
    cell = relaxed_cell("WS2", STANDARD)
    atoms = strained_atoms("WS2", STRAIN, cell, 6.0)
    zigzag, other, up = np.array(atoms.cell)
    assert atoms.get_chemical_symbols() == ["W", "S", "S"]
    assert zigzag[:2] == pytest.approx(cell.a * np.array([1.01, 0.008]))
    assert other[:2] == pytest.approx(cell.a * (np.eye(2) + strain_tensor(np.array(STRAIN))) @ [-0.5, np.sqrt(3) / 2])
    assert up == pytest.approx([0, 0, 2 * cell.height + 6.0])
    # A pull makes the layer thinner.
    thickness = atoms.positions[1, 2] - atoms.positions[2, 2]
    assert thickness == pytest.approx(2 * (cell.height + cell.height_slope * 0.004))
    assert cell.height_slope < -0.3


def test_bond_length_without_strain_is_that_of_experiment():
    cell = relaxed_cell("MoS2", STANDARD)
    atoms = strained_atoms("MoS2", (0, 0, 0), cell, 6.0)
    # 2.41 Å and 3.16 Å; PBE is known to be 1 % long.
    assert atoms.get_distance(0, 1, mic=True) == pytest.approx(2.41, rel=0.015)
    assert cell.a == pytest.approx(3.16, rel=0.01)


def test_plane_waves_are_counted_as_gpaw_does(draft):
    atoms = strained_atoms("MoS2", STRAIN, draft.cell, DRAFT.vacuum)
    draft.raw(atoms)
    volume, largest = atoms.get_volume(), np.sqrt(2 * 250 / 27.211386245988) / 0.529177210903
    theirs = sum(wfs.weight * len(wfs.psit_nX.desc.ekin_G) for wfs in draft._calculator.dft.ibzwfs)
    ours = plane_waves(np.array(atoms.cell), 250.0, 2) * volume * largest**3 / (6 * np.pi**2)
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_relaxed_phase_is_zero_and_flat(mos2):
    result = mos2.result((0.0, 0.0, 0.0))
    assert (result.state, result.reason) == ("converged", "")
    assert result.energy == pytest.approx(0.0, abs=5e-5)
    # Of the slope at 1 % of strain, 1 eV, a few per cent: what the tolerances of the iteration leave.
    assert result.gradient == pytest.approx((0.0, 0.0, 0.0), abs=0.05)


def test_gradient_is_the_slope_of_the_energy(mos2):
    direction, step = np.array([1.0, -0.5, 0.7]), 0.004
    here = mos2.result(STRAIN)
    ahead, behind = (mos2.result(tuple(STRAIN + s * direction)) for s in (step, -step))
    slope = (ahead.energy - behind.energy) / (2 * step)
    assert here.gradient @ direction == pytest.approx(slope, abs=0.03, rel=0.02)


def test_crystal_has_a_three_fold_axis(mos2):
    c, s = np.cos(2 * np.pi / 3), np.sin(2 * np.pi / 3)
    turn = np.array([[c, -s], [s, c]])
    turned = strain_vector(turn @ strain_tensor(np.array(STRAIN)) @ turn.T)
    here, there = mos2.result(STRAIN), mos2.result(tuple(turned))
    assert there.energy == pytest.approx(here.energy, abs=5e-5)
    # The gradient turns with the strain: as a symmetric tensor, of which exy counts twice.
    tensor = turn @ strain_tensor(here.gradient * np.array([1, 1, 0.5])) @ turn.T
    assert there.gradient == pytest.approx(strain_vector(tensor) * [1, 1, 2], abs=0.05)


def test_table_is_reproduced(mos2):
    result = mos2.result((-0.012, 0.015, -0.01))
    emulated = Emulator().submit("MoS2", result.strain).result()
    assert emulated.energy == pytest.approx(result.energy, abs=2e-4)
    assert emulated.gradient == pytest.approx(result.gradient, abs=0.06)


def test_relaxing_the_ions_matters():
    # DRAFT, whose own linear response is used: what is tested is that the Newton step finds the minimum along it.
    cell = relaxed_cell("MoS2", DRAFT)
    follows = MonolayerDFT("MoS2", DRAFT).result((0.02, 0.02, 0.0)).energy
    stuck = replace(cell, height_slope=0.0, shift_slope=0.0)
    clamped = MonolayerDFT("MoS2", replace(DRAFT, relax_internal=False), stuck).result((0.02, 0.02, 0.0)).energy
    on_paper = MonolayerDFT("MoS2", DRAFT, stuck).result((0.02, 0.02, 0.0)).energy
    assert clamped - follows > 0.1 * follows
    assert on_paper == pytest.approx(follows, abs=0.1 * (clamped - follows))


def test_failures_are_results_and_the_next_calculation_is_sound(draft):
    before = draft.result(STRAIN)
    few = MonolayerDFT("MoS2", replace(DRAFT, iterations=3)).result(STRAIN)
    assert (few.state, few.reason) == ("failed", "not converged after 3 iterations")
    assert np.isnan(few.energy) and np.isnan(few.gradient).all()
    late = draft.result((0.02, 0.0, 0.01), time_limit=0.0)
    assert late.state == "failed" and "within 0 s" in late.reason
    torn = draft.result((0.3, 0.0, 0.0))
    assert torn.state == "failed" and "beyond ±0.1" in torn.reason
    after = draft.result(STRAIN)
    assert after.energy == pytest.approx(before.energy, abs=1e-4)


def test_unknown_material_names_those_known():
    with pytest.raises(ValueError, match="unknown material 'NbSe2'; known are MoS2, WS2"):
        MonolayerDFT("NbSe2")


def test_method_without_relaxed_cell_says_how_to_make_one():
    with pytest.raises(ValueError, match=r"PBE-400eV-6x6-\w{8} is not known.*make_energy_table.py --relax"):
        relaxed_cell("MoS2", replace(STANDARD, cutoff=400.0))


def test_method_name_tells_methods_apart():
    assert STANDARD.name != replace(STANDARD, density_tolerance=1e-6).name
    assert STANDARD.model == replace(STANDARD, density_tolerance=1e-6).model
    assert STANDARD.model != replace(STANDARD, vacuum=7.0).model
