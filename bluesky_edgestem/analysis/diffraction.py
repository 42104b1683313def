"""Diffraction patterns by multislice (abTEM), as a pixelated detector sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .optics import Optics

#: Samples of the exit wave's spectrum along each side of a detector pixel; their mean stands for the pixel's area. With
#: two, the simulated cell is twice as wide as one pixel's reciprocal, so that the probe's tails do not meet.
OVERSAMPLING = 2


def patch_extent(optics: Optics) -> float:
    """Side of the patch of specimen that a pattern is computed from [Å]."""
    return OVERSAMPLING / optics.pixel_reciprocal


@dataclass(frozen=True)
class Ensemble:
    """What differs from electron to electron: where the atoms are, and partial coherence. Their patterns are averaged.

    Disks that do not overlap, of a crystal without faults, are changed by the atoms' motion only: the place and the
    focus of the probe are phases across the aperture, and each point of a disk comes from one point of the aperture.
    They matter where disks overlap, and where the probe sees an interface.
    """

    configurations: int = 1  #: draws that are averaged
    seed: int = 0  #: settles every draw
    displacements: Mapping[str, float] = field(default_factory=dict)  #: of each element along each axis, rms [Å]
    source_size: float = 0.0  #: image of the source on the specimen, standard deviation along each axis [Å]
    focal_spread: float = 0.0  #: standard deviation of the focus, from the energy spread [Å]

    def __post_init__(self) -> None:
        if self.configurations < 1:
            raise ValueError(f"an ensemble has 1 configuration or more, got {self.configurations}")

    def draw(self, atoms, index: int):
        """One configuration: the atoms displaced, the probe's offset (2,) [Å] and its defocus [Å]."""
        if not self.displacements:
            moved = atoms
        elif missing := set(atoms.symbols) - set(self.displacements):
            raise ValueError(f"no displacement for {', '.join(sorted(missing))}; given are {dict(self.displacements)}")
        else:
            moved = atoms.copy()
        rng = np.random.default_rng([self.seed, index])
        if moved is not atoms:
            widths = np.array([self.displacements[symbol] for symbol in atoms.symbols])
            # In the plane only: along the beam a displacement of a tenth of an ångström changes nothing.
            moved.positions[:, :2] += widths[:, None] * rng.standard_normal((len(atoms), 2))
        return moved, self.source_size * rng.standard_normal(2), self.focal_spread * rng.standard_normal()


STILL = Ensemble()


def _grid_points(optics: Optics, reach: float) -> int:
    """Samples along each side of the patch."""
    from scipy import fft

    # The outer third of the spectrum is abTEM's anti-aliasing margin, where electrons are lost. It begins a third
    # beyond the frame's edge: a reflection just outside still has its disk's part inside, and electrons that are
    # scattered twice by way of larger angles are there (with the margin at the edge, first-order disks were a tenth
    # dimmer).
    wanted = max(2 * OVERSAMPLING * optics.n_pixels, int(np.ceil(3 * reach * patch_extent(optics))))
    gpts = fft.next_fast_len(wanted)
    return gpts + gpts % 2


def cbed(
    atoms,
    optics: Optics,
    shift_px: tuple[float, float] = (0.0, 0.0),
    *,
    mistilt_mrad: tuple[float, float] = (0.0, 0.0),
    ensemble: Ensemble = STILL,
    slice_thickness: float = 3.0,
    reach: float = 0.0,
) -> np.ndarray:
    """Intensity on the detector from multislice, before point spread and background.

    Parameters
    ----------
    atoms : ase.Atoms
        Specimen in a square cell of side `patch_extent(optics)`, the probe over its centre.
    optics : Optics
        Beam and detector.
    shift_px : (float, float)
        Where the beam's axis meets the detector, x and y from its centre [pixels] (descan).
    mistilt_mrad : (float, float)
        Where the zone axis points, x and y from the beam's axis [mrad]: the Laue circle and the Kikuchi bands are
        centred there. Computed as a beam tilted the other way, which for the few mrad that are meant is the same.
    ensemble : Ensemble
        Thermal motion and partial coherence; the default is atoms at rest and a coherent probe.
    slice_thickness : float
        Thickness of the slices [Å]; for a stack of layers (`materials`), their spacing or an integer part of it.
    reach : float
        Scattering up to this wave vector is computed [1/Å], and to a third beyond the frame if that is more. A
        monolayer needs no more; in a thick crystal electrons come back from large angles. In 20 nm of silicon at
        200 keV the direct beam is 12 % too dim with 2.5 1/Å, 2 % with 4 and 1 % with 6.

    Returns
    -------
    array (n_pixels, n_pixels), float32
        Probability that an electron arrives in each pixel; row index grows with y, column index with x. The detector's
        centre, `((n - 1)/2, (n - 1)/2)`, is where an unshifted beam arrives.

    Raises
    ------
    ValueError
        If the patch has the wrong size, or an element no displacement.
    """
    extent = patch_extent(optics)
    if abs(atoms.cell[0, 0] - extent) > 1e-6 * extent:
        raise ValueError(f"the specimen patch is {atoms.cell[0, 0]:.3f} Å wide; these optics need {extent:.3f} Å")
    gpts = _grid_points(optics, reach)
    tilt = (-mistilt_mrad[0], -mistilt_mrad[1])
    total = np.zeros((optics.n_pixels, optics.n_pixels))
    for index in range(ensemble.configurations):
        moved, offset, defocus = ensemble.draw(atoms, index)
        wave = _exit_wave(moved, optics, gpts, slice_thickness, extent / 2 + offset, tilt, defocus)
        total += _recorded(wave, optics, shift_px)
    return np.ascontiguousarray(total.T / ensemble.configurations, dtype=np.float32)


