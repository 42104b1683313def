"""The beam and the detector, as far as a diffraction pattern depends on them."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt


@dataclass(frozen=True)
class Optics:
    """Beam energy, convergence and the detector's calibration.

    Parameters
    ----------
    energy_keV : float
        Energy of the electrons [keV], 20 to 400.
    semiangle_mrad : float
        Convergence semiangle [mrad].
    pixel_mrad : float
        Angle that one detector pixel spans [mrad].
    n_pixels : int
        Pixels along each side of the (square) frame.
    psf_px : float
        Standard deviation of the detector's Gaussian point spread [pixels].
    background : float
        Fraction of the electrons that arrive in the diffuse background (inelastic and contamination), 0 to 1.
    """

    energy_keV: float = 80.0
    semiangle_mrad: float = 2.0
    pixel_mrad: float = 0.5
    n_pixels: int = 128
    psf_px: float = 0.6
    background: float = 0.05

    def __post_init__(self) -> None:
        limits = {
            "energy_keV": (20.0, 400.0, "keV"),
            "semiangle_mrad": (0.2, 50.0, "mrad"),
            "pixel_mrad": (0.005, 10.0, "mrad"),
            "n_pixels": (32, 1024, "pixels"),
            "psf_px": (0.0, 3.0, "pixels"),
            "background": (0.0, 0.95, ""),
        }
        for name, (low, high, unit) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value} {unit}; allowed is {low} to {high} {unit}".replace("  ", " "))

    @property
    def wavelength(self) -> float:
        """Relativistic electron wavelength [Å]."""
        volts = self.energy_keV * 1e3
        return 12.2642 / sqrt(volts * (1 + 0.978476e-6 * volts))

    @property
    def disk_radius(self) -> float:
        """Radius of a Bragg disk [pixels]."""
        return self.semiangle_mrad / self.pixel_mrad

    @property
    def pixel_reciprocal(self) -> float:
        """Size of one detector pixel in reciprocal space [1/Å]."""
        return self.pixel_mrad * 1e-3 / self.wavelength

    @property
    def resolution(self) -> float:
        """Diffraction-limited probe resolution, 0.61 λ/α [nm]."""
        return 0.061 * self.wavelength / (self.semiangle_mrad * 1e-3)

    @property
    def nyquist_step(self) -> float:
        """Largest scan step that Nyquist's criterion allows, half the probe's resolution [nm]."""
        return self.resolution / 2
