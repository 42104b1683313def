"""Poisson log-likelihood of each disk's place, as one layer of matched filters.

For a disk of intensity I and profile K on a background b, moving it to x changes the log-likelihood of the counts n by
``Σ (n - m) k(. - x) + Σ [b k - I K](. - x)`` with ``k = log(1 + I K / b)`` and m what is expected without the disk: a
linear filter of the counts. Disks do not overlap, so that the likelihood of a lattice is the sum over its disks.
Filters depend on optics only; the counts around every disk of every pattern go through them in one matrix product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .scattering import ORDERS, Beam, ScatteringModel

#: Places of a disk around the pixel where it is looked for: this far [pixels], at this step.
REACH = 3.5
STEP = 0.5


def spline_weights(part: Tensor) -> Tensor:
    """Cubic B-spline weights (..., 4) of the samples around a place `part` (...) of a step beyond the second one."""
    p, q = part, 1 - part
    return torch.stack([q**3, 4 - 6 * p**2 + 3 * p**3, 4 - 6 * q**2 + 3 * q**3, p**3], -1) / 6


def spline_slopes(part: Tensor) -> Tensor:
    """Derivatives of `spline_weights` by `part`."""
    p, q = part, 1 - part
    return torch.stack([-(q**2), -4 * p + 3 * p**2, 4 * q - 3 * q**2, p**2], -1) / 2


def _spline_filter(n: int, margin: int, device: torch.device) -> Tensor:
    """(n - 2 margin, n): turns samples into B-spline coefficients."""
    beside = torch.ones(n - 1, device=device) / 6
    sampling = torch.eye(n, device=device) * 4 / 6 + torch.diag(beside, 1) + torch.diag(beside, -1)
    return torch.linalg.inv(sampling)[margin : n - margin]


@dataclass(frozen=True)
class Filters:
    """Matched filters of one order of reflections, per electron of dose."""

    half: int  #: windows of counts are 2 half + 1 pixels wide
    counts: Tensor  #: (window², places²) spline coefficients of k
    shape: Tensor  #: (window², places²) spline coefficients of I K
    base: float  #: background b
    information: float  #: Fisher information of each coordinate of the disk's place, per electron [1/pixels²]
    gain: float  #: mean of the log-likelihood's rise, per electron
    gain_variance: float  #: its variance, per electron


def matched_filters(model: ScatteringModel, beam: Beam, intensity: Tensor, base: Tensor) -> Filters:
    """The filters for disks of `intensity` on the background `base`, both per electron."""
    sigma = float(model.edge(beam).detach())
    half = math.ceil(beam.radius + 3.5 * sigma + REACH)
    margin = 4
    places = int(2 * REACH / STEP) + 1
    axis = torch.arange(-half, half + 1, dtype=torch.float32, device=beam.device)
    place = (torch.arange(places + 2 * margin, device=beam.device) - (places - 1) / 2 - margin) * STEP
    d2 = (axis[:, None] - place[None, :]) ** 2  # (window, places)
    distance = torch.sqrt(d2[:, None, :, None] + d2[None, :, None, :])  # (wy, wx, py, px)
    disk = intensity * model.profile(beam, distance)
    gain = torch.log1p(disk / base)
    to_spline = _spline_filter(places + 2 * margin, margin, beam.device)
    window = 2 * half + 1

    def bank(samples: Tensor) -> Tensor:
        out = torch.einsum("pa,yxab,qb->yxpq", to_spline, samples, to_spline)
        return out.reshape(window**2, places**2)

    centre = (places + 2 * margin) // 2
    here, log_here = disk[:, :, centre, centre], gain[:, :, centre, centre]
    rate = here + base
    slope = (disk[:, :, centre, centre + 1] - disk[:, :, centre, centre - 1]) / (2 * STEP)
    return Filters(
        half,
        bank(gain),
        bank(disk),
        float(base),
        float((slope**2 / rate).sum()),
        float((rate * log_here - here).sum()),
        float((rate * log_here**2).sum()),
    )


def windows(images: Tensor, corner: Tensor, size: int) -> Tensor:
    """Windows (b, g, size²) of images (b, n, n), whose first pixels (x, y) are `corner` (b, g, 2); zero outside."""
    b, n, _ = images.shape
    padded = torch.nn.functional.pad(images, (size, size, size, size))
    corner = corner.clamp(-size, n) + size
    axis = torch.arange(size, device=images.device)
    rows = corner[:, :, 1, None] + axis
    columns = corner[:, :, 0, None] + axis
    which = torch.arange(b, device=images.device)[:, None, None, None]
    return padded[which, rows[..., None], columns[:, :, None, :]].reshape(b, corner.shape[1], size * size)


def around(places: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """First pixels (b, g, 2) of windows of 2 half + 1 pixels around `places` (b, g, 2), and distances (b, g, size²)."""
    corner = torch.round(places).long() - half
    offset = corner[..., None] + torch.arange(2 * half + 1, device=places.device) - places[..., None]
    distance = torch.sqrt(offset[:, :, 0, None, :] ** 2 + offset[:, :, 1, :, None] ** 2)
    return corner, distance.flatten(2)


class DiskMaps:
    """Log-likelihood of the place of each disk of each pattern, near where it is expected.

    Parameters
    ----------
    coefficients : Tensor (b, g, places, places)
        Spline coefficients, rows along y.
    origin : Tensor (b, g, 2)
        Place (x, y) of the middle coefficient [pixels].
    """

    def __init__(self, coefficients: Tensor, origin: Tensor) -> None:
        self.coefficients = coefficients
        self.origin = origin
        self._last = coefficients.shape[-1] - 1

    def _locate(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u = (places - self.origin[:, None]) / STEP + self._last / 2
        inside = ((u > 1) & (u < self._last - 1)).all(-1)
        u = u.clamp(1.0, self._last - 1.001)
        low = u.long()
        return low, u - low, inside

    def _taps(self, low: Tensor) -> Tensor:
        """(b, s, g, 4, 4) coefficients around places in the cells `low`."""
        b, s, g, _ = low.shape
        width = self._last + 1
        first = (low[..., 1] - 1) * width + low[..., 0] - 1 + torch.arange(g, device=low.device) * width**2
        tap = torch.arange(4, device=low.device)
        offset = (tap[:, None] * width + tap).reshape(-1)
        index = (first[..., None] + offset).reshape(b, -1)
        return self.coefficients.reshape(b, -1).gather(1, index).reshape(b, s, g, 4, 4)

    def value(self, places: Tensor) -> Tensor:
        """Log-likelihood (b, s) of disks at `places` (b, s, g, 2), against no disks."""
        low, part, _ = self._locate(places)
        w = spline_weights(part)
        return torch.einsum("bsgij,bsgi,bsgj->bs", self._taps(low), w[..., 1, :], w[..., 0, :])

    def slope(self, places: Tensor) -> Tensor:
        """Gradient (b, g, 2) of each disk's log-likelihood by its place, at `places` (b, g, 2)."""
        low, part, inside = self._locate(places[:, None])
        taps = self._taps(low)[:, 0]
        w, d = spline_weights(part)[:, 0], spline_slopes(part)[:, 0] / STEP
        x = torch.einsum("bgij,bgi,bgj->bg", taps, w[..., 1, :], d[..., 0, :])
        y = torch.einsum("bgij,bgi,bgj->bg", taps, d[..., 1, :], w[..., 0, :])
        return torch.stack([x, y], -1) * inside[:, 0, :, None]


