"""A case of the strain benchmark that we did not make: `pyxem.data.simulated_strain`, a precipitate in silicon.

Its disks are flat, with the edge of whole pixels, and it rounds the unstrained spots to whole pixels before it moves
them: no lattice fits them exactly, and what is left is the same for everybody. So here the mean error over the scan is
taken off of all alike, and a bound is not computed. Strain is up to 1.5 % in the middle of the precipitate.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from strain_cases import Specimen, StrainCase

from bluesky_edgestem.analysis import crystals
from bluesky_edgestem.analysis.optics import Optics

ROOT = Path(__file__).parents[1]
SIDE, PIXELS, RADIUS = 16, 256, 12
RECIPROCAL_PIXEL = 0.01  # [1/Å], as pyxem has it
SPACING = np.sqrt(8) / 5.43 / RECIPROCAL_PIXEL  # of {220} in silicon [pixels]


def make_pyxem(seed: int) -> StrainCase:
    """The case of one seed, which settles the strain in the precipitate."""
    along_y, along_x, across = np.random.default_rng([seed, 7]).uniform(-0.02, 0.02, 3)
    with TemporaryDirectory() as folder:
        out = Path(folder) / "made.npz"
        words = [str(word) for word in (SIDE, PIXELS, RADIUS, along_y, along_x, across, out)]
        command = [str(ROOT / ".venv-pyxem/bin/python"), str(ROOT / "tests/peers/make_strained.py"), *words]
        subprocess.run(command, check=True, capture_output=True)
        with np.load(out) as made:
            patterns, share = made["patterns"], made["share"]
    patterns /= patterns.sum((1, 2), keepdims=True)
    # What moves the spots apart by S presses the crystal together: F = (1 + S)^-1.
    apart = np.eye(2) + share[:, None, None] * np.array([[along_x, across], [across, along_y]])
    strain = crystals.strain_vector(np.linalg.inv(apart) - np.eye(2))
    n, nothing = len(patterns), np.zeros((len(patterns), 2))
    # The beam is at pixel 128, half a pixel from the frame's middle.
    specimen = Specimen(strain, np.zeros(n), np.zeros(n), nothing, nothing + 0.5, np.zeros(n, int))
    wavelength = Optics(200.0).wavelength
    pixel = RECIPROCAL_PIXEL * wavelength * 1e3
    optics = Optics(200.0, RADIUS * pixel, pixel, PIXELS, psf_px=0.0, background=0.0)
    reference = SPACING / np.sqrt(2) * np.array([[1.0, 1.0], [-1.0, 1.0]])
    return StrainCase("pyxem", seed, "pyxem", optics, specimen, reference, patterns, np.zeros((0, 7, 7)))
