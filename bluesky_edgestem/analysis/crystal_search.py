"""A first guess of a lattice in a pattern, from where disks of the right size are brighter than their surroundings."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .lattice_view import Beams, Lattice, inverse, moved, rotations, solve

#: How far from the detector's centre the beam is looked for [pixels].
REACH_PX = 4.0
#: Reflections, by length, that are looked at for the rotation.
INNER = 25
#: Power of the contrast that weighs the pixels around its peak.
SHARPNESS = 6


def without_hot_pixels(counts: Tensor) -> Tensor:
    """Counts (b, n, n) with pixels that far outshine all eight neighbours given the neighbours' mean."""
    padded = torch.nn.functional.pad(counts[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    n, m = counts.shape[1:]
    around = [padded[:, i : i + n, j : j + m] for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    brightest, total = around[0], around[0]
    for image in around[1:]:
        brightest, total = torch.maximum(brightest, image), total + image
    return torch.where(counts > 2 * brightest + 5 * brightest.sqrt() + 10, total / 8, counts)


def disk_contrast(counts: Tensor, radius: Tensor, first_order: Tensor) -> Tensor:
    """How much brighter, in square roots of counts, a disk around each pixel is than the ring around it, (b, n, n).

    `radius` and `first_order`, the distance of the nearest disks, are (b,) [pixels].
    """
    n = counts.shape[-1]
    size = 2 * n
    axis = torch.fft.fftfreq(size, 1 / size, device=counts.device)
    distance = torch.hypot(axis[:, None], axis[None, :])
    radius, outer = radius[:, None, None], first_order[:, None, None] - radius[:, None, None]
    disk = (radius + 0.5 - distance).clamp(0, 1)
    ring = (torch.minimum(1.4 * radius + 2, torch.maximum(outer, radius + 1.5)) + 0.5 - distance).clamp(0, 1)
    ring = ring * (distance - radius - 0.5).clamp(0, 1)
    # Both means are over what of disk and ring is on the detector: its edge would else look like one of a disk.
    roots = torch.stack((counts.sqrt(), torch.ones_like(counts)), 1)
    spectrum = torch.fft.rfft2(roots, s=(size, size))
    means = []
    for kernel in (disk, ring):
        total, area = torch.fft.irfft2(spectrum * torch.fft.rfft2(kernel)[:, None], s=(size, size))[
            :, :, :n, :n
        ].unbind(1)
        means.append(total / area.clamp(min=1.0))
    return means[0] - means[1]


def _looked_up(image: Tensor, places: Tensor) -> Tensor:
    """Nearest pixels of images (b, n, n) at places (b, ..., 2), zero beyond the frame."""
    n = image.shape[-1]
    index = torch.round(places).long()
    inside = ((index >= 0) & (index < n)).all(-1)
    index = index.clamp(0, n - 1)
    flat = (index[..., 1] * n + index[..., 0]).reshape(len(image), -1)
    return image.reshape(len(image), -1).gather(1, flat).reshape(index.shape[:-1]) * inside


def search(counts: Tensor, beams: Beams, fold: int) -> tuple[Lattice, Tensor]:
    """The lattice of unstrained crystals that fits best, then strained to fit.

    Parameters
    ----------
    counts : Tensor (b, n, n)
        Free of hot pixels.
    beams : Beams
        All of materials with the same symmetry.
    fold : int
        Rotations by 360° over this leave the lattice as it is.

    Returns
    -------
    lattice : Lattice
    contrast : Tensor (b,)
        Of all its disks, by `disk_contrast`.
    """
    n, device = counts.shape[-1], counts.device
    first = beams.spots[:, 1].norm(dim=-1) / beams.pixel
    contrast = disk_contrast(counts, beams.radius, first)
    inner = beams[:]
    inner = Beams(**{**inner.__dict__, "spots": inner.spots[:, :INNER], "listed": inner.listed[:, :INNER]})
    within = (inner.spots.norm(dim=-1) / inner.pixel[:, None]).amax(1).clamp(max=n / 2)
    step = float((0.8 * beams.radius / within).min())
    angles = torch.arange(0, 2 * math.pi / fold, step, device=device)
    turned = torch.einsum("bij,tjk,bgk->btgi", inner.distortion, rotations(angles), inner.spots)
    turned = torch.round(turned / inner.pixel[:, None, None, None] + (n - 1) / 2).long()
    spacing = max(1, int(0.7 * float(beams.radius.min())))
    reach = math.ceil(REACH_PX / spacing)
    # A pixel's row holds the contrast at all offsets of the beam from it: one look-up a disk serves them all.
    side = 2 * reach + 1
    margin = spacing * reach
    rows = torch.nn.functional.unfold(contrast[:, None], side, dilation=spacing, padding=margin)
    rows = rows.transpose(1, 2).reshape(-1, side * side)
    inside = ((turned >= 0) & (turned < n)).all(-1) & inner.listed[:, None]
    turned = turned.clamp(0, n - 1)
    index = turned[..., 1] * n + turned[..., 0] + n * n * torch.arange(len(counts), device=device)[:, None, None]
    scores = torch.nn.functional.embedding_bag(
        index.flatten(0, 1), rows, mode="sum", per_sample_weights=inside.flatten(0, 1).to(rows.dtype)
    ).reshape(len(counts), -1)
    best = scores.argmax(1)
    angle, offset = angles[best // (side * side)], best % (side * side)
    centre = spacing * (torch.stack((offset % side, offset // side), -1) - reach)
    eye = torch.eye(2, device=device).expand(len(counts), 2, 2)
    lattice = Lattice(rotations(angle), eye, centre + (n - 1) / 2)
    grid = torch.linspace(-1, 1, 9, device=device)
    grid = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1).reshape(-1, 2)
    for k in range(4):
        near = inner if k < 2 else beams
        offsets = grid * ((0.9, 0.9, 0.8, 0.6)[k] * beams.radius).clamp(min=2.0 - 0.3 * k)[:, None, None]
        places = lattice.places(near)[:, :, None] + offsets[:, None]
        seen = _looked_up(contrast, places).clamp(min=0) * near.listed[..., None]
        most = seen.amax(-1, keepdim=True)
        weight = (seen / most.clamp(min=1e-9)) ** SHARPNESS
        total = weight.sum(-1, keepdim=True)
        there = torch.round(places) - lattice.places(near)[:, :, None]
        displacement = (weight[..., None] * there).sum(2) / total.clamp(min=1e-9)
        bent = inverse(near.distortion @ lattice.turn)
        displacement = displacement @ bent.transpose(1, 2)
        # The contrast's noise is half a root of a count over the root of the disk's area.
        certain = most[..., 0] * 2 * math.sqrt(math.pi) * beams.radius[:, None]
        strength = ((certain - 3).clamp(min=0) / beams.radius[:, None]).clamp(max=6) ** 2 * 0.3
        precision = strength[..., None, None] * torch.eye(2, device=device)
        unknowns, _ = solve(near, lattice, displacement, precision)
        lattice = moved(near, lattice, unknowns)
    return lattice, (_looked_up(contrast, lattice.places(beams)) * beams.listed).sum(1)
