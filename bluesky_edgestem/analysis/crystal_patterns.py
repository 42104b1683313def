"""Patterns for the crystal network: conditions drawn at random, rendered from tables of disks, counted with noise.

Conditions are split before anything is drawn from them: by thickness and by how large disks are against their distance.
What the network is judged on has a thickness and a convergence that neither its training nor its calibration had.

What a microscope may do to a pattern is as in `pattern_draws`, which draws for files, one after the other, with what
rendering in batches leaves out: diffuse scattering, and what only a surface shows. Strain goes further here, and disks
are larger or smaller against the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import crystals
from .crystal_search import without_hot_pixels
from .disk_rendering import DeviceTable, render
from .lattice_view import SPOTS, Beams, Lattice, rotations, supposed
from .materials import material
from .optics import Optics
from .pattern_draws import BACKGROUND, DOSE, ELLIPTICITY, MISTILT, SEMIANGLE, SHIFT, THICKNESS
from .projected_lattice import first_order, symmetry

N_PIXELS = 128
STRAIN = (0.03, 0.03, 0.02)  #: exx, eyy, exy up to
EDGE = (0.55, 1.12)  #: distance of the frame's edge from its centre [1/Å]
LEAST_RADIUS_PX = 1.7  #: of disks
#: Disks' radius over the distance of the nearest; at 0.5 they touch.
RATIO = (0.06, 0.42)
PSF = (0.4, 1.0)  #: [pixels]

#: Which part of each 8 nm of thickness, and of each 0.1 of the ratio, is kept for what.
BANDS = {"held out": ((3.0, 4.0), (0.03, 0.05)), "calibration": ((7.0, 8.0), (0.08, 0.10))}


@dataclass(frozen=True)
class Drawn:
    """`b` patterns with their truth."""

    counts: Tensor  #: (b, n, n) float32
    beams: Beams  #: what is known of them, supposed that they are what they are
    deformation: Tensor  #: (b, 2, 2) with the rotation below, not the symmetrically equivalent one that was drawn
    strain: Tensor  #: (b, 3)
    rotation: Tensor  #: (b,) [rad]
    period: Tensor  #: (b,) after which rotations are equivalent [rad]
    centre: Tensor  #: (b, 2) of the beam [pixels from the frame's first]
    thickness: Tensor  #: (b,) [nm]
    tilt: Tensor  #: (b, 2) [mrad]
    dose: Tensor  #: (b,)
    expected: Tensor  #: (b, n, n) counts without noise and defects, an electron in all

    def __getitem__(self, which) -> Drawn:
        return Drawn(**{name: getattr(self, name)[which] for name in self.__dataclass_fields__})

    @staticmethod
    def joined(parts: list[Drawn]) -> Drawn:
        """Several as one."""
        columns: dict[str, Any] = {
            n: (Beams.joined if n == "beams" else torch.cat)([getattr(p, n) for p in parts])
            for n in Drawn.__dataclass_fields__
        }
        return Drawn(**columns)

    def cleaned(self) -> Drawn:
        """The same without hot pixels."""
        return replace(self, counts=without_hot_pixels(self.counts))

    def noisy_again(self, generator: torch.Generator) -> Drawn:
        """The same conditions with noise drawn anew, on a detector without defects."""
        return replace(self, counts=torch.poisson(self.expected * self.dose[:, None, None], generator))

    def lattice(self, angle: Tensor) -> Lattice:
        """The true lattice, seen from a rotation by `angle` (b,) [rad]; of the equivalent ones that nearest to it."""
        turns = torch.round((angle - self.rotation) / self.period) * self.period
        return Lattice.of(self.deformation @ rotations(turns), rotations(angle), self.centre)


def _banded(rng: np.random.Generator, low: float, high: float, period: float, which: int, split: str, n: int):
    """Draws between `low` and `high` within the split's bands."""
    kept = np.empty(0)
    while len(kept) < n:
        drawn = rng.uniform(low, high, 4 * n + 64)
        place = np.mod(drawn, period)
        within = {name: (bands[which][0] <= place) & (place < bands[which][1]) for name, bands in BANDS.items()}
        chosen = within[split] if split in within else ~np.logical_or.reduce(list(within.values()))
        kept = np.concatenate((kept, drawn[chosen]))
    return kept[:n]


