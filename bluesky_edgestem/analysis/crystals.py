"""The crystals that the package knows, and how strain and rotation deform them.

Deformation, once for the whole package: ``F = (1 + ε) R(θ)`` with ε the symmetric infinitesimal strain in image axes
(x right, y up) and R(θ) the counter-clockwise rotation of the crystal. A lattice vector becomes ``F a``, a reciprocal
vector ``F^-T g``. Strain is relative to one reference lattice for all phases, that of MoS2; `phase_strain` turns it
into the strain relative to a phase's own relaxed lattice, in the axes of the crystal (zigzag along x).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Monolayer:
    """A 2H transition-metal dichalcogenide monolayer."""

    formula: str
    metal: str
    chalcogen: str
    a: float  #: relaxed lattice constant, experiment, room temperature [Å]
    thickness: float  #: distance between the two chalcogen planes [Å]


#: Lattice constants: Wilson and Yoffe, Adv. Phys. 18, 193 (1969); Schutte et al., J. Solid State Chem. 70, 207 (1987).
MONOLAYERS = {
    "MoS2": Monolayer("MoS2", "Mo", "S", a=3.160, thickness=3.17),
    "WS2": Monolayer("WS2", "W", "S", a=3.153, thickness=3.14),
}
REFERENCE = MONOLAYERS["MoS2"]
#: |exx| and |eyy|, and |exy|, relative to it that the network of monolayers is trained for.
STRAIN_RANGE = (0.045, 0.045, 0.035)


def monolayer(formula: str) -> Monolayer:
    """The monolayer called `formula`.

    Raises
    ------
    ValueError
        If the material is unknown; the message lists those known.
    """
    try:
        return MONOLAYERS[formula]
    except KeyError:
        raise ValueError(f"unknown material {formula!r}; known are {', '.join(MONOLAYERS)}") from None


def monolayers(phases: Sequence[str]) -> tuple[Monolayer, ...]:
    """The monolayers that may occur, by their formulas.

    Raises
    ------
    ValueError
        If `phases` is one text in place of a list, names none or one of them twice, or a material is unknown.
    """
    if isinstance(phases, str):
        raise ValueError(f"phases is the text {phases!r}; give a list of formulas, for example [{phases!r}]")
    if not phases:
        raise ValueError(f"phases is empty; name those that may occur, of {', '.join(MONOLAYERS)}")
    if twice := [phase for index, phase in enumerate(phases) if phase in phases[:index]]:
        raise ValueError(f"phases is {list(phases)}: {twice[0]} is in it twice; name each once")
    return tuple(monolayer(phase) for phase in phases)


def strain_tensor(strain: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) of exx, eyy, exy as symmetric tensors (..., 2, 2)."""
    exx, eyy, exy = np.moveaxis(np.asarray(strain, float), -1, 0)
    return np.stack([np.stack([exx, exy], -1), np.stack([exy, eyy], -1)], -2)


def strain_vector(tensor: np.ndarray) -> np.ndarray:
    """Symmetric tensors (..., 2, 2) as vectors (..., 3) of exx, eyy, exy."""
    tensor = np.asarray(tensor, float)
    return np.stack([tensor[..., 0, 0], tensor[..., 1, 1], tensor[..., 0, 1]], -1)


def rotation_matrix(rotation: np.ndarray | float) -> np.ndarray:
    """Counter-clockwise rotations (...,) [rad] as matrices (..., 2, 2)."""
    c, s = np.cos(rotation), np.sin(rotation)
    return np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)


def deformation(strain: np.ndarray, rotation: np.ndarray | float) -> np.ndarray:
    """Deformation ``F = (1 + ε) R(θ)``: strains (..., 3) and rotations (...,) [rad] to (..., 2, 2)."""
    return (np.eye(2) + strain_tensor(strain)) @ rotation_matrix(rotation)


def wrap_rotation(rotation: np.ndarray | float) -> np.ndarray:
    """Rotations [rad] brought into (-π/6, π/6], the range that a near six-fold pattern can tell."""
    period = np.pi / 3
    rotation = np.asarray(rotation, float)
    return rotation - period * np.ceil(rotation / period - 0.5)


def phase_strain(strain: np.ndarray, rotation: np.ndarray | float, formula: str) -> np.ndarray:
    """Strain relative to the relaxed lattice of `formula`, in crystal axes.

    Parameters
    ----------
    strain : array (..., 3)
        exx, eyy, exy relative to the reference lattice, image axes.
    rotation : array (...,)
        Rotation of the crystal [rad].
    formula : str
        Phase whose relaxed lattice is the new reference.

    Returns
    -------
    array (..., 3)
        exx, eyy, exy with x along the zigzag row: ``Rᵀ [(1 + ε) a0/a - 1] R``.
    """
    scale = REFERENCE.a / monolayer(formula).a
    own = (np.eye(2) + strain_tensor(strain)) * scale - np.eye(2)
    turn = rotation_matrix(np.asarray(rotation, float))
    return strain_vector(np.swapaxes(turn, -1, -2) @ own @ turn)


def monolayer_atoms(
    strain: Sequence[float] | np.ndarray,
    rotation: float,
    extent: float,
    phase_at: Callable[[np.ndarray], np.ndarray],
    origin: Sequence[float] = (0.0, 0.0),
):
    """A square patch of deformed monolayer, the beam's axis along z.

    Parameters
    ----------
    strain : (3,)
        exx, eyy, exy relative to the reference lattice.
    rotation : float
        Rotation of the crystal [rad].
    extent : float
        Side of the patch [Å].
    phase_at : callable
        Takes positions (n, 2) [Å] from the centre of the patch, gives the formula of the phase at each, (n,) str.
    origin : (2,)
        Where the beam is within the primitive cell, in fractions of its vectors.

    Returns
    -------
    ase.Atoms
        In a cell of extent x extent x thickness + 4 Å, the probe over its centre.
    """
    import ase

    cell = REFERENCE.a * np.array([[1.0, 0.0], [-0.5, np.sqrt(3) / 2]]) @ deformation(np.asarray(strain), rotation).T
    reach = int(np.ceil(extent / REFERENCE.a)) + 2
    index = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    metal = (index - np.asarray(origin)) @ cell
    chalcogen = metal + np.array([1 / 3, 2 / 3]) @ cell
    metal, chalcogen = (p[(np.abs(p) < extent / 2).all(axis=1)] for p in (metal, chalcogen))

    symbols: list[str] = []
    positions: list[np.ndarray] = []
    height = max(m.thickness for m in MONOLAYERS.values()) + 4.0
    metal_phases, chalcogen_phases = phase_at(metal), phase_at(chalcogen)
    for m in MONOLAYERS.values():
        here, there = metal[metal_phases == m.formula], chalcogen[chalcogen_phases == m.formula]
        for symbol, plane, z in (
            (m.metal, here, 0.0),
            (m.chalcogen, there, -m.thickness / 2),
            (m.chalcogen, there, m.thickness / 2),
        ):
            symbols += [symbol] * len(plane)
            positions.append(np.column_stack([plane + extent / 2, np.full(len(plane), height / 2 + z)]))
    return ase.Atoms(symbols, positions=np.vstack(positions), cell=[extent, extent, height], pbc=True)
