"""Crystals of any thickness that patterns are computed from: lattice, atoms and thermal motion.

Strain and rotation deform them as `crystals` says: ``F = (1 + ε) R(θ)`` in the plane, relative to the reference lattice
of the material's family. Axes are right-handed, x right, y up, the electrons travel along +z, which is the zone axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi, sqrt

import numpy as np

from . import crystals


@dataclass(frozen=True)
class Site:
    """An atom in the cell of a material."""

    symbol: str
    x: float  #: fraction of the cell's first vector
    y: float  #: fraction of the cell's second vector
    layer: int = 0  #: number of the layer within the period
    z: float = 0.0  #: height above the layer's middle [Å]


@dataclass(frozen=True)
class Material:
    """A crystal along one zone axis, as a stack of layers that repeats.

    A layer is what the thickness is counted in: one sheet of graphene or of a dichalcogenide, one atomic plane of a
    bulk crystal.
    """

    name: str
    family: str  #: materials whose strain is relative to the same lattice
    zone_axis: str  #: along the beam, and the crystal's direction along x
    cell: tuple[tuple[float, float], tuple[float, float]]  #: in-plane reference cell, its vectors as rows [Å]
    sites: tuple[Site, ...]
    spacing: float  #: from one layer to the next [Å]
    period: int  #: layers after which the stack repeats
    debye_waller: dict[str, float]  #: B of each element, 300 K, isotropic [Å²]: amplitudes are damped by exp(-B g²/4)
    max_layers: int  #: thickest crystal that is meant

    @property
    def vectors(self) -> np.ndarray:
        """The reference cell's vectors as rows, (2, 2) [Å]."""
        return np.array(self.cell)

    @property
    def reciprocal(self) -> np.ndarray:
        """The reference lattice's reciprocal vectors as rows, (2, 2) [1/Å]: ``vectors @ reciprocal.T`` is one."""
        return np.linalg.inv(self.vectors).T

    @property
    def displacements(self) -> dict[str, float]:
        """Root mean square displacement of each element along each axis [Å], √(B/8π²)."""
        return {symbol: sqrt(b / (8 * pi**2)) for symbol, b in self.debye_waller.items()}

    def layers(self, thickness: float) -> int:
        """The number of layers nearest to a thickness [nm].

        Raises
        ------
        ValueError
            If that is none, or more than the material has.
        """
        n = round(10 * thickness / self.spacing)
        self.check_layers(n)
        return n

    def check_layers(self, layers: int) -> None:
        """Raise ValueError unless the material is as thick as this many layers."""
        if not 1 <= layers <= self.max_layers:
            raise ValueError(f"{self.name} has 1 to {self.max_layers} layers of {self.spacing} Å, got {layers}")


def _dichalcogenide(formula: str, debye_waller: dict[str, float]) -> Material:
    m, a = crystals.monolayer(formula), crystals.REFERENCE.a
    chalcogen = tuple(Site(m.chalcogen, 1 / 3, 2 / 3, z=z) for z in (-m.thickness / 2, m.thickness / 2))
    return Material(
        formula, "dichalcogenide", "[0001], [2-1-10] along x", ((a, 0.0), (-a / 2, a * sqrt(3) / 2)),
        (Site(m.metal, 0.0, 0.0), *chalcogen), 6.15, 1, debye_waller, 1,
    )  # fmt: skip


_SI = 5.431  # Mohr, Taylor and Newell, Rev. Mod. Phys. 80, 633 (2008), rounded
_SRTIO3 = 3.905
_GRAPHENE = 2.46

