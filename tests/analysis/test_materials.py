"""Materials: their atoms are where crystallography puts them, and deform as the package's conventions say."""

import numpy as np
import pytest

from bluesky_edgestem.analysis import crystals, materials
from bluesky_edgestem.analysis.materials import MATERIALS, material, patch


def neighbours(atoms, index):
    """Distances from one atom to all others [Å], ascending."""
    return np.sort(np.linalg.norm(np.delete(atoms.positions, index, 0) - atoms.positions[index], axis=1))


def middle(atoms, symbol):
    here = np.linalg.norm(atoms.positions - np.diag(atoms.cell.array) / 2, axis=1)
    return int(np.argmin(here + 1e3 * (np.array(atoms.get_chemical_symbols()) != symbol)))


# Bond lengths: C-C 1.42 Å, Si-Si √3/4 a, Ti-O and Sr-Ti of the perovskite.
@pytest.mark.parametrize(
    ("name", "symbol", "layers", "shells"),
    [
        ("graphene", "C", 1, [1.4203] * 3 + [2.46] * 6),
        ("Si", "Si", 12, [2.3517] * 4 + [3.8403] * 12),
        ("SrTiO3", "Ti", 9, [1.9525] * 6 + [3.3818] * 8),
        ("MoS2", "Mo", 1, [np.hypot(3.16 / np.sqrt(3), 3.17 / 2)] * 6 + [3.16] * 6),
    ],
)
def test_neighbours_are_as_far_as_in_the_crystal(name, symbol, layers, shells):
    atoms = patch(name, [0, 0, 0], 0.3, 30.0, layers)
    assert neighbours(atoms, middle(atoms, symbol))[: len(shells)] == pytest.approx(shells, abs=2e-4)


@pytest.mark.parametrize(("name", "density"), [("Si", 8 / 5.431**3), ("SrTiO3", 5 / 3.905**3)])
def test_a_patch_has_the_density_of_the_strained_crystal(name, density):
    strain = np.array([0.02, -0.01, 0.01])
    atoms = patch(name, strain, 0.4, 80.0, 20)
    expected = density / np.linalg.det(crystals.deformation(strain, np.float64(0.4)))
    # The patch's edge cuts cells: a row of atoms more or less on each side is 2 %.
    assert len(atoms) / atoms.get_volume() == pytest.approx(expected, rel=0.02)


def test_the_second_sheet_of_graphene_is_shifted_by_a_bond_and_the_third_lies_over_the_first():
    atoms = patch("graphene", [0, 0, 0], 0.0, 20.0, 3)
    sheets = [{tuple(p) for p in np.round(atoms.positions[np.isclose(atoms.positions[:, 2], z)][:, :2], 6)}
              for z in (1.675, 5.025, 8.375)]  # fmt: skip
    assert sheets[0] == sheets[2] != sheets[1]
    shared = len(sheets[0] & sheets[1]) / len(sheets[0])
    assert shared == pytest.approx(0.5, abs=0.05)  # one of two atoms sits over an atom


def test_a_patch_is_deformed_as_the_conventions_say():
    strain, rotation = np.array([0.03, -0.02, 0.01]), 0.2
    still, moved = patch("Si", [0, 0, 0], 0.0, 60.0, 2), patch("Si", strain, rotation, 60.0, 2)
    f = crystals.deformation(strain, np.float64(rotation))
    inner = still.positions[np.linalg.norm(still.positions[:, :2] - 30.0, axis=1) < 25.0]
    expected = (inner[:, :2] - 30.0) @ f.T + 30.0
    gaps = np.linalg.norm(expected[:, None] - moved.positions[None, :, :2], axis=-1).min(1)
    assert gaps.max() < 1e-9


def test_the_dichalcogenides_are_the_monolayers_that_the_package_had():
    new = patch("WS2", [0.01, 0.0, 0.005], 0.3, 40.0)
    old = crystals.monolayer_atoms([0.01, 0.0, 0.005], 0.3, 40.0, lambda p: np.full(len(p), "WS2"))
    order = [np.lexsort(np.round(a.positions, 6).T) for a in (new, old)]
    assert new.positions[order[0]][:, :2] == pytest.approx(old.positions[order[1]][:, :2], abs=1e-9)
    assert np.ptp(new.positions[:, 2]) == pytest.approx(np.ptp(old.positions[:, 2]))


def test_every_site_lies_within_its_period_and_has_a_debye_waller_factor():
    for crystal in MATERIALS.values():
        assert {site.layer for site in crystal.sites} == set(range(crystal.period))
        assert {site.symbol for site in crystal.sites} == set(crystal.debye_waller)
        assert crystal.vectors @ crystal.reciprocal.T == pytest.approx(np.eye(2), abs=1e-12)
    assert material("Si").displacements["Si"] == pytest.approx(0.0766, abs=1e-4)


def test_thickness_is_counted_in_layers():
    assert material("Si").layers(20.0) == 104
    assert material("SrTiO3").layers(5.0) == 26
    with pytest.raises(ValueError, match=r"graphene has 1 to 3 layers of 3\.35 Å, got 4"):
        patch("graphene", [0, 0, 0], 0.0, 20.0, 4)
    with pytest.raises(ValueError, match="unknown material 'Ge'; known are MoS2, WS2, graphene, Si, SrTiO3"):
        materials.patch("Ge", [0, 0, 0], 0.0, 20.0)
