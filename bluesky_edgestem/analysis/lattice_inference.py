"""From counts to the lattice: search, Fisher scoring, and the posterior by importance sampling, batched in torch.

The unknowns are exx, eyy, exy and rotation; the beam's centre comes from the direct disk beforehand (each disk has an
opposite one, so that its error cancels to first order). The search scores some thousand lattices; scoring climbs from
the best to the maximum of the likelihood; importance sampling around it gives mean and covariance of the posterior,
which at few electrons is far from normal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from .disk_likelihood import DiskMaps, Filters, disk_maps, matched_filters
from .scattering import Beam, ScatteringModel, squared_distance

#: Strain within these is equally likely beforehand; beyond them the prior falls off like a normal of width
#: `PRIOR_EDGE`.
PRIOR_RANGE = (0.047, 0.047, 0.037)
PRIOR_EDGE = 0.002
SAMPLES = 256


def positions(unknowns: Tensor, vectors: Tensor) -> Tensor:
    """Where reflections are: unknowns (..., 4) of exx, eyy, exy, rotation and vectors (g, 2) to (..., g, 2), F^-T g."""
    exx, eyy, exy, rotation = unknowns.unbind(-1)
    c, s = torch.cos(rotation)[..., None], torch.sin(rotation)[..., None]
    x, y = vectors[:, 0], vectors[:, 1]
    u, v = c * x - s * y, s * x + c * y
    det = ((1 + exx) * (1 + eyy) - exy**2)[..., None]
    exx, eyy, exy = exx[..., None], eyy[..., None], exy[..., None]
    return torch.stack([((1 + eyy) * u - exy * v) / det, ((1 + exx) * v - exy * u) / det], -1)


def position_slopes(unknowns: Tensor, vectors: Tensor) -> Tensor:
    """Derivatives (b, g, 2, 4) of `positions` at unknowns (b, 4)."""
    p = positions(unknowns, vectors)
    exx, eyy, exy, _ = unknowns.unbind(-1)
    det = ((1 + exx) * (1 + eyy) - exy**2)[:, None, None]
    # d (1+e)^-1 = -(1+e)^-1 de (1+e)^-1, and a rotation moves R g at right angles to itself.
    inverse = torch.stack([torch.stack([1 + eyy, -exy], -1), torch.stack([-exy, 1 + exx], -1)], -2) / det
    zero = torch.zeros_like(p[..., 0])
    along = torch.stack(
        [
            torch.stack([p[..., 0], zero], -1),
            torch.stack([zero, p[..., 1]], -1),
            torch.stack([p[..., 1], p[..., 0]], -1),
        ],
        -1,
    )
    turned = positions(torch.stack([exx, eyy, exy, unknowns[:, 3] + np.pi / 2], -1), vectors)
    return torch.cat([-torch.einsum("bij,bgjk->bgik", inverse, along), turned[..., None]], -1)


@dataclass(frozen=True)
class Setting:
    """What depends on the optics alone: filters and the search's lattices."""

    beam: Beam
    order: Tensor  #: (g,)
    vectors: Tensor  #: (g, 2)
    filters: dict[int, Filters]  #: by order
    information: Tensor  #: (g,) Fisher information of each disk's place, per electron [1/pixels²]
    direct: Filters
    lattices: Tensor  #: (l, 4)
    search_index: Tensor  #: (l, pairs) rows of the score table
    search_kernels: Tensor  #: (orders used, fft, fft/2+1)
    search_offset: Tensor  #: (l,) score per electron that counts do not enter
    fft: int


def _search_lattices(device: torch.device) -> Tensor:
    rotation = torch.arange(-30, 30, 1.0, device=device) * np.pi / 180
    normal = torch.tensor([-0.036, -0.018, 0.0, 0.018, 0.036], device=device)
    shear = torch.tensor([-0.027, -0.009, 0.009, 0.027], device=device)
    grid = torch.meshgrid(normal, normal, shear, rotation, indexing="ij")
    return torch.stack([g.reshape(-1) for g in grid], -1)


