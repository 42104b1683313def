"""Where a lattice's disks are expected on the detector, many patterns at once, and how their places give the lattice.

A reflection g of the reference lattice arrives at ``c + D R A g / s``: c the beam's place [pixels], D the projector's
distortion, R a rotation that is known well enough, A near to one, s the size of a pixel [1/Å]. The crystal's
deformation is ``F = (R A)^-T``. Displacements of disks are linear in A and c, so that weighted least squares gives both
and their covariance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from .materials import material
from .projected_lattice import primitive, reciprocal, spots

#: Reflections of a pattern that the network looks at, at most, and how far out [1/Å].
SPOTS, G_MAX = 48, 1.15
#: Least squares has A - 1 times this length [pixels] for unknowns, so that all are of order one.
SCALE = 32.0
#: Standard deviations beforehand: strain, what the rotation may be off [rad], what the beam may be off [pixels].
PRIOR_SD = (0.026, 0.1, 3.0)


@dataclass(frozen=True)
class Beams:
    """What is known of each of `b` patterns beforehand, and of which material it is supposed to be."""

    material: Tensor  #: (b,) int64, index of the supposed material
    spots: Tensor  #: (b, g, 2) its reflections, the direct beam first [1/Å]
    listed: Tensor  #: (b, g) bool, false where `spots` is only filled up
    cell: Tensor  #: (b, 2, 2) the two vectors, as rows, whose sums the reflections are [1/Å]
    energy_keV: Tensor  #: (b,)
    semiangle_mrad: Tensor  #: (b,)
    pixel: Tensor  #: (b,) [1/Å]
    radius: Tensor  #: (b,) of a disk [pixels]
    psf_px: Tensor  #: (b,) standard deviation of the point spread [pixels]
    distortion: Tensor  #: (b, 2, 2)

    def __getitem__(self, which) -> Beams:
        return Beams(**{name: getattr(self, name)[which] for name in self.__dataclass_fields__})

    @staticmethod
    def joined(parts: list[Beams]) -> Beams:
        """Several as one."""
        return Beams(**{n: torch.cat([getattr(p, n) for p in parts]) for n in Beams.__dataclass_fields__})


@dataclass(frozen=True)
class Lattice:
    """A lattice on the detector."""

    turn: Tensor  #: (b, 2, 2) the rotation R
    affine: Tensor  #: (b, 2, 2) A
    centre: Tensor  #: (b, 2) where the beam arrives [pixels from the frame's first]

    def __getitem__(self, which) -> Lattice:
        return Lattice(self.turn[which], self.affine[which], self.centre[which])

    @staticmethod
    def joined(parts: list[Lattice]) -> Lattice:
        """Several as one."""
        return Lattice(*(torch.cat([getattr(p, n) for p in parts]) for n in Lattice.__dataclass_fields__))

    def to_pixels(self, beams: Beams) -> Tensor:
        """What takes reflections [1/Å] to pixels from the centre, (b, 2, 2)."""
        return beams.distortion @ self.turn @ self.affine / beams.pixel[:, None, None]

    def places(self, beams: Beams) -> Tensor:
        """Where the disks are (b, g, 2) [pixels]."""
        return self.centre[:, None] + beams.spots @ self.to_pixels(beams).transpose(1, 2)

    @staticmethod
    def of(deformation: Tensor, turn: Tensor, centre: Tensor) -> Lattice:
        """The lattice of crystals deformed by F (b, 2, 2), seen from the rotation `turn`."""
        return Lattice(turn, turn.transpose(1, 2) @ inverse(deformation).transpose(1, 2), centre)


def inverse(matrix: Tensor) -> Tensor:
    """Of matrices (..., 2, 2), in closed form: a GPU need not wait for a factorisation's verdict."""
    (a, b), (c, d) = (row.unbind(-1) for row in matrix.unbind(-2))
    adjugate = torch.stack((torch.stack((d, -b), -1), torch.stack((-c, a), -1)), -2)
    return adjugate / (a * d - b * c)[..., None, None]


def rotations(angle: Tensor) -> Tensor:
    """Counter-clockwise rotations (...,) [rad] as matrices (..., 2, 2)."""
    c, s = torch.cos(angle), torch.sin(angle)
    return torch.stack((torch.stack((c, -s), -1), torch.stack((s, c), -1)), -2)


@cache
def listed_spots(name: str, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Reflections of a material that the network looks at, (SPOTS, 2) [1/Å], which of the list are some, their cell."""
    crystal = material(name)
    g = spots(crystal, G_MAX)[:SPOTS]
    cell = torch.tensor(reciprocal(primitive(crystal)), dtype=torch.float32)
    filled = torch.zeros(SPOTS, 2)
    filled[: len(g)] = torch.tensor(g, dtype=torch.float32)
    return filled.to(device), (torch.arange(SPOTS) < len(g)).to(device), cell.to(device)


def supposed(beams: Beams, index: int, name: str) -> Beams:
    """The same beams with another material supposed, number `index` of the network's."""
    g, listed, cell = listed_spots(name, beams.pixel.device)
    b = len(beams.pixel)
    return Beams(
        **{
            **beams.__dict__,
            "material": torch.full_like(beams.material, index),
            "spots": g.expand(b, -1, -1),
            "listed": listed.expand(b, -1),
            "cell": cell.expand(b, -1, -1),
        }
    )


def _design(beams: Beams) -> Tensor:
    """Displacements (b, g, 2) [pixels] by the unknowns, (b, g, 2, 6): the rows of A times `SCALE`, and the centre."""
    g = beams.spots / beams.pixel[:, None, None] / SCALE
    zero, one = torch.zeros_like(g), torch.ones_like(g[..., :1])
    nought = torch.zeros_like(one)
    return torch.stack((torch.cat((g, zero, one, nought), -1), torch.cat((zero, g, nought, one), -1)), -2)


@cache
def _beforehand(device: torch.device) -> tuple[Tensor, Tensor]:
    """Precision (6, 6) of the unknowns before anything was measured, and the symmetric unknowns' projector."""
    strain, turn, centre = PRIOR_SD
    modes = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 1], [0, 0.5, 0.5, 0], [0, -0.5, 0.5, 0]])
    sd = torch.tensor([strain, strain, strain, turn]) * SCALE
    precision = torch.zeros(6, 6)
    precision[:4, :4] = (modes / sd[:, None]).T @ (modes / sd[:, None])
    precision[4:, 4:] = torch.eye(2) / centre**2
    keep = torch.zeros(6, 6)
    keep[:4, :4] = torch.linalg.inv(modes)[:, :3] @ modes[:3]
    return precision.to(device), keep.to(device)


