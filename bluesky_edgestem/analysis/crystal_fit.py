"""The likelihood of a pattern, given the disks of its crystal: climbed from where the crystal network puts the lattice.

The network finds the lattice; thickness and mistilt it knows roughly. What the electrons in each quarter of each disk
say of those two is held against all that the table of disks knows, and from the best few of them Fisher scoring climbs
the Poisson likelihood in all unknowns together: lattice, thickness, mistilt, electrons, background.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .crystal_patterns import MISTILT
from .disk_rates import UNKNOWNS, CrystalState, Folded, folded, lorentzian, rates
from .disk_rendering import DeviceTable
from .lattice_view import SCALE, Beams, Lattice, moved
from .optics import Optics

#: Places from which the likelihood is climbed, steps of each, and of the best of them on.
STARTS, FIRST, MORE = 3, 2, 5
#: Standard deviations beforehand: strain, rotation from the search's [rad], mistilt [mrad], logarithm of the width,
#: variance of the point spread from what the optics say [pixels²].
PRIOR = (0.03, 0.1, 3.0, 0.3, 0.2)
#: Part of the mean count that is added to counts and rates alike: where next to nothing is expected, how little says
#: more of the aperture's edge than of the crystal.
LIFT = 0.02
#: A quarter of a disk may be off by this part of itself before thickness and mistilt are known exactly.
ROUGH = 0.15
#: Widths of the background that are tried first, over a quarter of the frame's side.
WIDTHS = (0.65, 1.0, 1.5)


@dataclass(frozen=True)
class Fitted:
    """Where the likelihood of `b` patterns is largest."""

    state: CrystalState
    expected: Tensor  #: (b, n²)
    slopes: Tensor  #: (b, UNKNOWNS, n²)
    height: Tensor  #: (b,) log-likelihood, with what is known beforehand
    folded: Folded
    lift: Tensor  #: (b, 1) `LIFT` of the mean count

    def covariance(self, beams: Beams, seen: Tensor) -> Tensor:
        """Of the unknowns (b, UNKNOWNS, UNKNOWNS), float64, with what is known beforehand."""
        precision, _ = _beforehand(beams, self.state)
        counted = _information(self.slopes, self.expected + self.lift, seen.flatten(1))
        information = counted + torch.diag_embed(precision)
        scale = information.diagonal(dim1=1, dim2=2).clamp(min=1e-20).sqrt().double()
        unit = information.double() / scale[:, :, None] / scale[:, None]
        unit = unit + 1e-9 * torch.eye(UNKNOWNS, dtype=torch.float64, device=unit.device)
        return torch.linalg.inv_ex(unit).inverse / scale[:, :, None] / scale[:, None]


def seen_pixels(counts: Tensor) -> Tensor:
    """1 where pixels of counts (b, n, n) work, 0 where one shows nothing though all eight around it do."""
    n, m = counts.shape[1:]
    padded = torch.nn.functional.pad(counts[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    around = [padded[:, i : i + n, j : j + m] for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    faintest, total = around[0], around[0]
    for image in around[1:]:
        # All of them: beside a disk's edge, where nothing is expected, only some do.
        faintest, total = torch.minimum(faintest, image), total + image
    return 1 - ((counts == 0) & (faintest > 0) & (total > 8 * 9)).to(counts.dtype)


def told_pixels(table: DeviceTable, n: int, beams: Beams, lattice: Lattice) -> Tensor:
    """1 where the table tells what frames (n, n) show, 0 nearest to a reflection beyond its largest: (b, n, n).

    A frame's corners reach farther than tables do: disks there are no other crystal's.
    """
    farthest = table.reflections.norm(dim=1).max() + 1e-4
    near = folded(table, n, beams, lattice).spot.norm(dim=-1) < farthest
    return near.to(table.intensity.dtype).reshape(-1, n, n)


def _beforehand(beams: Beams, state: CrystalState) -> tuple[Tensor, Tensor]:
    """Precision (b, UNKNOWNS) of what is known beforehand, and how far the state is off it."""
    strain, turn, tilt, width, spread = PRIOR
    off = torch.zeros(len(state.layers), UNKNOWNS, device=state.layers.device)
    off[:, :4] = (state.lattice.affine - torch.eye(2, device=off.device)).reshape(-1, 4) * SCALE
    off[:, 7:9] = state.tilt
    off[:, 11] = state.log_width
    off[:, 12] = state.spread - beams.psf_px**2
    precision = torch.zeros_like(off)
    precision[:, [0, 3]], precision[:, [1, 2]] = 1 / (strain * SCALE) ** 2, 1 / (turn * SCALE) ** 2
    precision[:, 7:9] = (_wavelength(beams) / (1e-3 * tilt)) ** 2
    precision[:, 11] = 1 / width**2
    precision[:, 12] = 1 / spread**2
    return precision, off


def _wavelength(beams: Beams) -> float:
    return Optics(float(beams.energy_keV[0])).wavelength


def _lift(counts: Tensor) -> Tensor:
    return LIFT * counts.mean(1, keepdim=True).clamp(min=1e-3)


def _information(slopes: Tensor, variance: Tensor, seen: Tensor) -> Tensor:
    weighted = slopes * (seen / variance)[:, None]
    return weighted @ slopes.transpose(1, 2)


@lru_cache(maxsize=4)
def _quarters(table: DeviceTable, cutoff: float, wavelength: float) -> tuple[Tensor, Tensor]:
    """Electrons in each quarter of each disk, (t, m, g, 4) of one in the aperture, and the mistilts (m, 2) [1/Å]."""
    size, device = table.intensity.shape[-1], table.intensity.device
    axis = (torch.arange(size, device=device) - size // 2).float()
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    distance = torch.hypot(x, y) * table.step
    disk = (0.5 + (cutoff - distance) / table.step).clamp(0, 1)
    right, low = 0.5 * (1 + x.sign()), 0.5 * (1 + y.sign())
    parts = torch.stack(((1 - right) * (1 - low), right * (1 - low), (1 - right) * low, right * low)) * disk
    near = distance <= min(1.06e-3 * MISTILT / wavelength, table.reach - cutoff)
    iy, ix = near.nonzero(as_tuple=True)
    dy, dx = axis[iy].long() % size, axis[ix].long() % size
    # A correlation of the table with each quarter; what both hold together stays within the table's square.
    spectrum = torch.fft.rfft2(table.intensity).conj()
    found = [torch.fft.irfft2(spectrum * torch.fft.rfft2(p), s=(size, size))[..., dy, dx] for p in parts]
    value = torch.stack(found, -1).permute(0, 2, 1, 3) / disk.sum()
    return value.contiguous(), torch.stack((axis[ix], axis[iy]), -1) * table.step


def _background(counts: Tensor, between: Tensor, square: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Electrons (b,), logarithm of the width (b,) and rate (b, n²) of the background that fits `between` disks best."""
    best = None
    for width in WIDTHS:
        unit, _ = lorentzian(square, torch.full_like(square[:, 0], width * n / 4))
        amount = ((counts * between).sum(1) / (unit * between).sum(1).clamp(min=1e-6)).clamp(min=1e-3)
        rate = amount[:, None] * unit
        height = ((counts * rate.log() - rate) * between).sum(1)
        this = (height, amount, torch.full_like(amount, math.log(width)), rate)
        if best is None:
            best = this
        else:
            better = height > best[0]
            best = tuple(
                torch.where(better.reshape(-1, *[1] * (a.dim() - 1)), a, o) for a, o in zip(this, best, strict=True)
            )
    assert best is not None
    return best[1], best[2], best[3]


