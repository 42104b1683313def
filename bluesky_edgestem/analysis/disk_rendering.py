"""Many patterns of deformed crystals at once, in torch: what `disk_patterns.compose` does for one, on any device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .disk_patterns import EDGE_SAMPLES
from .disk_tables import DiskTable
from .lattice_view import inverse
from .materials import material
from .projected_lattice import primitive

_QUADRANT = EDGE_SAMPLES // 2


@dataclass(frozen=True)
class Fills:
    """What is in the disks of `b` crystals, and how it changes."""

    intensity: Tensor  #: (b, g, k, k)
    by_layers: Tensor  #: (b, g, k, k)
    by_strain: Tensor | None = None  #: (3, b, g, k, k) by exx, eyy, exy in the crystal's axes; None: not known


@dataclass(frozen=True, eq=False)
class DeviceTable:
    """A table of disks as tensors; what only a surface shows (`projected_lattice.primitive`) is left out."""

    name: str
    energy_keV: float
    layers: np.ndarray  #: (t,)
    intensity: Tensor  #: (t, g, k, k) float32
    reflections: Tensor  #: (g, 2) of the reference lattice [1/Å]
    vectors: Tensor  #: (2, 2) of the projected lattice, as rows [Å]
    #: (2r + 1, 2r + 1) int64: which reflection has indices h, k in the reciprocal of `vectors`; -1 for none. Indices
    #: start at -r.
    number: Tensor
    step: float  #: [1/Å]
    #: What the crystal's strain does to its disks (3, s, g, k, k) float32, as of `DiskTable`, at thicknesses (s,);
    #: None: the fill of a strained crystal is that of one without.
    by_strain: Tensor | None = None
    strained_layers: np.ndarray | None = None

    @classmethod
    def of(cls, table: DiskTable, device: torch.device | str = "cpu") -> DeviceTable:
        """A table, moved to a device."""
        crystal = material(table.material)
        vectors = primitive(crystal)
        g = table.reflections @ crystal.reciprocal
        index = g @ vectors.T
        shown = (np.abs(index - np.round(index)) < 1e-6).all(1)
        g, index = g[shown], np.round(index[shown]).astype(int)
        reach = int(np.abs(index).max()) + 1
        number = np.full((2 * reach + 1, 2 * reach + 1), -1)
        number[tuple((index + reach).T)] = np.arange(len(index))

        def tensor(values: np.ndarray) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        return cls(
            table.material,
            table.energy_keV,
            np.asarray(table.layers),
            tensor(table.intensity[:, shown]),
            tensor(g),
            tensor(vectors),
            torch.tensor(number, device=device),
            table.step,
            None if table.by_strain is None else tensor(table.by_strain[:, :, shown]),
            None if table.by_strain is None else np.asarray(table.layers),
        )

    @property
    def reach(self) -> float:
        """Largest |κ| that the table holds [1/Å]."""
        return (self.intensity.shape[-1] // 2 - 2) * self.step

    def at(self, layers: Tensor, strain: Tensor) -> Tensor:
        """Disks (b, g, k, k) at thicknesses (b,) in layers, between the table's by Lagrange's cubic.

        `strain` (b, 3) is exx, eyy, exy in the crystal's axes; see `own_strain`.
        """
        return self._weighed(self._weights(layers, strain)[0])

    def changing(self, layers: Tensor, strain: Tensor) -> Fills:
        """As `at`, with derivatives."""
        at, by_layers = self._weights(layers, strain)
        if self.by_strain is None or self.strained_layers is None:
            return Fills(self._weighed(at), self._weighed(by_layers))
        slopes = between(self.strained_layers, layers)[0] @ self.by_strain.flatten(2)
        by_strain = slopes.reshape(3, len(layers), *self.intensity.shape[1:])
        return Fills(self._weighed(at), self._weighed(by_layers), by_strain)

    def _weights(self, layers: Tensor, strain: Tensor) -> tuple[Tensor, Tensor]:
        """Of each part of `_all` (b, t + 3 s), and their derivatives by layers."""
        plain = between(self.layers, layers)
        if self.by_strain is None or self.strained_layers is None:
            return plain
        strained = between(self.strained_layers, layers)
        at, by_layers = (
            torch.cat((p, (strain[:, :, None] * s[:, None]).flatten(1)), 1)
            for p, s in zip(plain, strained, strict=True)
        )
        return at, by_layers

    def _weighed(self, weights: Tensor) -> Tensor:
        return (weights @ self._all).reshape(-1, *self.intensity.shape[1:])

    @cached_property
    def _all(self) -> Tensor:
        """Intensities, then derivatives by each strain where they are known, (t + 3 s, g k k)."""
        plain = self.intensity.flatten(1)
        return plain if self.by_strain is None else torch.cat((plain, self.by_strain.flatten(0, 1).flatten(1)))


def between(nodes: np.ndarray, at: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (b, t) of what is known at `nodes` (t,) for `at` (b,), Lagrange's cubic, and their slopes."""
    places = torch.tensor(nodes, dtype=torch.float32, device=at.device)
    count = min(4, len(places))
    first = (torch.searchsorted(places, at.contiguous()) - count // 2).clamp(0, len(places) - count)
    index = first[:, None] + torch.arange(count, device=at.device)
    x = places[index]
    weights, slopes = at.new_zeros(len(at), len(places)), at.new_zeros(len(at), len(places))
    for i in range(count):
        value, slope = torch.ones_like(at), torch.zeros_like(at)
        for j in (j for j in range(count) if j != i):
            scale = 1 / (x[:, i] - x[:, j])
            slope = (slope * (at - x[:, j]) + value) * scale
            value = value * (at - x[:, j]) * scale
        weights.scatter_(1, index[:, i : i + 1], value[:, None])
        slopes.scatter_(1, index[:, i : i + 1], slope[:, None])
    return weights, slopes


def own_strain(deformation: Tensor) -> Tensor:
    """Strain (b, 3) exx, eyy, exy in the crystal's own axes: of the right stretch U, ``F = R U``, to third order."""
    green = (deformation.transpose(1, 2) @ deformation - torch.eye(2, device=deformation.device)) / 2
    strain = green - green @ green / 2
    return torch.stack((strain[:, 0, 0], strain[:, 1, 1], strain[:, 0, 1]), -1)


def _cubic(t: Tensor) -> Tensor:
    """Catmull–Rom weights (..., 4) of the samples at -1, 0, 1, 2 for points at t in [0, 1)."""
    return torch.stack(
        (
            t * (-0.5 + t * (1.0 - 0.5 * t)),
            1.0 + t * t * (1.5 * t - 2.5),
            t * (0.5 + t * (2.0 - 1.5 * t)),
            t * t * (0.5 * t - 0.5),
        ),
        -1,
    )


def render(
    table: DeviceTable,
    n_pixels: int,
    deformation: Tensor,
    layers: Tensor,
    shift_px: Tensor,
    tilt: Tensor,
    distortion: Tensor,
    cutoff: Tensor,
    pixel: Tensor,
    lattice: Tensor | None = None,
) -> Tensor:
    """Patterns of a deformed crystal, each of its own beam and detector; disks must not overlap.

    Parameters
    ----------
    table : DeviceTable
        Disks of the material at the beam's energy.
    n_pixels : int
        Side of the frames.
    deformation : Tensor (b, 2, 2)
        ``F``, relative to the reference lattice.
    layers : Tensor (b,)
        Thickness; the table is read at ``layers / det F``.
    shift_px : Tensor (b, 2)
        Where the beam's axis meets the detector, from its centre [pixels].
    tilt : Tensor (b, 2)
        Mistilt [1/Å].
    distortion : Tensor (b, 2, 2)
        What the projector lenses make of the pattern, as in `compose`.
    cutoff, pixel : Tensor (b,)
        Radius of the aperture and size of a pixel [1/Å].
    lattice : Tensor (b, 2, 2), optional
        Deforms the places of the disks alone, not what is in them: crystals that do not exist.

    Returns
    -------
    Tensor (b, n, n)
        Probability that an electron arrives in each pixel.
    """
    b, device = len(layers), layers.device
    disks = table.at(layers / torch.linalg.det(deformation), own_strain(deformation))
    size, half = disks.shape[-1], disks.shape[-1] // 2
    to_table = deformation.transpose(1, 2)
    to_cell = (to_table if lattice is None else (lattice @ deformation).transpose(1, 2)).contiguous()
    from_cell = inverse(to_cell)
    to_kappa = inverse(distortion) * pixel[:, None, None]
    area = torch.linalg.det(to_kappa).abs()

    axis = torch.arange(n_pixels, device=device) - (n_pixels - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    place = torch.stack((x, y), -1).reshape(1, -1, 2) - shift_px[:, None]
    q = place @ to_kappa.transpose(1, 2)
    index = torch.round((q @ to_cell.transpose(1, 2)) @ table.vectors.T)
    middle = (index @ inverse(table.vectors).T) @ from_cell.transpose(1, 2)
    kappa = q - middle
    reach = table.number.shape[0] // 2
    inside = (index.abs() <= reach).all(-1)
    hk = index.long().clamp(-reach, reach) + reach
    which = torch.where(inside, table.number[hk[..., 0], hk[..., 1]], -1)
    near = (which >= 0) & (kappa.norm(dim=-1) < (cutoff + area.sqrt())[:, None])
    pattern, spot = near.nonzero(as_tuple=True)

    # Each quadrant of a pixel is looked up once, in the middle of what the aperture leaves of it.
    steps = (torch.arange(_QUADRANT, device=device) + 0.5) / EDGE_SAMPLES
    fine = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).reshape(-1, 2)
    out = torch.zeros(b * n_pixels**2, device=device)
    bent, soft, radius = to_kappa[pattern], area[pattern].sqrt() / EDGE_SAMPLES, cutoff[pattern]
    turn, base = to_table[pattern], ((pattern * disks.shape[1]) + which[pattern, spot]) * size * size
    value = torch.zeros(len(pattern), device=device)
    for corner in ((-0.5, -0.5), (0.0, -0.5), (-0.5, 0.0), (0.0, 0.0)):
        offsets = fine + torch.tensor(corner, device=device)
        points = offsets[:, :1] * bent[:, None, :, 0] + offsets[:, 1:] * bent[:, None, :, 1]
        points = kappa[pattern, spot][:, None] + points
        covered = (0.5 + (radius[:, None] - points.norm(dim=-1)) / soft[:, None]).clamp(0, 1)
        total = covered.sum(1)
        centre = (points * covered[..., None]).sum(1) / total.clamp(min=1e-6)[:, None] - tilt[pattern]
        at = (turn * centre[:, None]).sum(-1) / table.step + half
        at = at.clamp(1, size - 2.001)
        whole = at.floor()
        wx, wy = _cubic(at[:, 0] - whole[:, 0]), _cubic(at[:, 1] - whole[:, 1])
        ix, iy = whole.long().unbind(-1)
        steps4 = torch.arange(-1, 3, device=device)
        taps = base[:, None, None] + (iy[:, None] + steps4)[:, :, None] * size + (ix[:, None] + steps4)[:, None, :]
        looked = disks.reshape(-1)[taps.clamp(0, disks.numel() - 1)]
        looked = ((looked * wx[:, None]).sum(2) * wy).sum(1)
        value += looked.clamp(min=0) * total / EDGE_SAMPLES**2
    out[pattern * n_pixels**2 + spot] = value * (area / (torch.pi * cutoff**2))[pattern]
    return out.reshape(b, n_pixels, n_pixels)
