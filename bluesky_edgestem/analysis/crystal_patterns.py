"""Patterns for the crystal network: conditions drawn at random, rendered from tables of disks, counted with noise.

Conditions are split before anything is drawn from them: by thickness and by how large disks are against their distance.
What the network is judged on has a thickness and a convergence that neither its training nor its calibration had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from . import crystals
from .disk_rendering import DeviceTable, render
from .lattice_search import without_hot_pixels
from .lattice_view import SPOTS, Beams, Lattice, rotations, supposed
from .materials import material
from .optics import Optics
from .projected_lattice import first_order, symmetry, wrapped

N_PIXELS = 128
STRAIN = (0.03, 0.03, 0.02)  #: exx, eyy, exy up to
SHIFT_PX, MISTILT, ELLIPTICITY = 3.0, 5.0, 0.02
THICKNESS = (5.0, 40.0)  #: of crystals that are not sheets [nm]
SEMIANGLE = (0.8, 5.0)  #: [mrad]
#: Disks' radius over the distance of the nearest; at 0.5 they touch.
RATIO = (0.06, 0.42)
DOSE, BACKGROUND, PSF = (1e3, 1e6), 0.7, (0.4, 1.0)

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
        columns = {n: [getattr(p, n) for p in parts] for n in Drawn.__dataclass_fields__}
        return Drawn(**{n: Beams.joined(c) if n == "beams" else torch.cat(c) for n, c in columns.items()})

    def cleaned(self) -> Drawn:
        """The same without hot pixels."""
        return replace(self, counts=without_hot_pixels(self.counts))

    def noisy_again(self, generator: torch.Generator) -> Drawn:
        """The same conditions with noise drawn anew, on a detector without defects."""
        return replace(self, counts=torch.poisson(self.expected * self.dose[:, None, None], generator))

    def lattice(self, angle: Tensor) -> Lattice:
        """The true lattice, seen from a rotation by `angle` (b,) [rad] that is equivalent to nearly the true one."""
        return Lattice.of(self.deformation, rotations(angle), self.centre)


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


def _split_thickness(rng, name: str, split: str, n: int) -> np.ndarray:
    """Thicknesses in layers (n,)."""
    crystal = material(name)
    if crystal.max_layers <= 3:
        return rng.integers(1, crystal.max_layers + 1, n).astype(float)
    return _banded(rng, *THICKNESS, 8.0, 0, split, n) * 10 / crystal.spacing


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
) -> Drawn:
    """Patterns of one material at one energy.

    Parameters
    ----------
    table : DeviceTable
    materials : sequence of str
        The network's, whose numbers `Beams.material` are.
    count : int
        Patterns.
    rng, generator
        Settle the conditions, and the noise on the device.
    split : str
        "training", "calibration" or "held out".
    foreign : bool
        Make crystals of other lattices that do not exist, of the disks of this.
    dose : float, optional
        Of all patterns [electrons]; drawn if not given.
    """
    name, device = table.name, table.intensity.device
    crystal, g1, wavelength = material(name), first_order(material(name)), Optics(table.energy_keV).wavelength
    edge = rng.uniform(max(2.1 * g1, 0.55), 1.12, count)
    pixel = edge / (N_PIXELS / 2)
    narrow, wide = (np.array([a * 1e-3 / wavelength / g1 for a in SEMIANGLE])).clip(*RATIO)
    narrow = max(narrow, 1.7 * 1.12 / (N_PIXELS / 2) / g1)
    ratio = _banded(rng, narrow, min(wide, 0.36) if foreign else wide, 0.1, 1, split, count)
    cutoff = ratio * g1
    layers = _split_thickness(rng, name, split, count)
    strain = rng.uniform(-1, 1, (count, 3)) * STRAIN
    rotation = rng.uniform(-np.pi, np.pi, count)
    deformation = crystals.deformation(strain, rotation)
    tilt = MISTILT * np.sqrt(rng.uniform(0, 1, count))
    tilt = np.minimum(tilt, (table.reach / 1.04 - cutoff - pixel) * wavelength * 1e3)
    azimuth = rng.uniform(0, 2 * np.pi, count)
    tilt = tilt[:, None] * np.stack((np.cos(azimuth), np.sin(azimuth)), -1)
    shift = rng.uniform(-SHIFT_PX, SHIFT_PX, (count, 2))
    long, axis = rng.uniform(0, ELLIPTICITY / 2, count), rng.uniform(0, np.pi, count)
    turn = crystals.rotation_matrix(axis)
    stretch = np.zeros((count, 2, 2))
    stretch[:, 0, 0], stretch[:, 1, 1] = 1 + long, 1 - long
    distortion = turn @ stretch @ np.swapaxes(turn, 1, 2)
    psf = rng.uniform(*PSF, count)
    background = np.where(rng.uniform(size=count) < 0.15, 0.0, rng.uniform(0, BACKGROUND, count))
    width = N_PIXELS / 4 * np.exp(rng.normal(0, 0.2, count))
    electrons = 10 ** rng.uniform(*np.log10(DOSE), count) if dose is None else np.full(count, dose)
    other = None
    if foreign:
        scale = np.where(rng.uniform(size=count) < 0.8, rng.uniform(0.72, 0.92, count), rng.uniform(1.07, 1.15, count))
        other = scale[:, None, None] * (np.eye(2) + crystals.strain_tensor(rng.uniform(-0.08, 0.08, (count, 3))))

    def tensor(values) -> Tensor:
        return torch.tensor(np.asarray(values), dtype=torch.float32, device=device)

    sharp = render(
        table, N_PIXELS, tensor(deformation), tensor(layers), tensor(shift), tensor(tilt * 1e-3 / wavelength),
        tensor(distortion), tensor(cutoff), tensor(pixel), None if other is None else tensor(other),
    )  # fmt: skip
    share, centre = tensor(background)[:, None, None], tensor(shift) + (N_PIXELS - 1) / 2
    expected = (1 - share) * blurred(sharp, tensor(psf)) + share * lorentzian(centre, tensor(width), N_PIXELS)
    counts = torch.poisson(expected * tensor(electrons)[:, None, None], generator)
    counts = _defective(counts, tensor(rng.uniform(size=count) < 0.5), generator)
    beams = Beams(
        torch.zeros(count, dtype=torch.int64, device=device),
        torch.zeros(count, SPOTS, 2, device=device),
        torch.zeros(count, SPOTS, dtype=torch.bool, device=device),
        tensor(np.full(count, table.energy_keV)),
        tensor(cutoff * wavelength * 1e3),
        tensor(pixel),
        tensor(cutoff / pixel),
        tensor(psf),
        tensor(distortion),
    )
    if name in materials:
        beams = supposed(beams, materials.index(name), name)
    known = wrapped(rotation, symmetry(crystal))
    return Drawn(
        counts, beams, tensor(crystals.deformation(strain, known)), tensor(strain), tensor(known), centre,
        tensor(layers * crystal.spacing / 10), tensor(tilt), tensor(electrons), expected,
    )  # fmt: skip


def _defective(counts: Tensor, worn: Tensor, generator: torch.Generator) -> Tensor:
    """Counts of detectors of which those `worn` (b,) have dead and hot pixels, as `PixelDefects.draw` has them."""

    def uniform() -> Tensor:
        return torch.rand(counts.shape, generator=generator, device=counts.device)

    worn = worn[:, None, None]
    hot = (uniform() < 5e-4 * worn) * -100 * torch.log(uniform().clamp(min=1e-12))
    counts = counts + torch.poisson(hot, generator)
    return counts * (uniform() >= 1e-3 * worn)
