"""Diffraction patterns by multislice (abTEM), as a pixelated detector sees them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .optics import Optics

#: Samples of the exit wave's spectrum along each side of a detector pixel; their mean stands for the pixel's area. With
#: two, the simulated cell is twice as wide as one pixel's reciprocal, so that the probe's tails do not meet.
OVERSAMPLING = 2


def patch_extent(optics: Optics) -> float:
    """Side of the patch of specimen that a pattern is computed from [Å]."""
    return OVERSAMPLING / optics.pixel_reciprocal


def cbed(atoms, optics: Optics, shift_px: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Intensity on the detector from multislice, before point spread and background.

    Parameters
    ----------
    atoms : ase.Atoms
        Specimen in a square cell of side `patch_extent(optics)`, the probe over its centre.
    optics : Optics
        Beam and detector.
    shift_px : (float, float)
        Where the beam's axis meets the detector, x and y from its centre [pixels] (descan).

    Returns
    -------
    array (n_pixels, n_pixels), float32
        Probability that an electron arrives in each pixel; row index grows with y, column index with x. The detector's
        centre, `((n - 1)/2, (n - 1)/2)`, is where an unshifted beam arrives.
    """
    import abtem
    import dask
    from scipy import fft

    extent = patch_extent(optics)
    if abs(atoms.cell[0, 0] - extent) > 1e-6 * extent:
        raise ValueError(f"the specimen patch is {atoms.cell[0, 0]:.3f} Å wide; these optics need {extent:.3f} Å")
    n = OVERSAMPLING * optics.n_pixels
    # The outer third of the spectrum is abTEM's anti-aliasing margin, where electrons are lost. It begins a third
    # beyond the frame's edge: a reflection just outside still has its disk's part inside, and electrons that are
    # scattered twice by way of larger angles are there (with the margin at the edge, first-order disks were a tenth
    # dimmer).
    gpts = fft.next_fast_len(2 * n)
    gpts += gpts % 2
    with dask.config.set(scheduler="single-threaded"), abtem.config.set({"diagnostics.progress_bar": False}):
        potential = abtem.Potential(
            atoms, gpts=gpts, slice_thickness=3.0, parametrization="lobato", projection="infinite"
        )
        probe = abtem.Probe(
            energy=optics.energy_keV * 1e3, semiangle_cutoff=optics.semiangle_mrad, gpts=gpts, extent=extent
        )
        exit_wave: Any = probe.multislice(potential, scan=abtem.CustomScan([[extent / 2, extent / 2]]))
        wave = np.asarray(exit_wave.compute().array).reshape(gpts, gpts)
    # A ramp over the exit wave shifts the pattern exactly, by fractions of a pixel too; the half sample brings the
    # unshifted beam from its sample of the spectrum to the corner of four, which is the detector's centre.
    steps = np.arange(gpts) / gpts
    sx, sy = (OVERSAMPLING * s - 0.5 for s in shift_px)
    wave = wave * np.exp(2j * np.pi * (sx * steps[:, None] + sy * steps[None, :]))
    spectrum = np.fft.fftshift(fft.fft2(wave, workers=1))
    low = gpts // 2 - n // 2
    intensity = np.abs(spectrum[low : low + n, low : low + n]) ** 2
    intensity = intensity.reshape(optics.n_pixels, OVERSAMPLING, optics.n_pixels, OVERSAMPLING).sum((1, 3))
    total = (np.abs(spectrum) ** 2).sum()
    return np.ascontiguousarray((intensity / total).T, dtype=np.float32)


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