def starts(table: DeviceTable, counts: Tensor, seen: Tensor, beams: Beams, lattice: Lattice) -> list[CrystalState]:
    """Thickness and mistilt that explain the electrons in the quarters of the disks best, a few that are apart.

    All patterns of `beams` have the same optics.
    """
    b, n = counts.shape[:2]
    at = folded(table, n, beams, lattice)
    flat, works = counts.flatten(1), seen.flatten(1)
    radius, pixel = (beams.radius * beams.pixel)[:, None], beams.pixel[:, None]
    distance = at.away.norm(dim=-1)
    within = (distance < radius) & (at.which >= 0) & (works > 0)
    between = (distance > radius + (0.7 + 2 * beams.psf_px)[:, None] * pixel).to(flat.dtype) * works
    background, log_width, behind = _background(flat, between, at.square, n)

    value, tilts = _quarters(table, round(float(radius[0, 0]), 9), _wavelength(beams))
    layers = torch.tensor(table.layers, dtype=torch.float32, device=flat.device)
    spots = value.shape[2]
    quarter = (at.away[..., 0] > 0).long() + 2 * (at.away[..., 1] > 0).long()
    key = torch.where(within, 4 * at.which + quarter, 4 * spots)

    def summed(values: Tensor) -> Tensor:
        return flat.new_zeros(b, 4 * spots + 1).scatter_add(1, key, values)[:, :-1]

    electrons, under, area = summed(flat), summed(behind), summed(torch.ones_like(flat))
    share = (area / (math.pi * beams.radius**2 / 4)[:, None]).clamp(min=0.1)
    bright = (electrons - under) / share
    weight = (share > 0.6) / ((electrons + 1) / share**2 + (ROUGH * bright.clamp(min=0)) ** 2)
    model = value.flatten(0, 1).flatten(1)
    overlap, own = (weight * bright) @ model.T, (weight @ (model**2).T).clamp(min=1e-12)
    # What least squares gains by disks of that fill, whatever the electrons in them.
    gain = (overlap.clamp(min=0) ** 2 / own).reshape(b, len(layers), len(tilts))
    every = torch.arange(b, device=flat.device)
    spread = beams.psf_px**2
    found = []
    for _ in range(STARTS):
        index = gain.flatten(1).argmax(1)
        thick, tilted = index // len(tilts), index % len(tilts)
        disks = (overlap / own)[every, index].clamp(min=0.02 * flat.sum(1).clamp(min=1))
        found.append(CrystalState(lattice, layers[thick], tilts[tilted], disks, background, log_width, spread))
        close = (tilts[None] - tilts[tilted][:, None]).norm(dim=-1) < 3 * table.step
        beside = (torch.arange(len(layers), device=flat.device)[None] - thick[:, None]).abs() <= 1
        gain = gain.masked_fill(beside[:, :, None] & close[:, None], -1.0)
    return found


