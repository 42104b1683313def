"""The conventions of strain and rotation, each tied to a number."""

import numpy as np
import pytest

from bluesky_edgestem.analysis import crystals
from bluesky_edgestem.analysis.crystals import MONOLAYERS, REFERENCE, deformation, phase_strain, wrap_rotation


def test_deformation_stretches_what_was_rotated_before():
    # A vector along x, turned by 90° to y, is stretched by eyy.
    f = deformation(np.array([0.5, 0.1, 0.0]), np.pi / 2)
    assert f @ [1.0, 0.0] == pytest.approx([0.0, 1.1], abs=1e-12)


def test_rotation_is_counter_clockwise():
    assert deformation(np.zeros(3), np.pi / 6) @ [1.0, 0.0] == pytest.approx([np.sqrt(3) / 2, 0.5])


@pytest.mark.parametrize(
    ("degrees", "wrapped"), [(0, 0), (30, 30), (-30, 30), (31, -29), (59, -1), (-61, -1), (90, 30), (725, 5)]
)
def test_rotation_wraps_into_sixty_degrees(degrees, wrapped):
    assert np.rad2deg(wrap_rotation(np.deg2rad(degrees))) == pytest.approx(wrapped, abs=1e-9)


def test_strain_of_the_reference_phase_keeps_its_invariants_and_turns_with_the_crystal():
    strain = np.array([0.02, -0.01, 0.005])
    own = phase_strain(strain, np.deg2rad(45), REFERENCE.formula)
    assert own == pytest.approx([0.005 + 0.005, 0.005 - 0.005, -0.015], abs=1e-12)
    assert own[:2].sum() == pytest.approx(strain[:2].sum())


def test_an_unstrained_reference_lattice_is_tension_to_the_smaller_phase():
    own = phase_strain(np.zeros((4, 3)), np.linspace(0, 1, 4), "WS2")
    misfit = REFERENCE.a / MONOLAYERS["WS2"].a - 1
    assert own == pytest.approx(np.tile([misfit, misfit, 0.0], (4, 1)), abs=1e-12)


def test_a_patch_has_the_density_and_stoichiometry_of_its_lattice():
    strain = [0.03, -0.01, 0.01]
    atoms = crystals.monolayer_atoms(strain, 0.2, 100.0, lambda p: np.full(len(p), "MoS2"))
    cell = np.sqrt(3) / 2 * REFERENCE.a**2 * np.linalg.det(deformation(np.array(strain), np.float64(0.2)))
    count = atoms.symbols.formula.count()
    # The edge of the patch cuts cells: their number is known to about its length over the lattice constant.
    assert count["Mo"] == pytest.approx(100.0**2 / cell, abs=4 * 100.0 / REFERENCE.a * 0.5)
    assert count["S"] == pytest.approx(2 * count["Mo"], rel=0.02)
    assert atoms.positions[:, :2].min() >= 0
    assert atoms.positions[:, :2].max() <= 100.0


def test_each_site_is_of_the_phase_where_it_lies():
    atoms = crystals.monolayer_atoms([0, 0, 0], 0.0, 60.0, lambda p: np.where(p[:, 0] < 0, "MoS2", "WS2"))
    x = atoms.positions[:, 0] - 30.0
    assert (x[atoms.symbols == "Mo"] < 0).all()
    assert (x[atoms.symbols == "W"] >= 0).all()


def test_neighbours_are_as_far_as_in_the_crystal():
    atoms = crystals.monolayer_atoms([0, 0, 0], 0.0, 60.0, lambda p: np.full(len(p), "MoS2"))
    middle = int(
        np.argmin(np.hypot(*(atoms.positions[:, :2] - 30.0).T) + 100 * (np.array(atoms.get_chemical_symbols()) != "Mo"))
    )
    distance = np.sort(atoms.get_distances(middle, np.arange(len(atoms))))
    bond = np.hypot(REFERENCE.a / np.sqrt(3), REFERENCE.thickness / 2)
    assert distance[1:7] == pytest.approx([bond] * 6, abs=1e-9)  # the trigonal prism
    assert distance[7:13] == pytest.approx([REFERENCE.a] * 6, abs=1e-9)


def test_an_unknown_material_is_answered_with_those_known():
    with pytest.raises(ValueError, match=r"unknown material 'MoS3'; known are MoS2, WS2"):
        crystals.monolayer("MoS3")
