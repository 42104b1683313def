"""Where electrons arrive that thermal motion scattered diffusely, by first-order theory.

An atom that moves by itself (Einstein's model) scatters ``f(q)² (1 - exp(-B q²/2))`` diffusely, with its scattering
factor f and Debye–Waller factor B (Hall and Hirsch, Proc. R. Soc. A 286, 158 (1965)). How many electrons that makes of
a thick crystal the table of its disks says, dynamically; that each of them is scattered diffusely once, from the
incident direction, is the approximation here. Kikuchi bands, which a second, elastic scattering makes, are left out.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .disk_tables import REACH, DiskTable
from .materials import material
from .optics import Optics

#: Diffuse electrons are spread up to this wave vector [1/Å]; few go beyond.
WIDEST = 3 * REACH


@lru_cache
def _profile(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Distances [1/Å] and the distribution there [Å²]."""
    from abtem.parametrizations import LobatoParametrization
    from scipy.integrate import trapezoid

    crystal, factor = material(name), LobatoParametrization().projected_scattering_factor
    q = np.linspace(0, WIDEST, 6000)
    total = np.zeros_like(q)
    for site in crystal.sites:
        total -= factor(site.symbol)(q**2) ** 2 * np.expm1(-crystal.debye_waller[site.symbol] * q**2 / 2)
    return q, total / trapezoid(2 * np.pi * q * total, q)


def angular_distribution(name: str, q: np.ndarray) -> np.ndarray:
    """Probability of a diffusely scattered electron per area of reciprocal space [Å²].

    Parameters
    ----------
    name : str
        Material.
    q : array (...)
        Distance from the incident direction [1/Å].

    Returns
    -------
    array (...)
        Its integral up to `WIDEST` is one.
    """
    return np.interp(q, *_profile(name))


def diffuse_pattern(
    table: DiskTable, optics: Optics, layers: float, shift_px: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """The diffuse part of a pattern, to be added to the disks that `disk_patterns.compose` places.

    Parameters
    ----------
    table : DiskTable
        Disks of the material at the energy of `optics`.
    optics : Optics
        Beam and detector.
    layers : float
        Thickness in layers, within the table's.
    shift_px : (float, float)
        Where the beam's axis meets the detector, x and y from its centre [pixels].

    Returns
    -------
    array (n_pixels, n_pixels), float32
        Probability that an electron arrives in each pixel.
    """
    n, half = optics.n_pixels, table.diffuse.shape[-1] // 2
    # The number hardly changes across the aperture (by a few per cent of itself): its middle stands for all of it.
    fraction = np.interp(layers, table.layers, table.diffuse[:, half, half])
    axis = np.arange(n) - (n - 1) / 2
    q = np.hypot(axis - shift_px[0], (axis - shift_px[1])[:, None]) * optics.pixel_reciprocal
    spread = angular_distribution(table.material, q)
    return (fraction * spread * optics.pixel_reciprocal**2).astype(np.float32)