def lorentzian(centre: Tensor, width: Tensor, n: int) -> Tensor:
    """The diffuse background (b, n, n) around `centre` (b, 2) [pixels from the first]; sums to one."""
    axis = torch.arange(n, device=centre.device)
    away = (axis - centre[:, 0, None])[:, None, :] ** 2 + (axis - centre[:, 1, None])[:, :, None] ** 2
    image = 1 / (1 + away / width[:, None, None] ** 2)
    return image / image.sum((1, 2), keepdim=True)


def blurred(images: Tensor, sd: Tensor) -> Tensor:
    """Images (b, n, n) after a Gaussian point spread of `sd` (b,) [pixels] each."""
    offsets = torch.arange(-5, 6, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sd[:, None].clamp(min=1e-3)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True))[:, None]
    out = images[None]
    for shaped, pad in ((kernel[:, :, None, :], (0, 5)), (kernel[:, :, :, None], (5, 0))):
        out = torch.nn.functional.conv2d(out, shaped, padding=pad, groups=len(images))
    return out[0]


@dataclass(frozen=True)
class Conditions:
    """What settles `b` patterns of one material at one energy, but for their noise."""

    strain: Tensor  #: (b, 3)
    rotation: Tensor  #: (b,) [rad]
    layers: Tensor  #: (b,)
    shift_px: Tensor  #: (b, 2) [pixels]
    tilt: Tensor  #: (b, 2) [1/Å]
    distortion: Tensor  #: (b, 2, 2)
    cutoff: Tensor  #: (b,) [1/Å]
    pixel: Tensor  #: (b,) [1/Å]
    psf_px: Tensor  #: (b,)
    background: Tensor  #: (b,) share of the electrons
    width: Tensor  #: (b,) of the background [pixels]
    lattice: Tensor | None = None  #: (b, 2, 2), as of `disk_rendering.render`

    @property
    def deformation(self) -> Tensor:
        """F, (b, 2, 2)."""
        exx, eyy, exy = self.strain.unbind(-1)
        stretch = torch.stack((1 + exx, exy, exy, 1 + eyy), -1).reshape(-1, 2, 2)
        return stretch @ rotations(self.rotation)

    def expected(self, table: DeviceTable) -> Tensor:
        """Counts without noise and defects of an electron in all, (b, N_PIXELS, N_PIXELS)."""
        sharp = render(
            table, N_PIXELS, self.deformation, self.layers, self.shift_px, self.tilt, self.distortion, self.cutoff,
            self.pixel, self.lattice,
        )  # fmt: skip
        share, centre = self.background[:, None, None], self.shift_px + (N_PIXELS - 1) / 2
        return (1 - share) * blurred(sharp, self.psf_px) + share * lorentzian(centre, self.width, N_PIXELS)


def conditions(
    table: DeviceTable, count: int, rng: np.random.Generator, split: str = "training", *, foreign: bool = False
) -> Conditions:
    """Conditions of one material at one energy.

    Parameters
    ----------
    table : DeviceTable
    count : int
    rng : Generator
    split : str
        "training", "calibration" or "held out".
    foreign : bool
        Crystals that do not exist, of other lattices with the disks of this.
    """
    crystal, g1 = material(table.name), first_order(material(table.name))
    wavelength = Optics(table.energy_keV).wavelength
    pixel = rng.uniform(max(2.1 * g1, EDGE[0]), EDGE[1], count) / (N_PIXELS / 2)
    narrow, wide = (np.array(SEMIANGLE) * 1e-3 / wavelength / g1).clip(*RATIO)
    narrow = max(narrow, LEAST_RADIUS_PX * EDGE[1] / (N_PIXELS / 2) / g1)
    ratio = _banded(rng, narrow, min(wide, 0.36) if foreign else wide, 0.1, 1, split, count)
    cutoff = ratio * g1
    if crystal.max_layers <= 3:
        layers = rng.integers(1, crystal.max_layers + 1, count).astype(float)
    else:
        layers = _banded(rng, *THICKNESS, 8.0, 0, split, count) * 10 / crystal.spacing
    tilt = MISTILT * 1e-3 / wavelength * np.sqrt(rng.uniform(0, 1, count))
    tilt = np.minimum(tilt, table.reach / 1.04 - cutoff - pixel)
    azimuth = rng.uniform(0, 2 * np.pi, count)
    axis = crystals.rotation_matrix(rng.uniform(0, np.pi, count))
    stretch = np.eye(2) + np.array([[1, 0], [0, -1]]) * rng.uniform(0, ELLIPTICITY / 2, count)[:, None, None]
    other = None
    if foreign:
        scale = np.where(rng.uniform(size=count) < 0.8, rng.uniform(0.72, 0.92, count), rng.uniform(1.07, 1.15, count))
        other = scale[:, None, None] * (np.eye(2) + crystals.strain_tensor(rng.uniform(-0.08, 0.08, (count, 3))))
    drawn = (
        rng.uniform(-1, 1, (count, 3)) * STRAIN,
        rng.uniform(-np.pi, np.pi, count),
        layers,
        rng.uniform(-SHIFT, SHIFT, (count, 2)),
        tilt[:, None] * np.stack((np.cos(azimuth), np.sin(azimuth)), -1),
        axis @ stretch @ np.swapaxes(axis, 1, 2),
        cutoff,
        pixel,
        rng.uniform(*PSF, count),
        np.where(rng.uniform(size=count) < 0.15, 0.0, rng.uniform(0, BACKGROUND, count)),
        N_PIXELS / 4 * np.exp(rng.normal(0, 0.2, count)),
    )
    return Conditions(*(_tensor(v, table) for v in drawn), lattice=None if other is None else _tensor(other, table))