def prepare(model: ScatteringModel, beam: Beam) -> Setting:
    """Filters and search tables for one beam, on the device that the beam and the model are on."""
    device = beam.device
    intensities = torch.exp(model.log_intensities(beam).mean(0))
    floor = model.floor(beam)
    used = sorted(set(beam.order.tolist()))
    base = {}
    for index in used:
        ring2 = (beam.vectors[beam.order == index] ** 2).sum(-1).mean()
        base[index] = beam.background(ring2) + floor
    # One set for all phases, whose disks differ in brightness by less than half: where the disks are hardly depends
    # on it.
    filters = {i: matched_filters(model, beam, intensities[i], base[i]) for i in used}
    information = torch.tensor([filters[int(i)].information for i in beam.order], device=device)
    brightest = 1 / (np.pi * beam.radius**2)
    direct = matched_filters(model, beam, *torch.tensor([0.98, 1e-3 * brightest], device=device))

    with torch.no_grad():
        n = beam.optics.n_pixels
        fft = n + 32
        axis = torch.fft.fftfreq(fft, 1 / fft, device=device)
        radius2 = axis[:, None] ** 2 + axis[None, :] ** 2
        seen = ((radius2 < beam.aperture**2) & (radius2 > (beam.radius + 4) ** 2)).float()
        expected = beam.background(radius2) + floor
        lattices = _search_lattices(device)
        places = torch.round(positions(lattices, beam.vectors)).long()
        # One of each opposite pair is enough: the score maps are made even.
        half = [g for g in range(len(beam.vectors)) if tuple(beam.vectors[g].tolist()) > (0.0, 0.0)]
        # Away from the tables, disks count nothing.
        outside = len(used) * fft * fft
        index = torch.empty(len(lattices), len(half), dtype=torch.long, device=device)
        kernels, offsets = [], []
        for k, i in enumerate(used):
            disk = intensities[i] * model.profile(beam, torch.sqrt(radius2))
            gain = torch.log1p(disk / base[i])
            kernels.append(torch.fft.rfft2(gain))
            empty = torch.fft.rfft2(seen * (base[i] - expected)) * torch.fft.rfft2(gain)
            offsets.append(torch.fft.irfft2(empty - torch.fft.rfft2(seen) * torch.fft.rfft2(disk), s=(fft, fft)))
            for column, g in enumerate(half):
                if int(beam.order[g]) == i:
                    x, y = places[:, g].unbind(-1)
                    flat = k * fft * fft + (y % fft) * fft + x % fft
                    index[:, column] = torch.where(places[:, g].abs().amax(-1) < fft // 2, flat, outside)
        table = torch.cat([torch.stack(offsets).reshape(-1), torch.zeros(1, device=device)])
        offset = 2 * table[index].sum(1)
    return Setting(
        beam, beam.order, beam.vectors, filters, information, direct, lattices, index, torch.stack(kernels), offset, fft
    )


def find_centre(setting: Setting, counts: Tensor, dose: Tensor, good: Tensor) -> Tensor:
    """Place (b, 2) of the direct disk's centre [pixels from the first pixel's centre]; `good` (n, n) marks pixels that
    count."""
    b, n, _ = counts.shape
    radius = setting.beam.radius
    centre = torch.full((b, 2), (n - 1) / 2, device=counts.device)
    axis = torch.arange(n, dtype=torch.float32, device=counts.device)
    for _ in range(4):
        near = counts * (squared_distance(n, centre) < (radius + 4) ** 2)
        total = near.sum((1, 2)).clamp(min=1e-9)
        centre = torch.stack([(near.sum(1) * axis).sum(1), (near.sum(2) * axis).sum(1)], -1) / total[:, None]
    centre = centre.clamp(0, n - 1)
    one = good.expand(b, n, n)
    zero = torch.zeros_like(counts)
    maps = disk_maps(
        {0: setting.direct},
        torch.zeros(1, dtype=torch.long, device=counts.device),
        counts,
        dose,
        one,
        zero + setting.direct.base,
        centre[:, None],
    )
    step = 1 / (dose * setting.direct.information).clamp(min=1e-9)
    for _ in range(6):
        centre = centre + (step[:, None] * maps.slope(centre[:, None])[:, 0]).clamp(-0.3, 0.3)
    return centre


def search(setting: Setting, counts: Tensor, dose: Tensor, seen: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Best of the search's lattices: unknowns (b, 4) and log-likelihood (b,) against no disks at all."""
    fft = setting.fft
    spectrum = torch.fft.rfft2(counts * seen, s=(fft, fft))
    fx, fy = (frequencies(fft, device=counts.device) for frequencies in (torch.fft.rfftfreq, torch.fft.fftfreq))
    phase = 2 * np.pi * (centre[:, 0, None, None] * fx + centre[:, 1, None, None] * fy[:, None])
    # The even part of a map about the beam is the real part of its spectrum about the beam.
    even = (spectrum * torch.polar(torch.ones_like(phase), phase)).real
    maps = torch.fft.irfft2(even[:, None] * setting.search_kernels + 0j, s=(fft, fft))
    table = torch.cat([maps.reshape(len(counts), -1).T, counts.new_zeros(1, len(counts))]).contiguous()
    score = 2 * torch.nn.functional.embedding_bag(setting.search_index, table, mode="sum")
    score = score + setting.search_offset[:, None] * dose
    best = score.max(dim=0)
    return setting.lattices[best.indices], best.values


def fisher(setting: Setting, unknowns: Tensor, dose: Tensor) -> tuple[Tensor, Tensor]:
    """Fisher information (b, 4, 4) of the unknowns (b, 4), of disks seen whole, and their slopes (b, g, 2, 4)."""
    slopes = position_slopes(unknowns, setting.vectors)
    within = positions(unknowns, setting.vectors).norm(dim=-1) < setting.beam.aperture
    weight = setting.information * within * dose[:, None]
    return torch.einsum("bg,bgik,bgil->bkl", weight, slopes, slopes), slopes


def log_prior(unknowns: Tensor) -> Tensor:
    """Logarithm (...) of the prior of unknowns (..., 4), up to a constant."""
    beyond = (unknowns[..., :3].abs() - unknowns.new_tensor(PRIOR_RANGE)).clamp(min=0) / PRIOR_EDGE
    return -0.5 * (beyond**2).sum(-1)


def climb(setting: Setting, maps: DiskMaps, start: Tensor, centre: Tensor, dose: Tensor) -> Tensor:
    """Fisher scoring from `start` (b, 4) towards the posterior's maximum."""
    u = start
    for _ in range(8):
        information, slopes = fisher(setting, u, dose)
        relative = positions(u, setting.vectors)
        push = torch.einsum("bgi,bgik->bk", maps.slope(centre[:, None] + relative), slopes)
        beyond = u[:, :3].abs() - u.new_tensor(PRIOR_RANGE)
        over = (beyond > 0).float()
        pull = -torch.sign(u[:, :3]) * beyond.clamp(min=0) / PRIOR_EDGE**2
        push = push + torch.nn.functional.pad(pull, (0, 1))
        stiff = torch.diag_embed(torch.nn.functional.pad(over / PRIOR_EDGE**2 + 1 / 0.03**2, (0, 1), value=1 / 0.1**2))
        step = torch.linalg.solve(information + stiff, push)
        u = u + step.clamp(-0.008, 0.008)
    return u


@cache
def proposal_points(n: int, device: torch.device, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Low-discrepancy, antithetic points (n, 4) of a t distribution, 6 degrees of freedom, and its log density (n,)."""
    from scipy.stats import chi2

    uniform = torch.quasirandom.SobolEngine(5, scramble=True, seed=seed).draw(n // 2).clamp(1e-4, 1 - 1e-4)
    z = torch.special.ndtri(uniform[:, :4])
    nu = 6
    z = z * torch.sqrt(nu / torch.tensor(chi2.ppf(uniform[:, 4].numpy(), nu), dtype=torch.float32))[:, None]
    z = torch.cat([z, -z])
    z = z.to(device)
    return z, -(nu + 4) / 2 * torch.log1p((z**2).sum(-1) / nu)


@dataclass(frozen=True)
class Posterior:
    """Mean (b, 4), covariance (b, 4, 4), effective number of samples (b,) and highest log-likelihood (b,)."""

    mean: Tensor
    covariance: Tensor
    effective: Tensor
    log_likelihood: Tensor


def sample(
    setting: Setting, maps: DiskMaps, centre: Tensor, mode: Tensor, covariance: Tensor, rounds: int = 2
) -> Posterior:
    """Posterior around `mode` (b, 4) by adaptive importance sampling, first with `covariance` (b, 4, 4)."""
    z, log_q = proposal_points(SAMPLES, mode.device)
    mean = mode
    for turn in range(1, rounds + 1):
        scale = torch.linalg.cholesky(covariance)
        widen = 1.3 if turn == 1 else 1.1
        u = mean[:, None] + widen * torch.einsum("bij,sj->bsi", scale, z)
        value = maps.value(centre[:, None, None] + positions(u, setting.vectors))
        logit = value + log_prior(u) - log_q
        w = torch.softmax(logit, dim=1)
        centre_u = torch.einsum("bs,bsi->bi", w, u)
        d = u - centre_u[:, None]
        spread = torch.einsum("bs,bsi,bsj->bij", w, d, d)
        effective = 1 / (w**2).sum(1)
        if turn == rounds:
            break
        # With few effective samples their spread is too small: keep some of the first guess.
        keep = (4 / effective).clamp(max=0.5)[:, None, None]
        mean = centre_u.detach()
        covariance = ((1 - keep) * spread + keep * covariance).detach()
    return Posterior(centre_u, spread, effective, value.max(dim=1).values)