def _stepped(table: DeviceTable, beams: Beams, state: CrystalState, by: Tensor) -> CrystalState:
    thinnest, thickest = float(table.layers[0]), float(table.layers[-1])
    return CrystalState(
        moved(beams, state.lattice, by[:, :6]),
        (state.layers + by[:, 6]).clamp(thinnest, thickest),
        state.tilt + by[:, 7:9],
        (state.disks + by[:, 9]).clamp(min=1.0),
        (state.background + by[:, 10]).clamp(min=1e-3),
        (state.log_width + by[:, 11]).clamp(-1.1, 1.1),
        (state.spread + by[:, 12]).clamp(0.01, 4.0),
    )


def climbed(table: DeviceTable, counts: Tensor, seen: Tensor, beams: Beams, state: CrystalState, steps: int) -> Fitted:
    """Fisher scoring from a state; a step that lowers the likelihood is taken back, and tried again shorter."""
    n = counts.shape[-1]
    flat, works = counts.flatten(1), seen.flatten(1)
    longest = torch.full((UNKNOWNS,), 1e9, device=flat.device)
    longest[:9] = longest.new_tensor([2.0] * 4 + [1.0] * 2 + [8.0] + [1e-3 / _wavelength(beams)] * 2)
    longest[11], longest[12] = 0.5, 0.3
    damping = torch.full((len(flat),), 1e-3, device=flat.device)
    lift = _lift(flat)
    best = None
    for step in range(steps + 1):
        expected, slopes, at = rates(table, n, beams, state)
        precision, off = _beforehand(beams, state)
        likely = expected + lift
        height = (((flat + lift) * likely.log() - likely) * works).sum(1) - 0.5 * (precision * off**2).sum(1)
        if best is None:
            best = Fitted(state, expected, slopes, height, at, lift)
        else:
            better = height >= best.height
            best = _better(better, Fitted(state, expected, slopes, height, at, lift), best)
            damping = torch.where(better, (0.2 * damping).clamp(min=1e-4), 8 * damping)
        if step == steps:
            break
        precision, off = _beforehand(beams, best.state)
        per = works / (best.expected + lift)
        pull = (best.slopes @ ((flat - best.expected) * per)[..., None])[..., 0] - precision * off
        information = _information(best.slopes, best.expected + lift, works) + torch.diag_embed(precision)
        scale = information.diagonal(dim1=1, dim2=2).clamp(min=1e-20).sqrt()
        unit = information / scale[:, :, None] / scale[:, None] + torch.diag_embed(
            damping[:, None].expand(-1, UNKNOWNS)
        )
        by = torch.linalg.solve_ex(unit.double(), (pull / scale).double()).result.to(flat.dtype) / scale
        by = torch.nan_to_num(by / (by.abs() / longest).amax(1, keepdim=True).clamp(min=1))
        state = _stepped(table, beams, best.state, by)
    assert best is not None
    return best


def _better(first: Tensor, one: Fitted, two: Fitted) -> Fitted:
    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(first.reshape(-1, *[1] * (a.dim() - 1)), a, b)

    at = Folded(*(pick(getattr(one.folded, f), getattr(two.folded, f)) for f in Folded.__dataclass_fields__))
    return Fitted(
        one.state.chosen(first, two.state),
        pick(one.expected, two.expected),
        pick(one.slopes, two.slopes),
        pick(one.height, two.height),
        at,
        one.lift,
    )


@torch.no_grad()
def fitted(table: DeviceTable, counts: Tensor, seen: Tensor, beams: Beams, lattice: Lattice) -> Fitted:
    """The likelihood's maximum for patterns (b, n, n) free of hot pixels, all of the same optics and material.

    Parameters
    ----------
    table : DeviceTable
        Disks of the material at the beam's energy.
    counts : Tensor (b, n, n)
    seen : Tensor (b, n, n)
        As of `seen_pixels`.
    beams : Beams
    lattice : Lattice
        As the crystal network has it.
    """
    best = None
    for state in starts(table, counts, seen, beams, lattice):
        one = climbed(table, counts, seen, beams, state, FIRST)
        best = one if best is None else _better(one.height > best.height, one, best)
    assert best is not None
    return climbed(table, counts, seen, beams, best.state, MORE)