def disk_maps(
    filters: dict[int, Filters],
    order: Tensor,
    counts: Tensor,
    dose: Tensor,
    seen: Tensor,
    expected: Tensor,
    places: Tensor,
) -> DiskMaps:
    """Send the counts around each disk through its order's filters.

    Parameters
    ----------
    filters : dict
        By index into `ORDERS`.
    order : Tensor (g,)
        Index into `ORDERS` of each disk.
    counts : Tensor (b, n, n)
    dose : Tensor (b,)
        Electrons in each pattern.
    seen : Tensor (b, n, n)
        1 where counts are used, 0 elsewhere.
    expected : Tensor (b, n, n)
        What is expected without the disks, per electron.
    places : Tensor (b, g, 2)
        Pixel (x, y from the first pixel's centre) near which each disk is looked for.
    """
    b, g, _ = places.shape
    n_places = int(2 * REACH / STEP) + 1
    origin = torch.round(places)
    maps = counts.new_zeros(b, g, n_places, n_places)
    per_dose = dose[:, None, None]
    for index in range(len(ORDERS)):
        mine = torch.nonzero(order == index)[:, 0]
        if not len(mine):
            continue
        f = filters[index]
        surplus = (counts - per_dose * (expected - f.base)) * seen
        corner = origin[:, mine].long() - f.half
        size = 2 * f.half + 1
        rise = windows(surplus, corner, size) @ f.counts - per_dose * (windows(seen, corner, size) @ f.shape)
        maps[:, mine] = rise.reshape(b, len(mine), n_places, n_places)
    return DiskMaps(maps, origin)
