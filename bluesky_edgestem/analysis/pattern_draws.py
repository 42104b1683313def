"""Training patterns of crystals of any thickness: what a microscope may do to a pattern, drawn at random.

Strain, rotation, thickness, mistilt, semiangle, calibration, descan, ellipticity of the lenses, dose, background and
point spread are drawn for each pattern, within what the table of its disks answers and as long as disks stay apart. The
same generator draws the same pattern.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from . import crystals
from .diffraction import detected
from .diffuse_scattering import diffuse_pattern
from .disk_patterns import INTERFERING, compose
from .disk_tables import DiskTable
from .materials import material
from .optics import Optics

# What is drawn from, uniformly if nothing else is said.
STRAIN = (0.02, 0.02, 0.015)  # |exx|, |eyy|, |exy|
SEMIANGLE = (0.8, 5.0)  # [mrad], as far as disks stay apart
FIRST_ORDER = (0.12, 0.32)  # distance of the nearest bright reflection from the beam, of the frame's side
THICKNESS = (5.0, 40.0)  # [nm]; of sheets, the numbers of layers that there are
MISTILT = 5.0  # [mrad], in a circle
SHIFT = 3.0  # [pixels], descan along x and y
ELLIPTICITY = 0.02
DOSE = (1e3, 1e6)  # [electrons per pattern], its logarithm uniform
BACKGROUND = 0.7  # at most; a tenth of the patterns have none
PSF = (0.3, 1.0)  # [pixels]


@dataclass(frozen=True)
class Drawn:
    """What a pattern was drawn with."""

    semiangle_mrad: float
    pixel_mrad: float
    psf_px: float
    background: float
    strain: tuple[float, float, float]  #: exx, eyy, exy, image axes
    rotation: float  #: [rad]
    layers: float  #: thickness
    mistilt_mrad: tuple[float, float]
    shift_px: tuple[float, float]
    distortion: tuple[float, float, float, float]  #: of the projector lenses, row by row
    dose: float  #: electrons

    def optics(self, energy_keV: float, n_pixels: int) -> Optics:
        """Beam and detector."""
        return Optics(energy_keV, self.semiangle_mrad, self.pixel_mrad, n_pixels, self.psf_px, self.background)


#: How a file keeps `Drawn`.
DTYPE = np.dtype(
    [
        (name, "f8", {"strain": (3,), "mistilt_mrad": (2,), "shift_px": (2,), "distortion": (4,)}.get(name, ()))
        for name in (field.name for field in fields(Drawn))
    ]
)


def nearest_bright(table: DiskTable) -> float:
    """Length of the shortest reflection that others must not overlap [1/Å]."""
    bright = table.intensity.max((0, 2, 3)) > INTERFERING
    lengths = np.linalg.norm(table.reflections[bright] @ material(table.material).reciprocal, axis=1)
    return float(lengths[lengths > 0].min())


def draw(table: DiskTable, n_pixels: int, rng: np.random.Generator) -> Drawn:
    """Draw what one pattern is made with, within what the table answers."""
    wavelength = Optics(table.energy_keV).wavelength
    strain = rng.uniform(-1, 1, 3) * STRAIN
    stretch = 1 + np.abs(np.linalg.eigvalsh(crystals.strain_tensor(strain))).max()
    bragg = nearest_bright(table) * wavelength * 1e3
    pixel = bragg / (rng.uniform(*FIRST_ORDER) * n_pixels)
    reach = table.reach * wavelength * 1e3 / stretch - pixel
    widest = min(SEMIANGLE[1], 0.49 * bragg / stretch, reach)
    if widest < SEMIANGLE[0]:
        raise ValueError(
            f"the disks of {table.material} at {table.energy_keV:g} keV allow semiangles up to {widest:.2f} mrad, from "
            f"{SEMIANGLE[0]} mrad on are drawn: compute a table for larger angles"
        )
    semiangle = rng.uniform(SEMIANGLE[0], widest)
    tilt = min(MISTILT, 0.999 * (reach - semiangle)) * np.sqrt(rng.uniform())
    azimuth, axis = rng.uniform(-np.pi, np.pi, 2)
    crystal = material(table.material)
    thinner = 1 / (1 + strain[0]) / (1 + strain[1])
    if crystal.max_layers <= 3:
        layers = float(rng.choice(table.layers))
    else:
        low, high = (10 * t / crystal.spacing for t in THICKNESS)
        first, last = table.layers[0] * max(1, 1 / thinner), table.layers[-1] * min(1, 1 / thinner)
        layers = rng.uniform(max(low, first), min(high, last))
    turn, ellipticity = crystals.rotation_matrix(axis), rng.uniform(0, ELLIPTICITY)
    distortion = turn @ np.diag([1 + ellipticity / 2, 1 - ellipticity / 2]) @ turn.T
    return Drawn(
        semiangle_mrad=float(semiangle), pixel_mrad=float(pixel), psf_px=float(rng.uniform(*PSF)),
        background=0.0 if rng.uniform() < 0.1 else float(rng.uniform(0, BACKGROUND)),
        strain=tuple(strain.tolist()), rotation=float(rng.uniform(-np.pi, np.pi)), layers=float(layers),
        mistilt_mrad=(float(tilt * np.cos(azimuth)), float(tilt * np.sin(azimuth))),
        shift_px=tuple(rng.uniform(-SHIFT, SHIFT, 2).tolist()), distortion=tuple(distortion.ravel().tolist()),
        dose=float(10 ** rng.uniform(*np.log10(DOSE))),
    )  # fmt: skip


def expected(table: DiskTable, drawn: Drawn, n_pixels: int) -> np.ndarray:
    """Probability that an electron is counted in each pixel, (n_pixels, n_pixels) float32."""
    optics = drawn.optics(table.energy_keV, n_pixels)
    disks = compose(
        table, optics, drawn.strain, drawn.rotation, drawn.layers, drawn.shift_px,
        mistilt_mrad=drawn.mistilt_mrad, distortion=np.reshape(drawn.distortion, (2, 2)),
    )  # fmt: skip
    return detected(disks + diffuse_pattern(table, optics, drawn.layers, drawn.shift_px), optics, drawn.shift_px)
