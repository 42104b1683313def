"""Disks of thick crystals against an algorithm of another kind, Bloch waves."""

import numpy as np
import pytest

from bluesky_edgestem.analysis import disk_patterns, disk_tables
from bluesky_edgestem.analysis.materials import MATERIALS, material
from bluesky_edgestem.analysis.optics import Optics


def bloch_waves(name, energy_keV, kappa, thicknesses, reflections, g_max=2.2):
    """Intensities (t, g) of a crystal at rest, projected along the beam, by diagonalising its structure matrix."""
    from abtem.core.energy import energy2sigma
    from abtem.parametrizations import LobatoParametrization

    crystal, wavelength = material(name), Optics(energy_keV).wavelength
    factor = LobatoParametrization().projected_scattering_factor
    index = disk_tables.reflections_within(crystal, g_max)
    between = index[:, None] - index[None]
    length2 = ((between @ crystal.reciprocal) ** 2).sum(-1)
    volume = abs(np.linalg.det(crystal.vectors)) * crystal.period * crystal.spacing
    potential = sum(factor(s.symbol)(length2) * np.exp(-2j * np.pi * (between @ [s.x, s.y])) for s in crystal.sites)
    g = index @ crystal.reciprocal
    matrix = energy2sigma(energy_keV * 1e3) * potential / volume
    matrix -= np.diag(np.pi * wavelength * ((g**2).sum(1) + 2 * g @ kappa))
    values, vectors = np.linalg.eigh(matrix)
    excited = vectors.conj()[np.flatnonzero((index == 0).all(1))[0]]
    at = [np.flatnonzero((index == r).all(1))[0] for r in reflections]
    return np.array([np.abs(vectors @ (np.exp(1j * values * t) * excited))[at] ** 2 for t in thicknesses])


REFLECTIONS = np.array([[0, 0], [1, 1], [-1, 1], [1, -1], [2, 0], [0, 4]])


def test_silicon_oscillates_with_thickness_as_bloch_waves_say():
    crystal, kappa, layers = material("Si"), np.array([0.05, -0.03]), [26, 52, 78, 104]
    expected = bloch_waves("Si", 200.0, kappa, [n * crystal.spacing for n in layers], REFLECTIONS)
    found, lost = disk_tables.plane_wave_intensities(crystal, 200.0, kappa[None], layers, REFLECTIONS, {})
    # Bloch waves without upper Laue zones lose no electron, the multislice 3 % to angles beyond its reach.
    assert found[:, :, 0] / (1 - lost) == pytest.approx(expected, abs=0.02)
    # The direct beam falls to a fifth at 15 nm and returns at 20: nothing that a thin crystal would do.
    assert found[0, 0, 0] > 4 * found[2, 0, 0]
    assert found[3, 0, 0] > 3 * found[2, 0, 0]


def test_a_sheet_scatters_as_kinematics_says():
    crystal = material("graphene")
    found, _ = disk_tables.plane_wave_intensities(crystal, 300.0, np.zeros((1, 2)), [1], np.array([[1, 0], [1, 1]]), {})
    from abtem.core.energy import energy2sigma
    from abtem.parametrizations import LobatoParametrization

    g = np.array([[1, 0], [1, 1]]) @ crystal.reciprocal
    factor = LobatoParametrization().projected_scattering_factor("C")((g**2).sum(1))
    amplitude = energy2sigma(300e3) * factor / abs(np.linalg.det(crystal.vectors)) * np.array([1.0, 2.0])
    # Two atoms, in phase for (11) and at 120° for (10); the second order of scattering is a few per cent.
    assert found[0, :, 0] == pytest.approx(amplitude**2, rel=0.06)


def test_forbidden_reflections_are_dark_and_left_out():
    table = disk_tables.compute("Si", 200.0, [10, 20], 1.0, step_mrad=0.5, g_max=0.7)
    kept = {tuple(r) for r in table.reflections}
    assert {(0, 0), (1, 1), (-1, 1), (2, 0), (0, 2)} <= kept  # (002) by double diffraction
    assert not kept & {(1, 0), (-1, 0), (0, 1), (0, -1), (2, 1)}


