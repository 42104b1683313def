"""Emulated measurements of the simulated specimen, for the benchmarks of the surrogate: no microscope, no DFT.

Strain is read with a normal error of 0.1 % in exx and eyy and 0.07 % in exy (about what a pattern of 1e5 electrons
gives), the phase without error. The energy is that of a sheet as stiff as MoS2 (132 and 33 N/m) or WS2 (9 % stiffer),
softening under tension like a Morse bond; it is on purpose not a polynomial, which is what the surrogate fits.
"""

from __future__ import annotations

import numpy as np

from bluesky_edgestem.analysis.crystals import phase_strain, wrap_rotation
from bluesky_edgestem.analysis.elasticity import to_modes
from bluesky_edgestem.geometry import FieldOfView, ScanGrid
from bluesky_edgestem.sim.specimen import Heterojunction

FIELD = FieldOfView.centred(100.0)
RESOLUTION = 1.27  # [nm] 0.61 wavelengths over 2 mrad, at 80 keV
STRAIN_SD = np.array([1.0e-3, 1.0e-3, 0.7e-3])
ROTATION_SD = 2e-3  # [rad]
STIFFNESS = {"MoS2": (22.0, 13.2), "WS2": (23.9, 14.6)}  # [eV] of dilatation and shear
SOFTENING, SHEAR_SOFTENING, THREE_FOLD = 1.8, 3.4, 12.0  # the last [eV]


def energy(phase: str, strain: np.ndarray) -> np.ndarray:
    """(n,) energy [eV per formula unit] of (n, 3) strain relative to the phase's own lattice, crystal axes."""
    t, u, v = to_modes(strain).T
    dilatation, shear = STIFFNESS[phase]
    bulk = dilatation * ((1 - np.exp(-SOFTENING * t)) / SOFTENING) ** 2
    return bulk + shear * (u * u + v * v) * np.exp(-SHEAR_SOFTENING * t) + THREE_FOLD * (u**3 - 3 * u * v * v)


def gradient(phase: str, strain: np.ndarray) -> np.ndarray:
    """(n, 3) derivatives of `energy` by exx, eyy, exy [eV]."""
    steps = 1e-5 * np.eye(3)
    return np.stack([(energy(phase, strain + s) - energy(phase, strain - s)) / 2e-5 for s in steps], axis=-1)


def true_energy(specimen: Heterojunction, positions: np.ndarray) -> np.ndarray:
    """(n,) energy [eV] of the true structure at positions (n, 2) [nm]."""
    phases, own = specimen.phase(positions), np.empty(len(positions))
    strain, rotation = specimen.strain(positions), specimen.rotation(positions)
    for phase in STIFFNESS:
        here = phases == phase
        own[here] = energy(phase, phase_strain(strain[here], rotation[here], phase))
    return own


def measure(specimen: Heterojunction, positions: np.ndarray, rng: np.random.Generator) -> list[dict]:
    """What the streams would say of positions (n, 2) [nm]: a row each, as `EnergyMap.ingest` takes them."""
    strains = specimen.strain(positions) + STRAIN_SD * rng.normal(size=(len(positions), 3))
    rotations = wrap_rotation(specimen.rotation(positions) + ROTATION_SD * rng.normal(size=len(positions)))
    rows = []
    phases = specimen.phase(positions)
    for (x, y), phase, strain, rotation in zip(positions, phases, strains, rotations, strict=True):
        own = phase_strain(strain[None], rotation[None], phase)
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
                "energy": energy(phase, own)[0],
                "gradient": gradient(phase, own)[0],
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
