"""What the crystal network is told of beam and detector, and which of them it was trained for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .lattice_view import SPOTS, Beams, supposed
from .materials import material
from .optics import Optics
from .projected_lattice import first_order


def beams_of(
    optics: Optics, materials: Sequence[str], name: str, count: int, distortion: np.ndarray, device: torch.device
) -> Beams:
    """What optics and distortion (2, 2) say of `count` patterns supposed to be of `name`, one of the network's."""

    def full(value: float) -> Tensor:
        return torch.full((count,), value, dtype=torch.float32, device=device)

    bend = torch.tensor(distortion, dtype=torch.float32, device=device).expand(count, 2, 2)
    empty = Beams(
        torch.zeros(count, dtype=torch.int64, device=device),
        torch.zeros(count, SPOTS, 2, device=device),
        torch.zeros(count, SPOTS, dtype=torch.bool, device=device),
        torch.eye(2, device=device).expand(count, 2, 2),
        full(optics.energy_keV),
        full(optics.semiangle_mrad),
        full(optics.pixel_reciprocal),
        full(optics.disk_radius),
        full(optics.psf_px),
        bend,
    )
    return supposed(empty, materials.index(name), name)


def check(optics: Optics, among: Sequence[str]) -> None:
    """Raise ValueError where the network was not trained for such optics; the message says what it reads."""
    if not 75 <= optics.energy_keV <= 310:
        raise ValueError(f"energy_keV is {optics.energy_keV}; the network was trained for 80, 200 and 300 keV")
    for name in among:
        first = first_order(material(name))
        touching = 1e3 * first * optics.wavelength / 2
        if optics.semiangle_mrad > 0.86 * touching:
            raise ValueError(
                f"semiangle_mrad = {optics.semiangle_mrad} lets the disks of {name} touch; the network reads "
                f"separate disks: choose at most {0.86 * touching:.2f}, or name other materials"
            )
        away = first / optics.pixel_reciprocal
        if not 12 <= away <= optics.n_pixels / 4 + 1:
            raise ValueError(
                f"pixel_mrad = {optics.pixel_mrad} puts the nearest reflections of {name} {away:.1f} pixels from "
                f"the beam; the network was trained for 12 to {optics.n_pixels / 4:.0f}: choose pixel_mrad from "
                f"{4e3 * first * optics.wavelength / optics.n_pixels:.3f} to "
                f"{1e3 * first * optics.wavelength / 12:.3f}"
            )
    if optics.disk_radius < 1.5:
        raise ValueError(
            f"semiangle_mrad = {optics.semiangle_mrad} gives disks of radius {optics.disk_radius:.2f} pixels; the "
            f"network reads disks of 1.5 pixels or more: choose at least {1.5 * optics.pixel_mrad:.2f}"
        )