def _exit_wave(atoms, optics: Optics, gpts: int, slice_thickness: float, position, tilt, defocus: float) -> np.ndarray:
    """The wave behind the specimen, (gpts, gpts) complex, first index along x."""
    import abtem
    import dask

    with dask.config.set(scheduler="single-threaded"), abtem.config.set({"diagnostics.progress_bar": False}):
        potential = abtem.Potential(
            atoms, gpts=gpts, slice_thickness=slice_thickness, parametrization="lobato", projection="infinite"
        )
        probe = abtem.Probe(
            energy=optics.energy_keV * 1e3,
            semiangle_cutoff=optics.semiangle_mrad,
            gpts=gpts,
            extent=atoms.cell[0, 0],
            tilt=tilt,
            defocus=defocus,
        )
        exit_wave: Any = probe.multislice(potential, scan=abtem.CustomScan([list(position)]))
        return np.asarray(exit_wave.compute().array).reshape(gpts, gpts)


def _recorded(wave: np.ndarray, optics: Optics, shift_px: tuple[float, float]) -> np.ndarray:
    """Probability of each pixel, (n_pixels, n_pixels), first index along x."""
    from scipy import fft

    gpts, n = len(wave), OVERSAMPLING * optics.n_pixels
    # A ramp over the exit wave shifts the pattern exactly, by fractions of a pixel too; the half sample brings the
    # unshifted beam from its sample of the spectrum to the corner of four, which is the detector's centre.
    steps = np.arange(gpts) / gpts
    sx, sy = (OVERSAMPLING * s - 0.5 for s in shift_px)
    wave = wave * np.exp(2j * np.pi * (sx * steps[:, None] + sy * steps[None, :]))
    spectrum = np.fft.fftshift(fft.fft2(wave, workers=1))
    low = gpts // 2 - n // 2
    intensity = np.abs(spectrum[low : low + n, low : low + n]) ** 2
    intensity = intensity.reshape(optics.n_pixels, OVERSAMPLING, optics.n_pixels, OVERSAMPLING).sum((1, 3))
    return intensity / (np.abs(spectrum) ** 2).sum()


def detected(pattern: np.ndarray, optics: Optics, shift_px: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """What the detector makes of patterns: point spread, and the diffuse background.

    The background is a Lorentzian around the beam whose half width is a quarter of the detector; it takes
    `optics.background` of the electrons.

    Parameters
    ----------
    pattern : array (..., n, n)
        From `cbed`.
    optics : Optics
        Beam and detector.
    shift_px : (float, float)
        The shift of the beam that `pattern` was made with [pixels].

    Returns
    -------
    array (..., n, n), float32
        Probability that an electron is counted in each pixel.
    """
    from scipy.ndimage import gaussian_filter1d

    n = pattern.shape[-1]
    out = np.asarray(pattern, np.float32)
    if optics.psf_px:
        for axis in (-2, -1):
            out = gaussian_filter1d(out, optics.psf_px, axis=axis, mode="constant")
    axis = np.arange(n) - (n - 1) / 2
    radius2 = (axis[None, :] - shift_px[0]) ** 2 + (axis[:, None] - shift_px[1]) ** 2
    lorentzian = 1 / (1 + radius2 / (n / 4) ** 2)
    lorentzian /= lorentzian.sum()
    return ((1 - optics.background) * out + optics.background * lorentzian).astype(np.float32)


def counted(pattern: np.ndarray, dose: float, rng: np.random.Generator) -> np.ndarray:
    """Electrons counted at `dose` [electrons per pattern], Poisson distributed; uint16, saturating at 65535."""
    if not (np.isfinite(dose) and dose >= 0):
        raise ValueError(f"a dose is 0 electrons per pattern or more, got {dose}")
    return np.minimum(rng.poisson(pattern * dose), 65535).astype(np.uint16)
