"""Emulated measurements of the simulated specimen, for the benchmarks of the surrogate: no microscope, no DFT.

Strain is read with a normal error of 0.1 % in exx and eyy and 0.07 % in exy (about what a pattern of 1e5 electrons
gives), the phase without error. Energies are those of the emulator, an elastic fit to the committed table of DFT
energies; a calculation differs from it by what the table differs, and its gradient by what DFT's start is worth.
"""

from __future__ import annotations

import numpy as np

from bluesky_edgestem.analysis.crystals import phase_strain, wrap_rotation
from bluesky_edgestem.energetics.emulator import Emulator
from bluesky_edgestem.geometry import FieldOfView, ScanGrid
from bluesky_edgestem.sim.specimen import Heterojunction

FIELD = FieldOfView.centred(100.0)
RESOLUTION = 1.27  # [nm] 0.61 wavelengths over 2 mrad, at 80 keV
STRAIN_SD = np.array([1.0e-3, 1.0e-3, 0.7e-3])
ROTATION_SD = 2e-3  # [rad]
EMULATOR = Emulator()
PHASES = ("MoS2", "WS2")
ENERGY_SD = {phase: EMULATOR.residual(phase) for phase in PHASES}  # [eV]
GRADIENT_SD = 0.02  # [eV] see `bluesky_edgestem.energetics.dft`


def true_energy(specimen: Heterojunction, positions: np.ndarray) -> np.ndarray:
    """(n,) energy [eV] of the true structure at positions (n, 2) [nm]."""
    phases, own = specimen.phase(positions), np.empty(len(positions))
    strain, rotation = specimen.strain(positions), specimen.rotation(positions)
    for phase in PHASES:
        here = phases == phase
        own[here] = EMULATOR.energy(phase, phase_strain(strain[here], rotation[here], phase))
    return own


def measure(specimen: Heterojunction, positions: np.ndarray, rng: np.random.Generator) -> list[dict]:
    """What the streams would say of positions (n, 2) [nm]: a row each, as `EnergyMap.ingest` takes them."""
    strains = specimen.strain(positions) + STRAIN_SD * rng.normal(size=(len(positions), 3))
    rotations = wrap_rotation(specimen.rotation(positions) + ROTATION_SD * rng.normal(size=len(positions)))
    rows = []
    phases = specimen.phase(positions)
    for (x, y), phase, strain, rotation in zip(positions, phases, strains, rotations, strict=True):
        own = phase_strain(strain, rotation, phase)
        rows.append(
            {
                "x": x,
                "y": y,
                **dict(zip(("exx", "eyy", "exy"), strain, strict=True)),
                **dict(zip(("exx_sd", "eyy_sd", "exy_sd"), STRAIN_SD, strict=True)),
                **dict.fromkeys(("cov_exx_eyy", "cov_exx_exy", "cov_eyy_exy"), 0.0),
                "rotation": rotation,
                "rotation_sd": ROTATION_SD,
                "phase": phase,
                "phase_probability": 0.999,
                "flagged": "",
                "energy": EMULATOR.energy(phase, own) + ENERGY_SD[phase] * rng.normal(),
                "gradient": EMULATOR.gradient(phase, own) + GRADIENT_SD * rng.normal(size=3),
                "state": "converged",
            }
        )
    return rows


def raster(count: int) -> np.ndarray:
    """The `count` positions of an even raster over the field (count, 2) [nm]: rows as equally long as they can be."""
    rows = round(np.sqrt(count))
    lengths = np.full(rows, count // rows) + (np.arange(rows) < count % rows)
    x = np.concatenate([(np.arange(n) + 0.5) / n for n in lengths])
    y = np.repeat((np.arange(rows) + 0.5) / rows, lengths)
    return np.array([FIELD.x0, FIELD.y0]) + np.column_stack([x * FIELD.width, y * FIELD.height])


def nyquist_positions() -> int:
    """Positions of the raster whose step is half the resolution."""
    grid = ScanGrid.with_step(FIELD, RESOLUTION / 2)
    return grid.nx * grid.ny
