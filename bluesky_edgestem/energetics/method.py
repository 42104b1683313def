"""How density functional theory is done here: its settings, and what they cost in accuracy."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

_CELLS = Path(__file__).parent / "data" / "relaxed_cells.json"


@dataclass(frozen=True)
class DFTMethod:
    """Settings of a plane-wave calculation in GPAW.

    Attributes
    ----------
    xc : str
        Exchange-correlation functional.
    cutoff : float
        Kinetic energy of the highest plane wave [eV].
    kpoints : int
        Γ-centred grid of kpoints x kpoints x 1. A grid shifted from Γ would break the crystal's three-fold axis.
    vacuum : float
        Between a layer and its periodic image, chalcogen to chalcogen [Å].
    grid : (3,) ints
        Points of the density's grid; held fixed so that a strain does not make it jump.
    bands : int
        Bands; 13 are occupied.
    smearing : float
        Width of the Fermi-Dirac occupation [eV].
    density_tolerance : float
        Change of the density between two iterations [electrons per valence electron].
    energy_tolerance : float
        Spread of the energy over three iterations [eV per valence electron].
    state_tolerance : float
        Residual of the occupied states [eV² per valence electron].
    iterations : int
        Without convergence after so many, the calculation has failed.
    relax_internal : bool
        Whether the atoms relax within the strained cell, as in a crystal; otherwise they follow it (clamped ions).
    """

    xc: str = "PBE"
    cutoff: float = 350.0
    kpoints: int = 6
    vacuum: float = 6.0
    grid: tuple[int, int, int] = (15, 15, 40)
    bands: int = 14
    smearing: float = 0.02
    density_tolerance: float = 1e-3
    energy_tolerance: float = 2e-4
    state_tolerance: float = 3e-5
    iterations: int = 40
    relax_internal: bool = True

    @property
    def name(self) -> str:
        """Readable name that ends in a hash of all settings, such as "PBE-350eV-6x6-1a2b3c4d"."""
        return self._named(asdict(self))

    @property
    def model(self) -> str:
        """Such a name of the settings that make the energy what it is, without those that say when to stop."""
        stop = ("density_tolerance", "energy_tolerance", "state_tolerance", "iterations", "relax_internal")
        return self._named({key: value for key, value in asdict(self).items() if key not in stop})

    def _named(self, settings: dict) -> str:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.xc}-{self.cutoff:.0f}eV-{self.kpoints}x{self.kpoints}-{digest}"


#: For maps; its error is in `bluesky_edgestem.energetics.dft`.
STANDARD = DFTMethod()

#: A fast one of no accuracy, to exercise what surrounds it.
DRAFT = replace(STANDARD, cutoff=250.0, kpoints=2, vacuum=4.0, grid=(12, 12, 30))

METHODS = {"standard": STANDARD, "draft": DRAFT}


@dataclass(frozen=True)
class RelaxedCell:
    """A phase without strain, and how its atoms follow a small one, all by one method.

    The chalcogens sit at ±height from the metal's plane, displaced in plane by (ux, uy) from where the strained cell
    alone would take them. The point group D3h leaves one constant each for the linear response: ``height = height +
    height_slope (exx + eyy)`` and ``(ux, uy) = shift_slope (2 exy, exx - eyy)``.

    Attributes
    ----------
    a, height : float
        Lattice constant and height of the chalcogens [Å], at the minimum of the energy.
    height_slope, shift_slope : float
        Relaxation per strain [Å].
    height_stiffness, shift_stiffness : float
        Second derivatives of the energy [eV/Å²].
    basis_slope : float
        Derivative of the energy by the logarithm of the number of plane waves, at this cutoff [eV].
    energy : float
        Total energy that counts as zero [eV].
    """

    a: float
    height: float
    height_slope: float
    shift_slope: float
    height_stiffness: float
    shift_stiffness: float
    basis_slope: float
    energy: float

    def internal(self, strain: tuple[float, float, float]) -> np.ndarray:
        """(3,) ux, uy and height [Å] that the atoms take at `strain`."""
        return np.array([0.0, 0.0, self.height]) + self.internal_slopes @ np.asarray(strain)

    @property
    def internal_slopes(self) -> np.ndarray:
        """(3, 3) derivatives of ux, uy and height by exx, eyy and exy [Å]."""
        s, h = self.shift_slope, self.height_slope
        return np.array([[0.0, 0.0, 2 * s], [s, -s, 0.0], [h, h, 0.0]])

    @property
    def stiffness(self) -> np.ndarray:
        """(3,) second derivatives of the energy by ux, uy and height [eV/Å²]."""
        return np.array([self.shift_stiffness, self.shift_stiffness, self.height_stiffness])


@cache
def relaxed_cell(formula: str, method: DFTMethod) -> RelaxedCell:
    """The relaxed cell of `formula`, from the committed table.

    Raises
    ------
    ValueError
        If the table has none by this method; the message says how to make it.
    """
    table = json.loads(_CELLS.read_text())["cells"]
    try:
        return RelaxedCell(**table[method.model][formula])
    except KeyError:
        known = ", ".join(f"{name} of {', '.join(cells)}" for name, cells in table.items())
        raise ValueError(
            f"the relaxed cell of {formula!r} by {method.model} is not known; known are {known}. "
            f"Add the method to METHODS and run `python benchmarks/make_energy_table.py --relax`"
        ) from None
