"""The learned half of the descriptor network: where electrons arrive behind a strained monolayer, differentiable.

A monolayer under a nearly parallel beam scatters into flat disks that do not overlap. So the number of electrons
expected in a pixel is a smooth background plus, for each reflection g, an intensity times the profile of a disk. How
bright each order is for each phase and beam energy, how soft the disk's edge is, and how much arrives where neither
disk nor background is, are the network's parameters; where the disks are is what it infers (`lattice_inference`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from . import crystals
from .optics import Optics

#: Squared length of the reflections in units of the first order's: {10}, {11}, {20}, {21}, {30}.
ORDERS = (1, 3, 4, 7, 9)
#: Pixels along the frame's edges that are not used.
RIM = 2
_HOST = torch.device("cpu")
#: Length of the reference lattice's first-order reciprocal vector [1/Å].
FIRST_ORDER = 2 / (np.sqrt(3) * crystals.REFERENCE.a)


def reflections() -> tuple[np.ndarray, np.ndarray]:
    """Vectors (n, 2) [1/Å] of the reference's reciprocal lattice in `ORDERS`, zigzag along x, and their order (n,)."""
    reciprocal = np.linalg.inv(crystals.REFERENCE.a * np.array([[1.0, 0.0], [-0.5, np.sqrt(3) / 2]])).T
    index = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 2, indexing="ij"), -1).reshape(-1, 2)
    vectors = index @ reciprocal
    squared = np.rint((vectors**2).sum(1) / FIRST_ORDER**2).astype(int)
    keep = np.isin(squared, ORDERS)
    order = np.argsort(squared[keep], kind="stable")
    return vectors[keep][order], np.searchsorted(ORDERS, squared[keep][order])


def interaction(energy_keV: float) -> float:
    """Interaction parameter of electrons with a potential [rad/(kV Å)] (Kirkland, 2010, eq. 5.6)."""
    rest = 510.99895
    wavelength = Optics(energy_keV).wavelength
    return 2 * np.pi / (wavelength * energy_keV) * (rest + energy_keV) / (2 * rest + energy_keV)


def squared_distance(n: int, centre: Tensor) -> Tensor:
    """Squared distance (b, n, n) of pixels from `centre` (b, 2) [pixels from the first pixel's centre]."""
    axis = torch.arange(n, dtype=torch.float32, device=centre.device)
    return (axis[None, None, :] - centre[:, 0, None, None]) ** 2 + (axis[None, :, None] - centre[:, 1, None, None]) ** 2


@dataclass(frozen=True)
class Beam:
    """Optics in the units of the inference: pixels, and reflections of the reference lattice."""

    optics: Optics
    device: torch.device = _HOST  #: where its tensors are

    @cached_property
    def vectors(self) -> Tensor:
        """(g, 2) reference reflections [pixels] whose disks can reach the detector."""
        return torch.tensor(self._within[0], dtype=torch.float32, device=self.device)

    @cached_property
    def order(self) -> Tensor:
        """(g,) index into `ORDERS` of each reflection."""
        return torch.tensor(self._within[1], device=self.device)

    @cached_property
    def _within(self) -> tuple[np.ndarray, np.ndarray]:
        vectors, order = reflections()
        vectors = vectors / self.optics.pixel_reciprocal
        near = 0.955 * np.hypot(*vectors.T) - self.optics.disk_radius < self.aperture
        return vectors[near], order[near]

    @property
    def aperture(self) -> float:
        """Radius [pixels] around the beam within which electrons are used.

        Multislice cannot follow electrons beyond it, and a square detector's corners hold few reflections.
        """
        return self.optics.n_pixels / 2 - 2.0

    def seen(self, centre: Tensor) -> Tensor:
        """1 in the pixels (b, n, n) whose counts are used, 0 elsewhere, for beams at `centre` (b, 2) [pixels].

        Left out are the direct disk and the frame's rim, into which the point spread brings nothing from outside.
        """
        n = self.optics.n_pixels
        distance2 = squared_distance(n, centre)
        inner = torch.zeros(n, n, device=self.device)
        inner[RIM:-RIM, RIM:-RIM] = 1
        return inner * (distance2 < self.aperture**2) * (distance2 > (self.radius + 4) ** 2)

    @property
    def span(self) -> float:
        """Half the detector's width over the first-order reflection's distance from the beam."""
        return self.optics.n_pixels / 2 * self.optics.pixel_reciprocal / FIRST_ORDER

    @property
    def radius(self) -> float:
        """Of a disk [pixels]."""
        return self.optics.disk_radius

    @property
    def background_centre(self) -> float:
        """Fraction of the electrons in the diffuse background's brightest pixel."""
        n = self.optics.n_pixels
        axis = np.arange(n) - (n - 1) / 2
        lorentzian = 1 / (1 + (axis[None] ** 2 + axis[:, None] ** 2) / (n / 4) ** 2)
        return self.optics.background / lorentzian.sum()

    def background(self, distance2: Tensor) -> Tensor:
        """Diffuse background per electron at squared distances [pixels²] from the beam."""
        return self.background_centre / (1 + distance2 / (self.optics.n_pixels / 4) ** 2)