def test_mean_of_frozen_phonons_is_the_mean_over_drawn_displacements():
    # Displaced layer by layer in SrTiO3's cell, 400 draws of 8 layers: the mean wave against the product of means.
    crystal, n = material("SrTiO3"), 8
    cell = disk_tables._Cell(crystal, 200.0, {})
    planes = [layer[0][1] for layer in disk_tables._planes(crystal)]
    rng = np.random.default_rng(0)
    inverse = np.linalg.inv(crystal.vectors)
    propagator = cell.propagator(crystal.spacing, np.zeros((1, 2)))[0]
    mean = np.zeros(cell.shape, complex)
    for _ in range(400):
        wave = np.ones(cell.shape, complex)
        for layer in range(n):
            moved = [
                (symbol, *(np.array([x, y]) + crystal.displacements[symbol] * rng.standard_normal(2) @ inverse))
                for symbol, x, y in planes[layer % 2]
            ]
            wave = np.fft.ifft2(np.fft.fft2(wave * cell.transmission(moved)) * propagator)
        mean += np.fft.fft2(wave) / wave.size / 400
    reflections = np.array([[0, 0], [1, 1], [2, 0], [2, 2]])
    drawn = np.abs(mean[tuple(reflections.T)]) ** 2
    found, _ = disk_tables.plane_wave_intensities(crystal, 200.0, np.zeros((1, 2)), [n], reflections)
    at_rest, _ = disk_tables.plane_wave_intensities(crystal, 200.0, np.zeros((1, 2)), [n], reflections, {})
    # 400 draws know the mean of (20) to 2 %, while thermal motion changes it by 10 %.
    assert found[0, :, 0] == pytest.approx(drawn, rel=0.03)
    assert abs(at_rest[0, 2, 0] / found[0, 2, 0] - 1) > 0.06


@pytest.mark.parametrize("name", MATERIALS)
def test_every_material_keeps_its_electrons(name):
    crystal = material(name)
    layers = [min(crystal.max_layers, 6)]
    every = disk_tables.reflections_within(crystal, disk_tables.REACH)
    found, lost = disk_tables.plane_wave_intensities(crystal, 80.0, np.array([[0.02, 0.03]]), layers, every)
    assert found.sum() + lost.sum() == pytest.approx(1.0, abs=1e-4)
    assert 0 < lost[0, 0] < 0.05


def multislice_plane_wave(name, strain, layers, reflections):
    """Intensities (g,) by abTEM of a crystal at rest whose cell is stretched along its axes, the wave along z."""
    import abtem
    import ase

    crystal = material(name)
    a, b = crystal.vectors.diagonal() * (1 + np.asarray(strain))
    atoms = ase.Atoms(
        [site.symbol for n in range(layers) for site in crystal.sites if site.layer == n % crystal.period],
        [
            (site.x * a, site.y * b, (n + 0.5) * crystal.spacing)
            for n in range(layers)
            for site in crystal.sites
            if site.layer == n % crystal.period
        ],
        cell=[a, b, layers * crystal.spacing],
        pbc=True,
    )
    # Two thirds of half of the samples is the reach. As many for any strain, as the table has the same beams.
    gpts = tuple(int(np.ceil(12 * length)) for length in crystal.vectors.diagonal())
    with abtem.config.set({"diagnostics.progress_bar": False}):
        potential = abtem.Potential(
            atoms, gpts=gpts, slice_thickness=crystal.spacing, parametrization="lobato", projection="infinite"
        )
        wave = abtem.PlaneWave(energy=200e3, gpts=gpts).multislice(potential).compute().array
    power = np.abs(np.fft.fft2(wave) / wave.size) ** 2
    return power[tuple(np.asarray(reflections).T)]


def test_what_strain_does_to_disks_is_what_another_multislice_finds():
    layers = 52
    table = disk_tables.compute(
        "Si", 200.0, [48, 50, 52, 54], 0.5, step_mrad=0.5, g_max=0.6, displacements={}, strained=True
    )
    middle = table.intensity.shape[-1] // 2
    which = np.arange(len(table.reflections))
    at_rest = multislice_plane_wave("Si", (0.0, 0.0), layers, table.reflections)
    for strain in ((0.015, 0.0), (0.0, -0.015), (0.01, 0.01)):
        depth = layers / np.prod(1 + np.array(strain))
        found = disk_patterns._fills(table, depth, np.array([*strain, 0.0]), which)[:, middle, middle]
        changed = multislice_plane_wave("Si", strain, layers, table.reflections) - at_rest
        off = found - table.intensity[2, :, middle, middle] - changed
        # The next order of 1.5 % is what is left: 6 % of the change here.
        assert np.abs(off).max() < 0.08 * np.abs(changed).max()


def test_too_thick_a_sheet_is_refused():
    with pytest.raises(ValueError, match="graphene has 1 to 3 layers"):
        disk_tables.compute("graphene", 80.0, [1, 4], 2.0)


def test_derivatives_of_a_strained_crystal_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"derivatives are by strain from none on, asked for are those of \[0.01, 0, 0\]"
    ):
        disk_tables.compute("Si", 200.0, (24,), 1.0, strained=True, strain=(0.01, 0, 0))