#: Debye–Waller factors. Si: Spackman, Acta Cryst. A 42, 271 (1986). SrTiO3: Abramov et al., Acta Cryst. B 51, 942
#: (1995), the oxygen's mean over directions. Graphene, MoS2, WS2: round numbers of the size that the layered crystals
#: show in the plane, ⟨u²⟩ of 0.0025 to 0.005 Å², without a source for more than that; a third more or less changes
#: a first order's intensity by about 1 %.
MATERIALS = {
    material.name: material
    for material in (
        _dichalcogenide("MoS2", {"Mo": 0.30, "S": 0.40}),
        _dichalcogenide("WS2", {"W": 0.20, "S": 0.40}),
        # Bernal's AB stack: the second sheet is shifted by a bond.
        Material(
            "graphene", "graphene", "[0001], [2-1-10] along x",
            ((_GRAPHENE, 0.0), (-_GRAPHENE / 2, _GRAPHENE * sqrt(3) / 2)),
            (Site("C", 0.0, 0.0, 0), Site("C", 1 / 3, 2 / 3, 0),
             Site("C", 1 / 3, 2 / 3, 1), Site("C", 2 / 3, 1 / 3, 1)),
            3.35, 2, {"C": 0.30}, 3,
        ),
        Material(
            "Si", "Si", "[110], [-110] along x", ((_SI / sqrt(2), 0.0), (0.0, _SI)),
            (Site("Si", 0.0, 0.0, 0), Site("Si", 0.5, 0.75, 0), Site("Si", 0.5, 0.5, 1), Site("Si", 0.0, 0.25, 1)),
            _SI / sqrt(8), 2, {"Si": 0.4632}, 260,
        ),
        Material(
            "SrTiO3", "SrTiO3", "[001], [100] along x", ((_SRTIO3, 0.0), (0.0, _SRTIO3)),
            (Site("Sr", 0.0, 0.0, 0), Site("O", 0.5, 0.5, 0),
             Site("Ti", 0.5, 0.5, 1), Site("O", 0.5, 0.0, 1), Site("O", 0.0, 0.5, 1)),
            _SRTIO3 / 2, 2, {"Sr": 0.6214, "Ti": 0.4398, "O": 0.7323}, 256,
        ),
    )
}  # fmt: skip


def material(name: str) -> Material:
    """The material called `name`.

    Raises
    ------
    ValueError
        If the material is unknown; the message lists those known.
    """
    try:
        return MATERIALS[name]
    except KeyError:
        raise ValueError(f"unknown material {name!r}; known are {', '.join(MATERIALS)}") from None


def patch(
    name: str,
    strain: Sequence[float] | np.ndarray,
    rotation: float,
    extent: float,
    layers: int = 1,
    origin: Sequence[float] = (0.0, 0.0),
):
    """A square patch of deformed crystal, the beam's axis along z.

    Parameters
    ----------
    name : str
        One of `MATERIALS`.
    strain : (3,)
        exx, eyy, exy relative to the reference lattice of the family, image axes.
    rotation : float
        Rotation of the crystal [rad].
    extent : float
        Side of the patch [Å].
    layers : int
        Thickness; `Material.layers` tells how many make how many nanometres.
    origin : (2,)
        Where the beam is within the cell, in fractions of its vectors.

    Returns
    -------
    ase.Atoms
        In a cell of extent x extent x layers · spacing, the probe over its centre, each layer in the middle of its
        share of the height.

    Raises
    ------
    ValueError
        If the material is unknown or not that thick.
    """
    import ase

    crystal = material(name)
    crystal.check_layers(layers)
    cell = crystal.vectors @ crystals.deformation(np.asarray(strain), rotation).T
    # Farthest cell that reaches the patch's corner, whatever the cell's shape.
    reach = int(np.ceil(extent / np.sqrt(2) * np.linalg.norm(np.linalg.inv(cell), axis=0).max())) + 2
    corners = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    symbols: list[str] = []
    positions: list[np.ndarray] = []
    for site in crystal.sites:
        plane = (corners + np.array([site.x - origin[0], site.y - origin[1]])) @ cell
        plane = plane[(np.abs(plane) < extent / 2).all(axis=1)] + extent / 2
        for layer in range(site.layer, layers, crystal.period):
            z = (layer + 0.5) * crystal.spacing + site.z
            symbols += [site.symbol] * len(plane)
            positions.append(np.column_stack([plane, np.full(len(plane), z)]))
    height = layers * crystal.spacing
    return ase.Atoms(symbols, positions=np.vstack(positions), cell=[extent, extent, height], pbc=True)
