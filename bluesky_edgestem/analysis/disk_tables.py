"""The Bragg disks of a crystal, computed once for all apertures, tilts, strains and rotations.

Where disks do not overlap, each of their points comes from one direction of the incident beam: a plane wave, for which
the crystal is one cell that repeats. So a table holds the intensity of each reflection over a disk of directions κ,
wide enough for the aperture and the mistilt together, at many thicknesses, which one pass through the crystal gives.

A strained crystal is another cell, whose beams have other excitation errors and form factors. To first order a table
may hold what that does: the derivative of each intensity by the strain of the cell, at the same point of the disk and
at a thickness that grows by ``det F``, as a strained crystal's extinction lengths roughly do (see `disk_patterns`).

Thermal motion is exact for independent atoms (Einstein's model): the wave's mean over all frozen-phonon configurations
is one multislice with the mean of each layer's transmission function, because the layers move independently:
``⟨ψ⟩ = … P ⟨t2⟩ P ⟨t1⟩ ψ0``, and an atom's mean transmission is ``1 + gauss ∗ (exp(iσV) - 1)``. What this mean lacks of
the incident intensity was scattered diffusely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from . import crystals
from .materials import Material, material
from .optics import Optics

#: Scattering is computed up to this wave vector [1/Å]. In 20 nm of silicon at 200 keV the direct beam is then 0.5 %
#: dimmer than with 6 1/Å.
REACH = 4.0
#: A reflection that is nowhere brighter than this part of the incident beam is left out: forbidden ones are.
FAINTEST = 1e-5
#: Strain of the cells that derivatives are computed from. The next order of a strain of 1.5 % is then seven times what
#: the difference makes wrong, and rounding is less than both.
STRAIN_STEP = 2e-3


@dataclass(frozen=True)
class DiskTable:
    """Intensities of reflections over directions of the incident beam, one material and energy."""

    material: str
    energy_keV: float
    layers: np.ndarray  #: (t,) int, ascending, thicknesses
    reflections: np.ndarray  #: (g, 2) int, indices in the reference cell's reciprocal vectors; (0, 0) is among them
    step: float  #: between samples of κ [1/Å]
    #: (t, g, k, k) float32, first κ index along y, of the undeformed crystal unless `compute` was told of a strain;
    #: κ = 0 in the middle, and 0 beyond the circle that was computed
    intensity: np.ndarray
    #: (t, k, k) float32, scattered out of the mean wave
    diffuse: np.ndarray
    #: (3, t, g, k, k) float32, derivative of `intensity` by exx, eyy, exy in the crystal's axes; None: not computed
    by_strain: np.ndarray | None = None

    @property
    def reach(self) -> float:
        """Largest |κ| that the table holds [1/Å]; two samples beyond it are there to interpolate with."""
        return (self.intensity.shape[-1] // 2 - 2) * self.step


def _planes(crystal: Material) -> list[list[tuple[float, tuple[tuple[str, float, float], ...]]]]:
    """The planes of each layer of the period: distance to the next plane [Å], and (symbol, x, y) of its atoms."""
    ordered = sorted(crystal.sites, key=lambda site: (site.layer, site.z))
    grouped = groupby(ordered, lambda site: (site.layer, site.z))
    groups = [(key, tuple((site.symbol, site.x, site.y) for site in same)) for key, same in grouped]
    heights = [layer * crystal.spacing + z for (layer, z), _ in groups]
    heights.append(heights[0] + crystal.period * crystal.spacing)
    layers: list[list] = [[] for _ in range(crystal.period)]
    for i, ((layer, _), atoms) in enumerate(groups):
        layers[layer].append((heights[i + 1] - heights[i], atoms))
    return layers


class _Cell:
    """The crystal's cell on a grid, and what a plane of atoms does to a wave on it."""

    def __init__(
        self,
        crystal: Material,
        energy_keV: float,
        displacements: Mapping[str, float],
        strain: Sequence[float] = (0, 0, 0),
    ) -> None:
        from abtem.core.energy import energy2sigma
        from abtem.parametrizations import LobatoParametrization
        from scipy import fft

        self.crystal, self.wavelength = crystal, Optics(energy_keV).wavelength
        self._displacements, self._factor = displacements, LobatoParametrization().projected_scattering_factor
        self._sigma = energy2sigma(energy_keV * 1e3)
        # Half as much again as the reach keeps products of two waves from folding back into it.
        lengths = np.linalg.norm(crystal.vectors, axis=1)
        self.shape = tuple(fft.next_fast_len(int(np.ceil(3 * REACH * length))) for length in lengths)
        self.h, self.k = np.meshgrid(*(np.rint(np.fft.fftfreq(n) * n) for n in self.shape), indexing="ij")
        stretch = np.eye(2) + crystals.strain_tensor(np.asarray(strain, float))
        # The same beams for any strain: those that enter or leave at the edge would be seen in a difference.
        self.within = (np.stack([self.h, self.k], -1) @ crystal.reciprocal) ** 2 @ np.ones(2) < REACH**2
        g = np.stack([self.h, self.k], -1) @ crystal.reciprocal @ np.linalg.inv(stretch)
        self.gx, self.gy = g[..., 0], g[..., 1]
        self.g2 = self.gx**2 + self.gy**2
        # A strained crystal is thicker by this factor, its layers as many: in each there are more atoms per area.
        self.thicker = float(np.linalg.det(stretch))
        self.area = abs(np.linalg.det(crystal.vectors)) * self.thicker

    def transmission(self, atoms: Sequence[tuple[str, float, float]]) -> np.ndarray:
        """Mean transmission function of a plane (n1, n2), of the part of it within the reach."""
        total = np.ones(self.shape, complex)
        for symbol, x, y in atoms:
            shift = np.exp(-2j * np.pi * (self.h * x + self.k * y))
            potential = np.fft.ifft2(self._factor(symbol)(self.g2) * shift).real * self.g2.size / self.area
            potential *= self.thicker
            blur = np.exp(-2 * np.pi**2 * self._displacements.get(symbol, 0.0) ** 2 * self.g2)
            total *= 1 + np.fft.ifft2(np.fft.fft2(np.exp(1j * self._sigma * potential) - 1) * blur)
        return np.fft.ifft2(np.fft.fft2(total) * self.within).astype(np.complex64)

    def propagator(self, distance: float, kappa: np.ndarray) -> np.ndarray:
        """Fresnel propagators for plane waves of transverse wave vectors (m, 2), (m, n1, n2)."""
        cross = 2 * (kappa[:, 0, None, None] * self.gx + kappa[:, 1, None, None] * self.gy)
        phase = -np.pi * self.wavelength * self.thicker * distance * (self.g2 + cross)
        return (np.exp(1j * phase) * self.within).astype(np.complex64)


