"""How well a descriptor network does on patterns whose truth is known, beside what is possible at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import crystals
from .cramer_rao import bound
from .descriptor import FeatureDescriptors
from .networks import DescriptorNetwork
from .optics import Optics

COMPONENTS = ("exx", "eyy", "exy")


@dataclass(frozen=True)
class Cases:
    """Patterns of one beam with their truth."""

    optics: Optics
    patterns: np.ndarray  #: (n, n_pixels, n_pixels) expected counts per electron, with point spread and background
    strain: np.ndarray  #: (n, 3)
    rotation: np.ndarray  #: (n,) [rad]
    centre: np.ndarray  #: (n, 2) where the beam arrives [pixels]
    phase: np.ndarray  #: (n,) str
    information: np.ndarray  #: (n, 7, 7) from `cramer_rao.pattern_information`


@dataclass(frozen=True)
class Errors:
    """What the network made of `r` draws of noise on each of `n` patterns."""

    strain: np.ndarray  #: (r, n, 3) estimate minus truth
    rotation: np.ndarray  #: (r, n) [rad]
    centre: np.ndarray  #: (r, n, 2) [pixels]
    strain_sd: np.ndarray  #: (r, n, 3)
    rotation_sd: np.ndarray  #: (r, n) [rad]
    centre_sd: np.ndarray  #: (r, n, 2) [pixels]
    phase_right: np.ndarray  #: (r, n) bool
    known: np.ndarray  #: (r, n) bool, not flagged
    bound: np.ndarray  #: (n, 6) Cramér–Rao bounds on the variance of strain, rotation and centre

    @staticmethod
    def joined(parts: list[Errors]) -> Errors:
        """The errors of several beams or specimens as one."""
        columns = {}
        for name in Errors.__dataclass_fields__:
            axis = 0 if name == "bound" else 1
            columns[name] = np.concatenate([getattr(p, name) for p in parts], axis=axis)
        return Errors(**columns)


def measure(network: DescriptorNetwork, cases: Cases, dose: float, repeats: int, rng: np.random.Generator) -> Errors:
    """Draw Poisson noise at `dose` [electrons per pattern] `repeats` times and read the patterns."""
    n = len(cases.patterns)
    counts = rng.poisson(np.broadcast_to(cases.patterns, (repeats, *cases.patterns.shape)) * dose)
    frames = counts.astype(np.uint32).reshape(repeats * n, *cases.patterns.shape[1:])
    read: FeatureDescriptors = network.predict(frames, cases.optics)
    assert read.centre is not None and read.centre_sd is not None
    variance = np.diagonal(bound(cases.information, dose), axis1=1, axis2=2)[:, :6]
    return Errors(
        read.strain.reshape(repeats, n, 3) - cases.strain,
        crystals.wrap_rotation(read.rotation.reshape(repeats, n) - cases.rotation),
        read.centre.reshape(repeats, n, 2) - cases.centre,
        read.strain_sd.reshape(repeats, n, 3),
        read.rotation_sd.reshape(repeats, n),
        read.centre_sd.reshape(repeats, n, 2),
        read.phase.reshape(repeats, n) == cases.phase,
        (read.flagged == "").reshape(repeats, n),
        variance,
    )


def summarise(errors: Errors) -> dict:
    """Figures of merit as plain numbers.

    Returns
    -------
    dict
        `rms`, `bound` and `ratio` by component of strain; `bias` (root mean square over patterns of the error's mean
        over noise, its own noise taken off) and `scatter` (over noise); `coverage` of the 95 % intervals of all
        strains, `rotation_coverage` and `centre_coverage`; `rotation_rms` and `rotation_bound` [rad]; `centre_rms` and
        `centre_bound` of each coordinate [pixels]; `phase_right` and `flagged`, fractions. All but `flagged` are of
        patterns not flagged.
    """
    known = errors.known
    weight = known[..., None]
    count = max(int(known.sum()), 1)
    mean_square = (errors.strain**2 * weight).sum((0, 1)) / count
    allowed = (np.broadcast_to(errors.bound, (*known.shape, 6)) * weight).sum((0, 1)) / count
    repeats = len(errors.strain)
    always = errors.strain[:, known.all(axis=0)]
    scatter2 = always.var(axis=0, ddof=1).mean(0) if repeats > 1 else np.full(3, np.nan)
    bias2 = (always.mean(axis=0) ** 2).mean(0) - scatter2 / repeats
    inside = (np.abs(errors.strain) < 1.96 * errors.strain_sd)[known]
    placed = (np.abs(errors.centre) < 1.96 * errors.centre_sd)[known]
    turned = (np.abs(errors.rotation) < 1.96 * errors.rotation_sd)[known]
    by_component = {
        "rms": np.sqrt(mean_square),
        "bound": np.sqrt(allowed[:3]),
        "ratio": np.sqrt(mean_square / np.maximum(allowed[:3], 1e-300)),
        "bias": np.sqrt(np.maximum(bias2, 0)),
        "scatter": np.sqrt(scatter2),
    }
    out: dict = {
        name: {c: float(f"{v:.4g}") for c, v in zip(COMPONENTS, values, strict=True)}
        for name, values in by_component.items()
    }
    scalars = {
        "coverage": inside.mean() if count else np.nan,
        "rotation_coverage": turned.mean() if count else np.nan,
        "centre_coverage": placed.mean() if count else np.nan,
        "rotation_rms": np.sqrt((errors.rotation[known] ** 2).mean()),
        "rotation_bound": np.sqrt(allowed[3]),
        "centre_rms": np.sqrt((errors.centre[known] ** 2).mean()),
        "centre_bound": np.sqrt(allowed[4:].mean()),
        "phase_right": errors.phase_right[known].mean(),
        "flagged": 1 - known.mean(),
    }
    return out | {name: float(f"{value:.4g}") for name, value in scalars.items()} | {"patterns": int(known.size)}
