"""What a crystal's pattern is expected to be, and how that changes with everything that it depends on.

Each pixel is folded into the reciprocal cell: from the nearest reflection g it is away by ``v`` in the crystal's axes,
which says whether the aperture covers it, and by ``h - g`` in those of the unstrained crystal, where the table of disks
says what the crystal's fill is there. Both are linear in the lattice, so that derivatives are exact but for the table's
interpolation. `disk_rendering` renders the same more finely, for training, and without derivatives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .disk_rendering import DeviceTable, _cubic, own_strain
from .lattice_view import SCALE, Beams, Lattice, inverse

#: Unknowns in this order: the lattice's six as of `lattice_view.solve`, layers, mistilt (2) [1/Å], electrons in disks
#: and in the background, logarithm of the background's width, variance of the point spread [pixels²].
UNKNOWNS = 13
_BLUR = 5  #: [pixels] to which the point spread is followed


@dataclass(frozen=True)
class CrystalState:
    """All that settles the expected counts of `b` patterns of one material."""

    lattice: Lattice
    layers: Tensor  #: (b,) of the unstrained crystal: `DeviceTable.at` of a strained one has ``layers / det F``
    tilt: Tensor  #: (b, 2) in the unstrained crystal's axes [1/Å]
    disks: Tensor  #: (b,) electrons that meet the aperture's disks, were each crystal perfectly elastic
    background: Tensor  #: (b,) electrons
    log_width: Tensor  #: (b,) of the background, a Lorentzian around the beam, over a quarter of the frame's side
    spread: Tensor  #: (b,) variance of the detector's point spread [pixels²]

    def __getitem__(self, which) -> CrystalState:
        return CrystalState(**{name: getattr(self, name)[which] for name in self.__dataclass_fields__})

    def chosen(self, first: Tensor, other: CrystalState) -> CrystalState:
        """This one where `first` (b,), else the other."""

        def pick(one: Tensor, two: Tensor) -> Tensor:
            return torch.where(first.reshape(-1, *[1] * (one.dim() - 1)), one, two)

        mine, its = self.lattice, other.lattice
        lattice = Lattice(pick(mine.turn, its.turn), pick(mine.affine, its.affine), pick(mine.centre, its.centre))
        names = [name for name in self.__dataclass_fields__ if name != "lattice"]
        return CrystalState(lattice, *(pick(getattr(self, name), getattr(other, name)) for name in names))


@dataclass(frozen=True)
class Folded:
    """Pixels of `b` frames (n, n) in the cell of their lattice."""

    h: Tensor  #: (b, n², 2) place in the unstrained crystal's axes [1/Å]
    spot: Tensor  #: (b, n², 2) the nearest reflection there [1/Å]
    away: Tensor  #: (b, n², 2) from that reflection's place, in the crystal's axes [1/Å]
    which: Tensor  #: (b, n²) its number in the table, or -1
    square: Tensor  #: (b, n²) of the distance from the beam [pixels²]


def folded(table: DeviceTable, n: int, beams: Beams, lattice: Lattice) -> Folded:
    """Where each pixel of frames (n, n) is within the lattice."""
    axis = torch.arange(n, dtype=torch.float32, device=lattice.affine.device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    place = torch.stack((x, y), -1).reshape(1, -1, 2) - lattice.centre[:, None]
    straight = place @ (inverse(beams.distortion @ lattice.turn) * beams.pixel[:, None, None]).transpose(1, 2)
    h = straight @ inverse(lattice.affine).transpose(1, 2)
    index = torch.round(h @ table.vectors.T)
    spot = index @ inverse(table.vectors).T
    reach = table.number.shape[0] // 2
    inside = (index.abs() <= reach).all(-1)
    hk = index.long().clamp(-reach, reach) + reach
    which = torch.where(inside, table.number[hk[..., 0], hk[..., 1]], -1)
    return Folded(h, spot, straight - spot @ lattice.affine.transpose(1, 2), which, (place**2).sum(-1))


def _cubic_slope(t: Tensor) -> Tensor:
    """Derivatives (..., 4) of `_cubic` by t."""
    return torch.stack(
        (
            -0.5 + t * (2.0 - 1.5 * t),
            t * (4.5 * t - 5.0),
            0.5 + t * (4.0 - 4.5 * t),
            t * (1.5 * t - 1.0),
        ),
        -1,
    )


def _strain_slopes(flat: Tensor) -> Tensor:
    """Derivatives (b, 2, 2, 3) of exx, eyy, exy, as of `own_strain`, by the affine map whose inverse is (b, 2, 2)."""
    square = flat @ flat.transpose(1, 2)
    # Of (A^-1 A^-T - 1) / 2; what the next order adds is a few hundredths.
    each = -torch.einsum("bki,bjl->bijkl", flat, square)
    return torch.stack((each[..., 0, 0], each[..., 1, 1], (each[..., 0, 1] + each[..., 1, 0]) / 2), -1)


def _blurred(images: Tensor, sd: Tensor, n: int) -> Tensor:
    """Images (b, k, n²) after a Gaussian point spread of `sd` (b,) [pixels] each."""
    b, k, _ = images.shape
    offsets = torch.arange(-_BLUR, _BLUR + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sd[:, None].clamp(min=1e-3)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(k, 0)[:, None]
    out = images.reshape(1, b * k, n, n)
    for shaped, pad in ((kernel[:, :, None, :], (0, _BLUR)), (kernel[:, :, :, None], (_BLUR, 0))):
        out = torch.nn.functional.conv2d(out, shaped, padding=pad, groups=b * k)
    return out.reshape(b, k, n * n)


def _curvature(images: Tensor, n: int) -> Tensor:
    """Laplacian of images (b, n²): twice what a wider point spread adds, by its variance."""
    square = images.reshape(-1, n, n)
    padded = torch.nn.functional.pad(square[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    around = padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] + padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2]
    return (around - 4 * square).flatten(1)


def lorentzian(square: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """The background (b, p) of an electron at squared distances (b, p), and its derivative by the width's logarithm."""
    scaled = square / width[:, None] ** 2
    value = 1 / (1 + scaled)
    slope = 2 * scaled * value**2
    total = value.sum(1, keepdim=True)
    value = value / total
    return value, slope / total - value * slope.sum(1, keepdim=True) / total


