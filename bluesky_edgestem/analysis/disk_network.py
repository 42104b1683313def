"""The layers of the crystal network: what each disk's window shows, what all disks show together, and where they are.

A window around each expected disk is turned into the crystal's axes and scaled so that a disk has always the same
radius. A small convolutional network, the same for all, describes it; attention between the disks of a pattern tells
what only all of them know (thickness, mistilt, whether this is the supposed crystal); then each disk says where it is
and how sure it is of that, and least squares (`lattice_view.solve`) joins what they say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from .lattice_view import Beams, Lattice, inverse, residuals, solve

#: Samples along each side of a window, and of a disk's radius.
SIDE, RADIUS = 24, 8.0
#: What the pattern as a whole says, in this order.
WHOLE = ("thickness", "thickness_log_sd", "tilt_x", "tilt_y", "tilt_log_sd", "genuine", "evidence", "stretch_affine",
         "stretch_centre")  # fmt: skip
GENUINE = WHOLE.index("genuine")
#: Units of the network's thickness [nm] and tilt [mrad].
THICKNESS, TILT = 10.0, 3.0
#: Numbers of `between`, and those of how well a lattice fits the disks.
BETWEEN, FIT = 6, 4


@dataclass(frozen=True)
class Opinion:
    """What one pass of the network says of `b` patterns, seen from a lattice."""

    unknowns: Tensor  #: (b, 6) by which the lattice should move, as of `lattice_view.solve`
    covariance: Tensor  #: (b, 6, 6) of them
    displacement: Tensor  #: (b, g, 2) of each disk, turned back [pixels]
    precision: Tensor  #: (b, g, 2, 2)
    measured: Tensor  #: (b, g) bool
    whole: Tensor  #: (b, len(WHOLE))

    def says(self, name: str) -> Tensor:
        """One of `WHOLE`, (b,)."""
        return self.whole[:, WHOLE.index(name)]

    def __getitem__(self, which) -> Opinion:
        return Opinion(**{name: getattr(self, name)[which] for name in self.__dataclass_fields__})


def between(counts: Tensor, beams: Beams, lattice: Lattice) -> Tensor:
    """What the frame shows where the lattice has no disk, (b, `BETWEEN`): other crystals' disks lie there.

    Every pixel is folded into the lattice's cell. Mean counts within and between the disks, how much of the frame is
    between, how much more than counts of electrons the counts there vary, and how far the brightest there stands out.
    """
    n = counts.shape[-1]
    axis = torch.arange(n, device=counts.device, dtype=counts.dtype)
    place = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(1, -1, 2) - lattice.centre[:, None]
    to_pixels = (beams.cell @ lattice.to_pixels(beams).transpose(1, 2)).contiguous()
    index = place @ inverse(to_pixels)
    away = ((index - index.round()) @ to_pixels).norm(dim=-1)
    radius = beams.radius[:, None]
    spread = 1.0 + 2 * beams.psf_px[:, None]
    within = (away < 0.8 * radius).float()
    beyond = (away > radius + spread + 0.5).float()
    smooth = functional.avg_pool2d(counts[:, None], 3, stride=1, padding=1).flatten(1)
    # The background falls off from the beam: each pixel is held against its surroundings that are between disks too.
    mask = beyond.reshape(-1, 1, n, n)
    local = torch.cat((smooth.reshape(-1, 1, n, n) * mask, mask), 1)
    for size, margin in (((25, 1), (12, 0)), ((1, 25), (0, 12))):
        local = functional.avg_pool2d(local, size, 1, margin)
    local = (local[:, 0] / local[:, 1].clamp(min=1e-3)).flatten(1)
    z = (smooth - local) / (local / 9 + 0.01).sqrt() * beyond
    area = beyond.sum(1).clamp(min=1)
    inner = (counts.flatten(1) * within).sum(1) / within.sum(1).clamp(min=1)
    outer = (counts.flatten(1) * beyond).sum(1) / area
    return torch.stack(
        (
            (inner + 0.01).log() - (outer + 0.01).log(),
            area / n**2,
            ((z**2).sum(1) / area + 0.1).log(),
            torch.asinh(z.amax(1)),
            torch.asinh(z.topk(64, dim=1).values[:, -1]),
            (outer + 0.01).log() / 3,
        ),
        -1,
    )


def windows(counts: Tensor, beams: Beams, lattice: Lattice) -> tuple[Tensor, Tensor]:
    """Counts per pixel around each disk, in the crystal's axes, and which of them are on the detector.

    Parameters
    ----------
    counts : Tensor (b, n, n)

    Returns
    -------
    Tensor (b, g, SIDE, SIDE), Tensor (b, g, SIDE, SIDE)
    """
    b, n, g = *counts.shape[:2], beams.spots.shape[1]
    axis = (torch.arange(2 * SIDE, device=counts.device) - SIDE + 0.5) / (2 * RADIUS)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
    step = beams.distortion @ lattice.turn * beams.radius[:, None, None]
    offsets = grid @ step.transpose(1, 2)
    points = lattice.places(beams)[:, :, None] + offsets[:, None]
    normal = (points * 2 + 1) / n - 1
    sampled = functional.grid_sample(counts[:, None], normal, align_corners=False)[:, 0]
    inside = (normal.abs() < 1).all(-1).to(counts.dtype)
    stacked = torch.stack((sampled, inside), 2).reshape(b, 2 * g, 2 * SIDE, 2 * SIDE)
    seen, within = functional.avg_pool2d(stacked, 2).reshape(b, g, 2, SIDE, SIDE).unbind(2)
    return seen, within


class Block(nn.Module):
    """Attention between the disks of a pattern, then a perceptron on each (Vaswani et al., 2017)."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.each = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor, shown: Tensor) -> Tensor:
        """Tokens (b, g, width), of which attention sees those `shown` (b, g)."""
        b, g, width = tokens.shape
        mixed = self.mix(self.before(tokens)).reshape(b, g, 3, self.heads, width // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=shown[:, None, None])
        tokens = tokens + self.out(seen.transpose(1, 2).reshape(b, g, width))
        return tokens + self.each(self.between(tokens))


class DiskNetwork(nn.Module):
    """One pass: counts around the expected disks to where they are, and what the crystal is like."""

    expected: Tensor
    waves: Tensor

    def __init__(self, materials: int, width: int = 128, blocks: int = 4) -> None:
        super().__init__()
        self.window = nn.Sequential(
            nn.Conv2d(4, 24, 3, padding=1), nn.SiLU(),
            nn.Conv2d(24, 32, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(32, 32, 3, padding=1), nn.SiLU(),
            nn.Conv2d(32, 48, 3, stride=2, padding=1), nn.SiLU(),
            nn.Flatten(), nn.Linear(48 * (SIDE // 4) ** 2, width),
        )  # fmt: skip
        self.templates = nn.Linear(2 * SIDE**2, width)
        self.facts = nn.Sequential(nn.Linear(4 + 16 + 2 + 7 + 16 + BETWEEN, width), nn.SiLU(), nn.Linear(width, width))
        self.material = nn.Embedding(materials, 16)
        self.summary = nn.Sequential(nn.Linear(7 + 16 + BETWEEN, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.normal = nn.LayerNorm(width)
        self.disk = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 5))
        self.whole = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, len(WHOLE)))
        self.verdict = nn.Sequential(nn.Linear(width + BETWEEN + FIT, width), nn.SiLU(), nn.Linear(width, 2))
        for head in (self.disk, self.whole, self.verdict):
            last = head[-1]
            assert isinstance(last, nn.Linear)
            nn.init.normal_(last.weight, std=1e-2)
            nn.init.zeros_(last.bias)
        axis = (torch.arange(SIDE) - (SIDE - 1) / 2) / RADIUS
        expected = ((1 - torch.hypot(axis[:, None], axis[None, :])) * RADIUS + 0.5).clamp(0, 1)
        self.register_buffer("expected", expected, persistent=False)
        self.register_buffer("waves", 2 * torch.pi * torch.tensor([0.5, 1.0, 2.0, 4.0]), persistent=False)

    def forward(self, counts: Tensor, beams: Beams, lattice: Lattice) -> Opinion:
        """One pass over counts (b, n, n), free of hot pixels."""
        n = counts.shape[-1]
        # Places are wanted to a thousandth of a pixel: half precision is for the layers alone.
        with torch.autocast(counts.device.type, enabled=False):
            places = lattice.places(beams)
            measured = beams.listed & ((places > 0) & (places < n - 1)).all(-1)
            b, g = measured.shape
            strange = between(counts, beams, lattice)
            which = measured.flatten().nonzero()[:, 0]
            seen, inside = (image.flatten(0, 1)[which] for image in windows(counts, beams, lattice))
            disk = self.expected * inside
            share = disk.sum((1, 2)).clamp(min=1)
            level = (seen * disk).sum((1, 2)) / share
            ring = (1 - self.expected) * inside
            around = (seen * ring).sum((1, 2)) / ring.sum((1, 2)).clamp(min=1)
            rate = level[:, None, None]
            picture = torch.stack(
                (
                    seen / (rate + 1),
                    (seen + 0.375).sqrt() - (rate + 0.375).sqrt(),
                    inside,
                    self.expected.expand_as(inside),
                ),
                -1,
            ).clamp(-8, 8)
            picture = picture.permute(0, 3, 1, 2)
            area = torch.pi * beams.radius[which // g] ** 2
            spots = beams.spots
            waved = spots[..., None] * self.waves
            beam = torch.stack(
                (
                    (counts.sum((1, 2)).clamp(min=1).log() - 10) / 3,
                    beams.radius.log() - 1.6,
                    beams.psf_px / beams.radius * 4,
                    (beams.energy_keV / 180).log(),
                    (beams.semiangle_mrad / 2).log(),
                    beams.semiangle_mrad / 3,
                    beams.pixel * 50,
                ),
                -1,
            )
            own = torch.stack(
                (
                    (level * area + 1).log() / 3 - 1.5,
                    (around * area + 1).log() / 3 - 1.5,
                    share / 200 - 1,
                    spots.norm(dim=-1).flatten()[which],
                ),
                -1,
            )
        beam = torch.cat((beam, self.material(beams.material)), -1)
        beam = torch.cat((beam, strange), -1)
        facts = torch.cat((waved.sin().flatten(2), waved.cos().flatten(2), spots), -1).flatten(0, 1)[which]
        facts = torch.cat((own, facts, beam[which // g]), -1)
        described = self.window(picture) + self.templates(picture[:, :2].flatten(1))
        shape = described.new_zeros(b * g, described.shape[-1]).index_copy(0, which, described)
        shape = shape.reshape(b, g, -1)
        told = self.facts(facts)
        tokens = shape + told.new_zeros(b * g, told.shape[-1]).index_copy(0, which, told).reshape(b, g, -1)
        tokens = torch.cat((self.summary(beam)[:, None], tokens), 1)
        shown = torch.cat((torch.ones_like(measured[:, :1]), measured), 1)
        for block in self.blocks:
            tokens = block(tokens, shown)
        tokens = self.normal(tokens)
        with torch.autocast(counts.device.type, enabled=False):
            tokens, shape = tokens.float(), shape.float()
            said = self.disk(torch.cat((tokens[:, 1:], shape), -1))
            opinion = self._joined(beams, lattice, said, self.whole(tokens[:, 0]), measured)
            # How far the disks are from any one lattice tells of another crystal, and must not teach where they are.
            fit = torch.cat((tokens[:, 0], strange, self._fit(beams, opinion).detach()), -1)
            whole = torch.cat((opinion.whole[:, :GENUINE], self.verdict(fit), opinion.whole[:, GENUINE + 2 :]), 1)
            return replace(opinion, whole=whole)

    @staticmethod
    def _fit(beams: Beams, opinion: Opinion) -> Tensor:
        """Logarithms of how far the disks are off the lattice, in standard deviations and in radii; (b, FIT)."""
        off = residuals(beams, opinion.displacement, opinion.unknowns)
        shown = opinion.measured.float()
        count = shown.sum(1).clamp(min=1)
        square = torch.einsum("bgi,bgij,bgj->bg", off, opinion.precision, off)
        mean = (square.clamp(max=1e4) * shown).sum(1) / count
        far = (off.norm(dim=-1) / beams.radius[:, None] * shown).sum(1) / count
        sharp = opinion.precision.diagonal(dim1=-2, dim2=-1).sum(-1)
        certain = ((sharp * beams.radius[:, None] ** 2 + 1).log() * shown).sum(1) / count
        return torch.stack(((mean + 1e-2).log(), (far + 1e-3).log(), certain / 5, count / 20), -1)

    @staticmethod
    def _joined(beams: Beams, lattice: Lattice, said: Tensor, whole: Tensor, measured: Tensor) -> Opinion:
        """Least squares over what the disks say, (b, g, 5)."""
        radius = beams.radius[:, None]
        displacement = said[..., :2] * radius[..., None]
        # The precision's Cholesky factor; between a disk that is not there and one known to a thousandth of a pixel.
        first, second = (said[..., 2:4].clamp(-7, 9)).exp().unbind(-1)
        lower = torch.stack((first, torch.zeros_like(first), said[..., 4] * first, second), -1)
        lower = lower.reshape(*first.shape, 2, 2) * (measured / radius)[..., None, None]
        precision = lower @ lower.transpose(-1, -2)
        unknowns, covariance = solve(beams, lattice, displacement, precision)
        stretch = whole[:, [WHOLE.index("stretch_affine")] * 4 + [WHOLE.index("stretch_centre")] * 2]
        stretch = (0.5 * stretch.clamp(-4, 6)).exp()
        covariance = covariance * stretch[:, :, None] * stretch[:, None, :]
        return Opinion(unknowns, covariance, displacement, precision, measured, whole)