def _tensor(values: np.ndarray, table: DeviceTable) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=table.intensity.device)


def count_electrons(
    table: DeviceTable,
    materials: Sequence[str],
    under: Conditions,
    dose: Tensor,
    generator: torch.Generator,
) -> Drawn:
    """Patterns of given conditions at doses (b,), half of them on detectors with defects.

    `materials` are the network's, whose numbers `Beams.material` are; a table of none of them is a foreign crystal's,
    and its beams suppose nothing yet.
    """
    crystal, wavelength = material(table.name), Optics(table.energy_keV).wavelength
    expected = under.expected(table)
    counts = torch.poisson(expected * dose[:, None, None], generator)
    b, device = len(dose), dose.device
    counts = _defective(counts, torch.rand(b, generator=generator, device=device) < 0.5, generator)
    beams = Beams(
        torch.zeros(b, dtype=torch.int64, device=device),
        torch.zeros(b, SPOTS, 2, device=device),
        torch.zeros(b, SPOTS, dtype=torch.bool, device=device),
        torch.eye(2, device=device).expand(b, 2, 2),
        torch.full((b,), table.energy_keV, device=device),
        under.cutoff * wavelength * 1e3,
        under.pixel,
        under.cutoff / under.pixel,
        under.psf_px,
        under.distortion,
    )
    if table.name in materials:
        beams = supposed(beams, materials.index(table.name), table.name)
    period = 2 * torch.pi / symmetry(crystal)
    rotation = under.rotation - period * torch.ceil(under.rotation / period - 0.5)
    return Drawn(
        counts, beams, replace(under, rotation=rotation).deformation, under.strain, rotation,
        torch.full_like(rotation, period),
        under.shift_px + (N_PIXELS - 1) / 2, under.layers * crystal.spacing / 10, under.tilt * wavelength * 1e3, dose,
        expected,
    )  # fmt: skip


def draw(
    table: DeviceTable,
    materials: Sequence[str],
    count: int,
    rng: np.random.Generator,
    generator: torch.Generator,
    split: str = "training",
    *,
    foreign: bool = False,
    dose: float | None = None,
    lowest: float = DOSE[0],
) -> Drawn:
    """Patterns of `conditions`, at a dose of [electrons] or, if it is not given, doses drawn from `lowest` on."""
    under = conditions(table, count, rng, split, foreign=foreign)
    electrons = 10 ** rng.uniform(np.log10(lowest), np.log10(DOSE[1]), count) if dose is None else np.full(count, dose)
    return count_electrons(table, materials, under, _tensor(electrons, table), generator)


def _defective(counts: Tensor, worn: Tensor, generator: torch.Generator) -> Tensor:
    """Counts of detectors of which those `worn` (b,) have dead and hot pixels, as `PixelDefects.draw` has them."""

    def uniform() -> Tensor:
        return torch.rand(counts.shape, generator=generator, device=counts.device)

    worn = worn[:, None, None]
    hot = (uniform() < 5e-4 * worn) * -100 * torch.log(uniform().clamp(min=1e-12))
    counts = counts + torch.poisson(hot, generator)
    return counts * (uniform() >= 1e-3 * worn)