def rates(table: DeviceTable, n: int, beams: Beams, state: CrystalState) -> tuple[Tensor, Tensor, Folded]:
    """Expected counts and their derivatives.

    Parameters
    ----------
    table : DeviceTable
    n : int
        Side of the frames [pixels].
    beams : Beams
        All at the table's energy.
    state : CrystalState

    Returns
    -------
    expected : Tensor (b, n²)
    slopes : Tensor (b, UNKNOWNS, n²)
        By the unknowns; the one by `disks` is the pattern of the disks of one electron.
    folded : Folded
    """
    at = folded(table, n, beams, state.lattice)
    b, size = len(state.layers), table.intensity.shape[-1]
    # F^-T of the lattice is its affine map, turned.
    flat = inverse(state.lattice.affine)
    fills = table.changing(state.layers, own_strain(flat.transpose(1, 2)))

    radius, pixel = beams.radius * beams.pixel, beams.pixel[:, None]
    distance = at.away.norm(dim=-1)
    # A pixel's square, as the Gaussian of the same variance: where the aperture's edge crosses it.
    soft = pixel / math.sqrt(12)
    # So softened, a circle has more area by that variance than it should.
    edge = ((radius[:, None] ** 2 - soft**2).sqrt() - distance) / soft
    pattern, spot = ((at.which >= 0) & (edge > -4)).nonzero(as_tuple=True)
    edge, soft, which = edge[pattern, spot], soft[pattern, 0], at.which[pattern, spot]
    covered = torch.special.ndtr(edge)
    narrowing = torch.exp(-0.5 * edge**2) / (math.sqrt(2 * math.pi) * soft)
    h, g, away = at.h[pattern, spot], at.spot[pattern, spot], at.away[pattern, spot]

    place = ((h - g - state.tilt[pattern]) / table.step + size // 2).clamp(1, size - 2.001)
    whole = place.floor()
    part, (ix, iy) = place - whole, whole.long().unbind(-1)
    steps = torch.arange(-1, 3, device=place.device)
    first = (pattern * table.intensity.shape[1] + which) * size * size
    taps = first[:, None, None] + (iy[:, None] + steps)[:, :, None] * size + (ix[:, None] + steps)[:, None, :]
    looked, by_layers = fills.intensity.reshape(-1)[taps], fills.by_layers.reshape(-1)[taps]
    wx, wy = _cubic(part[:, 0])[:, :, None], _cubic(part[:, 1])[:, None]
    sx, sy = _cubic_slope(part[:, 0])[:, :, None], _cubic_slope(part[:, 1])[:, None]
    rows = looked @ wx
    fill = (wy @ rows)[:, 0, 0].clamp(min=0)
    gradient = torch.cat(((wy @ (looked @ sx))[:, 0], (sy @ rows)[:, 0]), 1) / table.step
    layered = (wy @ (by_layers @ wx))[:, 0, 0]

    area = inverse(beams.distortion).det().abs() / (math.pi * beams.radius**2)
    inner = covered * area[pattern]
    # A move of the lattice moves the table under the pixel, and the aperture's edge.
    under = -(gradient[:, None] @ inverse(state.lattice.affine)[pattern])[:, 0] * inner[:, None]
    over = (fill * narrowing * area[pattern] / away.norm(dim=-1).clamp(min=1e-9))[:, None] * away
    within = torch.zeros(len(pattern), 2, 2, device=place.device)
    if fills.by_strain is not None:
        # Bilinear: it is a small part of the derivative.
        corners = (first + iy * size + ix)[:, None] + torch.tensor([0, 1, size, size + 1], device=place.device)
        px, py = part.unbind(-1)
        share = torch.stack(((1 - px) * (1 - py), px * (1 - py), (1 - px) * py, px * py), -1)
        stretched = torch.stack([(slope.reshape(-1)[corners] * share).sum(1) for slope in fills.by_strain], -1)
        within = torch.einsum("pc,pijc,p->pij", stretched, _strain_slopes(flat)[pattern], inner)
    columns = [
        fill * inner,
        *((under[:, i] * h[:, j] + over[:, i] * g[:, j] + within[:, i, j]) / SCALE for i in range(2) for j in range(2)),
        *((under + over) * beams.pixel[pattern, None]).unbind(1),
        layered * inner,
        *(-gradient * inner[:, None]).unbind(1),
    ]
    images = torch.zeros(len(columns), b * n * n, device=place.device)
    images[:, pattern * n * n + spot] = torch.stack(columns)
    images = _blurred(images.reshape(len(columns), b, n * n).transpose(0, 1).contiguous(), state.spread.sqrt(), n)
    behind, wider = lorentzian(at.square, state.log_width.exp() * n / 4)
    expected = state.disks[:, None] * images[:, 0] + state.background[:, None] * behind
    slopes = torch.cat(
        (
            state.disks[:, None, None] * images[:, 1:],
            images[:, :1],
            behind[:, None],
            (state.background[:, None] * wider)[:, None],
            (state.disks[:, None] * 0.5 * _curvature(images[:, 0], n))[:, None],
        ),
        1,
    )
    return expected, slopes, at