def solve(beams: Beams, lattice: Lattice, displacement: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted least squares of what was measured of the disks.

    Parameters
    ----------
    beams : Beams
    lattice : Lattice
        Where the disks were expected.
    displacement : Tensor (b, g, 2)
        Of the disks from there, turned back by the lattice's rotation, without distortion [pixels].
    precision : Tensor (b, g, 2, 2)
        Inverse covariance of each; zero where nothing was measured.

    Returns
    -------
    unknowns : Tensor (b, 6)
        How A and c differ from `lattice`: the rows of A times `SCALE`, and the centre, turned back likewise [pixels].
    covariance : Tensor (b, 6, 6)
    """
    design = _design(beams)
    beforehand, symmetric = _beforehand(displacement.device)
    # Only the strain is known beforehand to be near zero, wherever the search has put the lattice.
    off = (lattice.affine - torch.eye(2, device=displacement.device)).reshape(-1, 4) * SCALE
    off = torch.cat((off, torch.zeros_like(off[:, :2])), 1) @ symmetric.T
    weighted = precision @ design
    information = torch.einsum("bgij,bgik->bjk", design, weighted) + beforehand
    pull = torch.einsum("bgij,bgi->bj", weighted, displacement) - off @ beforehand
    covariance = torch.linalg.inv_ex(information).inverse
    covariance = (covariance + covariance.transpose(1, 2)) / 2
    return (covariance @ pull[..., None])[..., 0], covariance


def residuals(beams: Beams, displacement: Tensor, unknowns: Tensor) -> Tensor:
    """What displacements (b, g, 2) of disks leave unexplained by `unknowns` (b, 6) of `solve` [pixels]."""
    return displacement - torch.einsum("bgij,bj->bgi", _design(beams), unknowns)


def moved(beams: Beams, lattice: Lattice, unknowns: Tensor) -> Lattice:
    """The lattice with `unknowns` (b, 6) of `solve` put in."""
    affine = lattice.affine + unknowns[:, :4].reshape(-1, 2, 2) / SCALE
    shift = beams.distortion @ lattice.turn @ unknowns[:, 4:, None]
    return replace(lattice, affine=affine, centre=lattice.centre + shift[..., 0])


def difference(beams: Beams, lattice: Lattice, other: Lattice) -> Tensor:
    """What `moved` would have to put in, (b, 6), to make `other` of `lattice`; both have the same rotation."""
    affine = (other.affine - lattice.affine).reshape(-1, 4) * SCALE
    bent = beams.distortion @ lattice.turn
    shift = (inverse(bent) @ (other.centre - lattice.centre)[..., None])[..., 0]
    return torch.cat((affine, shift), 1)


def strain_of(lattice: Lattice, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Strain and rotation.

    Parameters
    ----------
    lattice : Lattice
    covariance : Tensor (b, 6, 6)
        Of the unknowns of `solve`.

    Returns
    -------
    strain : Tensor (b, 3)
        exx, eyy, exy, image axes, float64.
    rotation : Tensor (b,)
        [rad]
    covariance : Tensor (b, 4, 4)
        Of exx, eyy, exy, rotation; to first order, since ``dF F^-1 = -F dAᵀ Rᵀ``.
    """
    turn, affine = lattice.turn.double(), lattice.affine.double()
    deformation = torch.linalg.inv(turn @ affine).transpose(1, 2)
    square = deformation @ deformation.transpose(1, 2)
    # Square root of a symmetric 2 × 2 matrix, by Cayley and Hamilton.
    root = torch.linalg.det(square).sqrt()[:, None, None]
    trace = square.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    stretch = (square + root * torch.eye(2, dtype=torch.float64, device=root.device)) / (trace + 2 * root).sqrt()
    rigid = torch.linalg.solve(stretch, deformation)
    rotation = torch.atan2(rigid[:, 1, 0], rigid[:, 0, 0])
    strain = torch.stack((stretch[:, 0, 0] - 1, stretch[:, 1, 1] - 1, stretch[:, 0, 1]), -1)
    unit = torch.eye(4, dtype=torch.float64, device=root.device).reshape(4, 2, 2) / SCALE
    change = -torch.einsum("bij,klj,bml->bkim", deformation, unit, turn)
    rows = torch.stack(
        (
            change[..., 0, 0],
            change[..., 1, 1],
            (change[..., 0, 1] + change[..., 1, 0]) / 2,
            (change[..., 1, 0] - change[..., 0, 1]) / 2,
        ),
        1,
    )
    return strain, rotation, rows @ covariance[:, :4, :4].double() @ rows.transpose(1, 2)