def reflections_within(crystal: Material, g_max: float) -> np.ndarray:
    """Indices (g, 2) of the reflections up to `g_max` [1/Å], by length."""
    reach = int(np.ceil(g_max * np.linalg.norm(crystal.vectors, axis=1).max())) + 1
    index = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    length = np.linalg.norm(index @ crystal.reciprocal, axis=1)
    index, length = index[length <= g_max], length[length <= g_max]
    return index[np.lexsort((index[:, 1], index[:, 0], np.round(length, 9)))]


def plane_wave_intensities(
    crystal: Material,
    energy_keV: float,
    kappa: np.ndarray,
    layers: Sequence[int] | np.ndarray,
    reflections: np.ndarray,
    displacements: Mapping[str, float] | None = None,
    strain: Sequence[float] = (0.0, 0.0, 0.0),
    batch: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """Intensity of reflections for plane waves through a crystal.

    Parameters
    ----------
    crystal : Material
    energy_keV : float
        Energy of the electrons [keV].
    kappa : array (m, 2)
        Transverse wave vectors of the incident waves, x and y from the zone axis [1/Å].
    layers : (t,) int
        Thicknesses, ascending.
    reflections : array (g, 2) int
        Indices in the reference cell.
    displacements : mapping, optional
        Root mean square displacement of each element along each axis [Å]; those of the material at 300 K if not given,
        none for atoms at rest.
    strain : (3,)
        exx, eyy, exy of the cell, in the crystal's axes. The crystal is then thicker by ``det(1 + ε)``, with as many
        layers.
    batch : int
        Waves that are computed together; as many as the processor's cache holds are fastest.

    Returns
    -------
    intensity : array (t, g, m), float32
        Of the incident wave's.
    diffuse : array (t, m), float32
        What the mean wave lacks of 1: scattered diffusely, or beyond `REACH`.
    """
    from scipy import fft

    cell = _Cell(crystal, energy_keV, crystal.displacements if displacements is None else displacements, strain)
    planes = [[(distance, cell.transmission(atoms)) for distance, atoms in layer] for layer in _planes(crystal)]
    at = tuple(np.asarray(reflections).T % np.array(cell.shape)[:, None])
    wanted = {int(n): i for i, n in enumerate(layers)}
    intensity = np.zeros((len(wanted), len(reflections), len(kappa)), np.float32)
    diffuse = np.zeros((len(wanted), len(kappa)), np.float32)
    size = np.float32(cell.g2.size)
    for start in range(0, len(kappa), batch):
        part = slice(start, start + batch)
        propagators = {distance: cell.propagator(distance, kappa[part]) for layer in planes for distance, _ in layer}
        wave = spectrum = np.ones((len(kappa[part]), *cell.shape), np.complex64)
        for layer in range(max(wanted)):
            for distance, transmission in planes[layer % crystal.period]:
                wave *= transmission
                spectrum = fft.fft2(wave, overwrite_x=True, workers=1)
                spectrum *= propagators[distance]
                wave = fft.ifft2(spectrum, workers=1)
            if layer + 1 in wanted:
                power = np.abs(spectrum / size) ** 2
                intensity[wanted[layer + 1], :, part] = power[:, at[0], at[1]].T
                diffuse[wanted[layer + 1], part] = 1 - power.sum((1, 2))
    return intensity, diffuse


def compute(
    name: str,
    energy_keV: float,
    layers: Sequence[int] | np.ndarray,
    angle_mrad: float,
    step_mrad: float = 0.25,
    g_max: float = 1.2,
    displacements: Mapping[str, float] | None = None,
    strained: bool = False,
    strain: Sequence[float] = (0.0, 0.0, 0.0),
) -> DiskTable:
    """A table of the disks of one material at one energy.

    Parameters
    ----------
    name : str
        Material.
    energy_keV : float
        Energy of the electrons [keV].
    layers : (t,) int
        Thicknesses, ascending.
    angle_mrad : float
        Largest semiangle and largest mistilt together [mrad].
    step_mrad : float
        Between directions [mrad]. The finest structure is about the plane distance over the thickness: 0.25 mrad
        resolves 40 nm.
    g_max : float
        Largest reflection [1/Å].
    displacements : mapping, optional
        As in `plane_wave_intensities`.
    strained : bool
        Compute the derivatives by strain too, in four times the time.
    strain : (3,)
        exx, eyy, exy, in the crystal's axes: the disks are those of a crystal with this strain, to all orders, and of
        no other.

    Raises
    ------
    ValueError
        If derivatives are asked for of a strained crystal.
    """
    if strained and np.any(strain):
        raise ValueError(f"derivatives are by strain from none on, asked for are those of {list(strain)}")
    crystal, step = material(name), step_mrad * 1e-3 / Optics(energy_keV).wavelength
    for n in (min(layers), max(layers)):
        crystal.check_layers(int(n))
    half = int(np.ceil(angle_mrad / step_mrad)) + 2
    axis = np.arange(-half, half + 1) * step
    x, y = np.meshgrid(axis, axis)
    inside = x**2 + y**2 < ((half - 0.5) * step) ** 2
    reflections = reflections_within(crystal, g_max)
    kappa = np.stack([x[inside], y[inside]], -1)

    def through(cell: Sequence[float], beams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # A wave vector keeps its place among the cell's own: κ becomes (1 + ε)^-1 κ, as g does.
        moved = kappa @ np.linalg.inv(np.eye(2) + crystals.strain_tensor(np.asarray(cell)))
        return plane_wave_intensities(crystal, energy_keV, moved, layers, beams, displacements, cell)

    found, lost = through(strain, reflections)
    seen = found.max((0, 2)) > FAINTEST
    seen[0] = True

    def on_the_grid(values: np.ndarray) -> np.ndarray:
        grid = np.zeros((*values.shape[:-1], *x.shape), np.float32)
        grid[..., inside] = values
        return grid

    by_strain = None
    if strained:
        slopes = []
        for step_of in STRAIN_STEP * np.eye(3):
            there, _ = through(step_of.tolist(), reflections[seen])
            slopes.append(on_the_grid((there - found[:, seen]) / STRAIN_STEP))
        by_strain = np.array(slopes)
    return DiskTable(
        name, energy_keV, np.asarray(layers, int), reflections[seen], step,
        on_the_grid(found[:, seen]), on_the_grid(lost), by_strain,
    )  # fmt: skip
