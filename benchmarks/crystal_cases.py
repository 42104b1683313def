"""Thick crystals for the networks benchmark: held-out conditions with their truth and bound, and foreign crystals.

Conditions are of the split "held out" of `crystal_patterns`: thicknesses and convergence angles that neither training
nor calibration had, at 200 keV. Each pattern has a microscope of its own; those that the network refuses are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from bluesky_edgestem.analysis.cramer_rao import central_differences, poisson_information
from bluesky_edgestem.analysis.crystal_networks import CrystalNetwork
from bluesky_edgestem.analysis.crystal_patterns import N_PIXELS, Conditions, conditions, count_electrons
from bluesky_edgestem.analysis.crystal_training import table_specs
from bluesky_edgestem.analysis.disk_library import TableSpec
from bluesky_edgestem.analysis.disk_rendering import DeviceTable
from bluesky_edgestem.analysis.disk_tables import DiskTable
from bluesky_edgestem.analysis.materials import MATERIALS, Material, Site, material
from bluesky_edgestem.analysis.optics import Optics

ENERGY = 200.0
_AU, _NACL, _GAAS = 4.078, 5.640, 5.653
#: Crystals that no training had. Debye–Waller factors are round numbers of the size that tables give.
FOREIGN = {
    crystal.name: crystal
    for crystal in (
        Material(
            "Au", "Au", "[110], [-110] along x", ((_AU / sqrt(2), 0.0), (0.0, _AU)),
            (Site("Au", 0.0, 0.0, 0), Site("Au", 0.5, 0.5, 1)),
            _AU / sqrt(8), 2, {"Au": 0.63}, 300,
        ),
        Material(
            "NaCl", "NaCl", "[001], [100] along x", ((_NACL, 0.0), (0.0, _NACL)),
            (Site("Na", 0.0, 0.0, 0), Site("Na", 0.5, 0.5, 0), Site("Cl", 0.5, 0.0, 0), Site("Cl", 0.0, 0.5, 0),
             Site("Cl", 0.0, 0.0, 1), Site("Cl", 0.5, 0.5, 1), Site("Na", 0.5, 0.0, 1), Site("Na", 0.0, 0.5, 1)),
            _NACL / 2, 2, {"Na": 1.6, "Cl": 1.3}, 200,
        ),
        Material(
            "GaAs", "GaAs", "[110], [-110] along x", ((_GAAS / sqrt(2), 0.0), (0.0, _GAAS)),
            (Site("Ga", 0.0, 0.0, 0), Site("As", 0.5, 0.75, 0), Site("Ga", 0.5, 0.5, 1), Site("As", 0.0, 0.25, 1)),
            _GAAS / sqrt(8), 2, {"Ga": 0.63, "As": 0.55}, 260,
        ),
    )
}  # fmt: skip

#: Of the central differences: strain (3), rotation [rad], centre (2) [pixels], thickness [nm], mistilt (2) [mrad],
#: share of the background.
STEPS = (1e-3, 1e-3, 1e-3, 1e-3, 0.1, 0.1, 0.2, 0.1, 0.1, 0.01)


def specs() -> list[TableSpec]:
    """Tables of the trained crystals as training has them, and as thick ones of the foreign."""
    trained = [spec for spec in table_specs(["Si", "SrTiO3"]) if spec.energy_keV == ENERGY]
    foreign = []
    for crystal in FOREIGN.values():
        pairs = np.arange(3.0, 42.1, 2.0) * 10 / crystal.spacing / 2
        layers = tuple(2 * round(n) for n in pairs)
        foreign.append(TableSpec(crystal.name, ENERGY, layers, 8.0, 0.45, 1.12))
    return trained + foreign


def computed(spec: TableSpec) -> DiskTable:
    """The table of a spec; made known first is what the package does not have, for a process may be new."""
    MATERIALS.update(FOREIGN)
    return spec.compute()


@dataclass(frozen=True)
class CrystalCase:
    """One crystal under one microscope."""

    table: DeviceTable
    under: Conditions  #: of one pattern

    @property
    def optics(self) -> Optics:
        """Beam and detector, as the network is told of them."""
        to_mrad = 1e3 * Optics(ENERGY).wavelength
        of = self.under
        return Optics(
            ENERGY, float(of.cutoff[0]) * to_mrad, float(of.pixel[0]) * to_mrad, N_PIXELS, float(of.psf_px[0])
        )

    @property
    def strain(self) -> np.ndarray:
        """exx, eyy, exy, (3,)."""
        return self.under.strain[0].double().numpy()

    @property
    def thickness(self) -> float:
        """[nm]"""
        return float(self.under.layers[0]) * material(self.table.name).spacing / 10

    def frames(self, materials: tuple[str, ...], dose: float, draws: int, generator: torch.Generator) -> Tensor:
        """Counts (draws, n, n) of the same pattern with noise and the detector's defects drawn anew."""
        again = repeated(self.under, draws)
        return count_electrons(self.table, materials, again, torch.full((draws,), dose), generator).counts

    @cached_property
    def information(self) -> np.ndarray:
        """Fisher information per electron (11, 11): `STEPS`, then the logarithm of the total.

        All that the network is not told is free: thickness, mistilt and background, too.
        """
        of = self.under
        wavelength, spacing = Optics(ENERGY).wavelength, material(self.table.name).spacing

        def expected(at: np.ndarray) -> np.ndarray:
            by = torch.tensor(at, dtype=torch.float32)[None]
            moved = replace(
                of,
                strain=of.strain + by[:, :3],
                rotation=of.rotation + by[:, 3],
                shift_px=of.shift_px + by[:, 4:6],
                layers=of.layers + by[:, 6] * 10 / spacing,
                tilt=of.tilt + by[:, 7:9] * 1e-3 / wavelength,
                background=of.background + by[:, 9],
            )
            return moved.expected(self.table)[0].double().numpy()

        mean = expected(np.zeros(len(STEPS)))
        slopes = central_differences(expected, np.zeros(len(STEPS)), STEPS)
        return poisson_information(mean, np.concatenate([slopes, mean[None]]))


def repeated(under: Conditions, times: int) -> Conditions:
    """Conditions of one pattern as those of many."""
    columns = {name: getattr(under, name) for name in Conditions.__dataclass_fields__}
    columns = {name: column.expand(times, *column.shape[1:]) for name, column in columns.items() if column is not None}
    return replace(under, **columns)


def held_out(table: DeviceTable, count: int, seed: int, network: CrystalNetwork) -> list[CrystalCase]:
    """The first `count` cases whose optics the network takes; foreign crystals are deformed as its own."""
    found: list[CrystalCase] = []
    rng = np.random.default_rng([seed, 7])
    while len(found) < count:
        case = CrystalCase(table, conditions(table, 1, rng, "held out"))
        try:
            network.check_optics(case.optics)
        except ValueError:
            continue
        found.append(case)
    return found
