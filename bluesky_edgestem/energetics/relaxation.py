"""The relaxed cell of a phase by one method, and its linear response to strain.

The lattice constant is that of the energy's minimum at constant cutoff, which is where the gradient with its Pulay
correction vanishes; the uncorrected stress would vanish at a cell about 2 % smaller.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ..analysis.crystals import monolayer
from .dft import MonolayerDFT, plane_waves, strained_atoms
from .method import DFTMethod, RelaxedCell

_ZERO = (0.0, 0.0, 0.0)


def relax(formula: str, method: DFTMethod) -> RelaxedCell:
    """Relax `formula` by `method`; takes about a minute.

    Returns
    -------
    RelaxedCell
        Lattice constant to about 1e-4 Å: Newton's method stops at a gradient of 2 meV.
    """
    # Differences need energies better than those that the map needs.
    method = replace(method, density_tolerance=1e-6, energy_tolerance=1e-7, state_tolerance=1e-9, iterations=80)
    phase = monolayer(formula)
    cell = RelaxedCell(phase.a, phase.thickness / 2, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0)
    cell = replace(cell, basis_slope=_basis_slope(formula, method, cell))

    def at(cell: RelaxedCell, strain=_ZERO, shift=(0.0, 0.0, 0.0)):
        atoms = strained_atoms(formula, strain, cell, method.vacuum, cell.internal(strain) + np.array(shift))
        return MonolayerDFT(formula, method, cell).raw(atoms)

    def slopes(cell: RelaxedCell) -> np.ndarray:
        """Gradient by isotropic strain and by height."""
        _, gradient, forces = at(cell)
        return np.array([gradient[0] + gradient[1], -forces[2]])

    here, step = slopes(cell), 0.01
    wider, higher = replace(cell, a=cell.a * (1 + step)), replace(cell, height=cell.height + step)
    hessian = np.column_stack([slopes(wider) - here, slopes(higher) - here]) / step
    for _ in range(6):
        stretch, rise = np.linalg.solve(hessian, -here)
        cell = replace(cell, a=cell.a * (1 + stretch), height=cell.height + rise)
        here = slopes(cell)
        if np.abs(here).max() < 0.002:
            break
    else:
        raise RuntimeError(f"{formula} did not relax by {method.name}: the gradient is still {here} eV")

    cell = replace(cell, basis_slope=_basis_slope(formula, method, cell))
    step, stretch = 0.01, 0.005
    up, down = (at(cell, shift=(0.0, 0.0, s))[2][2] for s in (step, -step))
    aside, back = (at(cell, shift=(0.0, s, 0.0))[2][1] for s in (step, -step))
    stiffness = (down - up) / (2 * step), (back - aside) / (2 * step)
    lifted, sunk = (at(cell, (s, s, 0.0))[2][2] for s in (stretch, -stretch))
    sheared, counter = (at(cell, (s, -s, 0.0))[2][1] for s in (stretch, -stretch))
    return replace(
        cell,
        height_stiffness=stiffness[0],
        shift_stiffness=stiffness[1],
        height_slope=(lifted - sunk) / stiffness[0] / (4 * stretch),
        shift_slope=(sheared - counter) / stiffness[1] / (4 * stretch),
        energy=at(cell)[0],
    )


def _basis_slope(formula: str, method: DFTMethod, cell: RelaxedCell) -> float:
    """Derivative of the energy by the logarithm of the number of plane waves at this cell [eV]."""
    cell = replace(cell, basis_slope=0.0)
    energy, count = [], []
    for cutoff in (0.97 * method.cutoff, 1.03 * method.cutoff):
        atoms = strained_atoms(formula, _ZERO, cell, method.vacuum)
        energy.append(MonolayerDFT(formula, replace(method, cutoff=cutoff), cell).raw(atoms)[0])
        excess = plane_waves(np.array(atoms.cell), cutoff, method.kpoints)
        count.append(math.log(excess) + 1.5 * math.log(cutoff))
    return (energy[1] - energy[0]) / (count[1] - count[0])