class ScatteringModel(nn.Module):
    """Brightness and shape of the disks, learned from multislice patterns."""

    def __init__(self) -> None:
        super().__init__()
        n_phases, n_orders = len(crystals.MONOLAYERS), len(ORDERS)
        #: Logarithm of a disk's share of the electrons, at 80 keV, for the unstrained lattice.
        self.log_intensity = nn.Parameter(torch.tensor([-6.95, -7.0, -8.9, -9.2, -9.2]).repeat(n_phases, 1))
        #: How that changes with the logarithm of the squared interaction, beyond being proportional to it.
        self.energy_slope = nn.Parameter(torch.zeros(n_phases, n_orders))
        #: How it changes with the logarithm of a reflection's length, and with that of the unit cell's area.
        self.length_slope = nn.Parameter(torch.full((n_phases, n_orders), -2.0))
        self.area_slope = nn.Parameter(torch.full((n_phases, n_orders), -2.0))
        #: How it changes with the angle that the detector spans: multislice is followed no further, and what scatters
        #: twice through larger angles is missed. Slope and curvature by the logarithm of that angle.
        self.span_slope = nn.Parameter(torch.zeros(n_phases, n_orders))
        self.span_curve = nn.Parameter(torch.zeros(n_phases, n_orders))
        #: Width of a disk's edge beside the point spread: the pixel's own, and the aperture's [logarithm of pixels].
        self.log_edge = nn.Parameter(torch.tensor(-1.1))
        #: Electrons per pixel where nothing is expected, relative to a first-order disk's brightness.
        self.log_floor = nn.Parameter(torch.tensor(-7.0))

    def log_intensities(self, beam: Beam) -> Tensor:
        """(phases, orders) logarithm of the share of electrons in one disk of the unstrained reference lattice."""
        scale = 2 * np.log(interaction(beam.optics.energy_keV) / interaction(80.0))
        span = np.log(beam.span / 2.3)
        log = self.log_intensity + scale * (1 + self.energy_slope) + span * (self.span_slope + span * self.span_curve)
        return log + np.log(1 - beam.optics.background)

    def log_strained(self, beam: Beam, positions: Tensor) -> Tensor:
        """The same for disks that strain has moved.

        Parameters
        ----------
        beam : Beam
        positions : Tensor (b, g, 2)
            Where the reflections are, from the beam [pixels].

        Returns
        -------
        Tensor (b, phases, g)
        """
        length = torch.log(positions.norm(dim=-1) / beam.vectors.norm(dim=-1))
        # The mean change in length of all reflections is half that of the reciprocal cell's area.
        area = -2 * length.mean(dim=-1)
        log = self.log_intensities(beam)[:, beam.order]
        return (
            log
            + self.length_slope[:, beam.order] * length[:, None]
            + self.area_slope[:, beam.order] * area[:, None, None]
        )

    def edge(self, beam: Beam) -> Tensor:
        """Standard deviation of the blur of a disk's edge [pixels]."""
        return torch.sqrt(beam.optics.psf_px**2 + torch.exp(2 * self.log_edge))

    def profile(self, beam: Beam, distance: Tensor) -> Tensor:
        """Share of a disk's electrons per pixel, at distances [pixels] from its centre.

        A disk convolved with a Gaussian, from a table that is integrated numerically.
        """
        sigma = self.edge(beam)
        reach = beam.radius + 5.0 * float(sigma.detach())
        nodes, weights = np.polynomial.legendre.leggauss(64)
        s = torch.tensor((nodes + 1) / 2 * beam.radius, dtype=torch.float32, device=distance.device)
        w = torch.tensor(weights / 2 * beam.radius, dtype=torch.float32, device=distance.device)
        n = 512
        rho = torch.linspace(0, reach, n, device=distance.device)[:, None]
        ring = torch.exp(-((rho - s) ** 2) / (2 * sigma**2)) * torch.special.i0e(rho * s / sigma**2)
        table = (ring * s * w).sum(1) / sigma**2 / (np.pi * beam.radius**2)
        place = (distance / reach * (n - 1)).clamp(max=n - 1.001)
        low = place.long()
        part = place - low
        inside = (distance < reach).to(table.dtype)
        return (table[low] * (1 - part) + table[low + 1] * part) * inside

    def floor(self, beam: Beam) -> Tensor:
        """Electrons per pixel and electron where nothing is expected."""
        brightness = self.log_intensities(beam)[:, 0].mean() - np.log(np.pi * beam.radius**2)
        return torch.exp(self.log_floor + brightness)
