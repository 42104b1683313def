"""What a descriptor network reads, before and after: which frames it takes, and which readings it does not trust."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from . import crystals
from .counts import NO_COUNTS, check_numbers
from .descriptor import FeatureDescriptors
from .doubts import Doubt, certain
from .optics import Optics
from .scattering import FIRST_ORDER

#: Log-likelihood of a lattice, against none at all, below which the search may have found noise.
NOT_FOUND = 12.0
#: Readings whose strain is surely beyond what was trained for by more than this part of it are not trusted.
_BEYOND = 0.1
#: How far the electrons in the disks may be from those expected, beside three standard deviations of counting. MoS2 and
#: WS2 under one probe are off by up to 0.17, MoSe2 by 0.25.
_BRIGHTNESS = 0.2
#: Standard deviations of what is known beforehand: strain, rotation modulo 60° [rad], and where the beam arrives [px].
PRIOR_SD = (0.026, np.pi / 6 / np.sqrt(3), 2 / np.sqrt(3))


@dataclass(frozen=True)
class Reading:
    """What the network says of `b` patterns, as tensors."""

    unknowns: Tensor  #: (b, 4) exx, eyy, exy, rotation
    covariance: Tensor  #: (b, 4, 4)
    centre: Tensor  #: (b, 2) where the beam arrives, x and y from the detector's centre [pixels]
    centre_sd: Tensor  #: (b,) of each coordinate [pixels]
    phase_logits: Tensor  #: (b, phases)
    log_likelihood: Tensor  #: (b,) of the lattice, against no disks at all
    brightness: Tensor  #: (b,) electrons in the disks, over those expected of the likelier phase
    brightness_sd: Tensor  #: (b,) its standard deviation from counting
    background: Tensor  #: (b,) share of the electrons that is between the disks
    background_expected: Tensor  #: (b,) the same, as the optics say

    def on_host(self) -> Reading:
        """The same, where numpy can read it."""
        return Reading(*(getattr(self, field.name).cpu() for field in fields(self)))


def checked(frames: np.ndarray, optics: Optics) -> np.ndarray:
    """Frames, if the network can read them; otherwise an error that says why not."""
    frames = np.asarray(frames)
    check_numbers(frames.dtype)
    n = optics.n_pixels
    if frames.ndim != 3 or frames.shape[1:] != (n, n):
        raise ValueError(f"frames have shape {frames.shape}; these optics (n_pixels = {n}) need (any, {n}, {n})")
    check_optics(optics)
    return frames


def check_optics(optics: Optics) -> None:
    """Raise ValueError where the network was not trained for such optics; the message says what it reads."""
    n = optics.n_pixels
    first = FIRST_ORDER / optics.pixel_reciprocal
    if not 0.15 * n < first < 0.29 * n:
        low, high = (FIRST_ORDER * optics.wavelength * 1e3 / (f * n) for f in (0.28, 0.16))
        raise ValueError(
            f"pixel_mrad = {optics.pixel_mrad} puts the first-order reflections {first:.1f} pixels from the beam; the "
            f"network was trained for {0.17 * n:.0f} to {0.27 * n:.0f} pixels: choose pixel_mrad from {low:.3f} to "
            f"{high:.3f}, frames that span {low * n:.0f} to {high * n:.0f} mrad"
        )
    if not 0.03 < optics.disk_radius / first < 0.44:
        least = 0.04 * first * optics.pixel_mrad
        most = 0.43 * first * optics.pixel_mrad
        raise ValueError(
            f"semiangle_mrad = {optics.semiangle_mrad} gives disks of radius {optics.disk_radius:.1f} pixels; the "
            f"network reads separate disks: choose semiangle_mrad from {least:.2f} to {most:.2f}"
        )


def doubts(reading: Reading, counts: Tensor, saturated: np.ndarray, broken: np.ndarray) -> list[Doubt]:
    """Why readings on the host of counts (b, n, n) are not to be trusted; `broken` (b,) are frames without counts."""
    dose = counts.sum((1, 2)).cpu().numpy()
    bright, bright_sd = reading.brightness.numpy(), reading.brightness_sd.numpy()
    diffuse, allowed = reading.background.numpy(), reading.background_expected.numpy()
    diffuse_sd = np.sqrt(np.maximum(diffuse, allowed) / np.maximum(dose, 1))
    weak = NOT_FOUND / np.maximum(reading.log_likelihood.numpy(), 1e-9)
    unknowns = reading.unknowns.double().numpy()
    sd = np.sqrt(np.einsum("nii->ni", reading.covariance.double().numpy()[:, :3, :3]))
    # A strain that was trained for speaks against nothing.
    trained = np.array(crystals.STRAIN_RANGE)
    beyond = (np.abs(unknowns[:, :3]) - 3 * sd - trained) / (_BEYOND * trained)
    return [
        certain(broken, lambda i: NO_COUNTS),
        certain(dose == 0, lambda i: "no electrons: the frame is empty"),
        certain(saturated, lambda i: "saturated: a pixel reached the largest value of its type"),
        Doubt(
            np.where(bright + 3 * bright_sd > 0.5, weak, 0.0),
            lambda i: f"too few electrons to find the lattice of {dose[i]:.0f} in the frame",
        ),
        Doubt(
            np.maximum(np.abs(bright - 1) / (_BRIGHTNESS + 3 * bright_sd), weak),
            lambda i: f"not a known phase: its disks hold {bright[i]:.2f} of the electrons that the likeliest has",
        ),
        Doubt(
            np.abs(diffuse - allowed) / (allowed + 0.005 + 5 * diffuse_sd),
            lambda i: (
                f"{100 * diffuse[i]:.1f} % of the electrons are between the disks; the optics say "
                f"{100 * allowed[i]:.1f} %"
            ),
        ),
        Doubt(
            np.maximum(beyond.max(1), 0.0),
            lambda i: (
                f"strained by {100 * np.abs(unknowns[i, :3]).max():.1f} %, more than was trained for: the calibration "
                "is wrong (energy_keV, pixel_mrad), or it is no phase that is known"
            ),
        ),
    ]


def described(reading: Reading, flagged: np.ndarray) -> FeatureDescriptors:
    """Descriptors from a reading on the host, with its flags (b,) str."""
    unknowns = reading.unknowns.double().numpy()
    covariance = reading.covariance.double().numpy()
    known = flagged == ""
    probability = torch.softmax(reading.phase_logits.double(), 1).numpy()
    beforehand = np.diag([PRIOR_SD[0] ** 2] * 3)
    strain = np.where(known[:, None], unknowns[:, :3], 0.0)
    strain_covariance = np.where(known[:, None, None], covariance[:, :3, :3], beforehand)
    rotation = np.where(known, crystals.wrap_rotation(unknowns[:, 3]), 0.0)
    rotation_sd = np.where(known, np.minimum(np.sqrt(covariance[:, 3, 3]), PRIOR_SD[1]), PRIOR_SD[1])
    probability = np.where(known[:, None], probability, 1 / probability.shape[1])
    centre = np.where(known[:, None], reading.centre.double().numpy(), 0.0)
    centre_sd = np.where(known, np.minimum(reading.centre_sd.double().numpy(), PRIOR_SD[2]), PRIOR_SD[2])
    return FeatureDescriptors(
        strain, strain_covariance, rotation, rotation_sd, tuple(crystals.MONOLAYERS), probability, flagged,
        centre=centre, centre_sd=np.repeat(centre_sd[:, None], 2, 1),
    )  # fmt: skip
