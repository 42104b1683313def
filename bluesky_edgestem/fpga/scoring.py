"""How well a student reads, beside its teacher, on patterns that neither was taught with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..analysis import crystals
from ..analysis.descriptor import FeatureDescriptors
from ..analysis.diffraction import cbed, detected, patch_extent
from ..analysis.optics import Optics
from .foreign import KINDS, foreign
from .frontend import Frontend
from .student import Student
from .teaching import Domain, Lessons

COMPONENTS = ("exx", "eyy", "exy")
#: Which draw of a seed specimens are: one that nothing was chosen by.
_DRAW = 6
#: Draws with replacement that an interval of 95 % is of.
_BOOTSTRAPS = 400


@dataclass(frozen=True)
class Cases:
    """Patterns by multislice of all strained atoms, with their truth: for scores, never for training."""

    optics: Optics
    expected: np.ndarray  #: (n, n_pixels, n_pixels) expected counts per electron
    strain: np.ndarray  #: (n, 3)
    rotation: np.ndarray  #: (n,) [rad]
    centre: np.ndarray  #: (n, 2) of the beam [pixels] from the middle
    phase: np.ndarray  #: (n,) str


def cases(optics: Optics, n: int, seed: int, domain: Domain, frontend: Frontend) -> Cases:
    """Draw `n` specimens and compute their patterns, about 0.1 s each."""
    rng = np.random.default_rng([seed, _DRAW])
    strain = rng.uniform(-1, 1, (n, 3)) * domain.strain
    rotation = rng.uniform(-np.pi / 6, np.pi / 6, n)
    phase = rng.choice(list(crystals.MONOLAYERS), n)
    expected = np.empty((n, optics.n_pixels, optics.n_pixels), np.float32)
    centre = np.empty((n, 2))
    extent = patch_extent(optics)
    for i in range(n):
        centre[i] = rng.uniform(-1, 1, 2) * domain.shift_bins * frontend.bin
        detector = replace(
            optics, psf_px=float(rng.uniform(*domain.psf_px)), background=float(rng.uniform(*domain.background))
        )
        origin = rng.uniform(0, 1, 2).tolist()
        atoms = crystals.monolayer_atoms(
            strain[i], float(rotation[i]), extent, lambda p, i=i: np.full(len(p), phase[i]), origin=origin
        )
        shift = (centre[i, 0], centre[i, 1])
        expected[i] = detected(cbed(atoms, optics, shift), detector, shift)
    return Cases(optics, expected, strain, rotation, centre, phase)


def _rms(error: np.ndarray) -> float:
    return float(f"{np.sqrt((error**2).mean()):.4g}")


def _within(error: np.ndarray, sd: np.ndarray) -> float:
    """Share of errors within their intervals of 95 %."""
    return float(f"{(np.abs(error) < 1.96 * sd).mean():.4g}")


def _figures(read: FeatureDescriptors, truth: Cases, repeats: int, known: np.ndarray) -> dict:
    out: dict = {"flagged": float(f"{(read.flagged != '').mean():.4g}")}
    if not known.any():
        return out
    assert read.centre is not None and read.centre_sd is not None
    strain = (read.strain - np.tile(truth.strain, (repeats, 1)))[known]
    rotation = crystals.wrap_rotation(read.rotation - np.tile(truth.rotation, repeats))[known]
    centre = (read.centre - np.tile(truth.centre, (repeats, 1)))[known]
    return out | {
        "strain_rms": {c: _rms(error) for c, error in zip(COMPONENTS, strain.T, strict=True)},
        "coverage": _within(strain, read.strain_sd[known]),
        "rotation_rms": _rms(rotation),
        "rotation_coverage": _within(rotation, read.rotation_sd[known]),
        "centre_rms": _rms(centre),
        "centre_coverage": _within(centre, read.centre_sd[known]),
        "phase_right": float(f"{(read.phase == np.tile(truth.phase, repeats))[known].mean():.4g}"),
    }


def _squares(read: FeatureDescriptors, truth: Cases, repeats: int, known: np.ndarray) -> np.ndarray:
    """Sums (n, 3) over the draws of each specimen of squared errors of strain, of `known` ones; flagged ones say 0."""
    said = np.where((read.flagged == "")[:, None], read.strain, 0.0)
    error = (said - np.tile(truth.strain, (repeats, 1))) * known[:, None]
    return (error**2).reshape(repeats, -1, 3).sum(0)


def scores(student: Student, teacher, truth: Cases, dose: float, seed: int = 0, repeats: int = 2) -> dict:
    """Figures of the student and its teacher at a dose [electrons per pattern], on the same frames.

    Returns
    -------
    dict
        ``student`` and ``teacher``, each with `flagged`, and of the patterns that neither flags `strain_rms` by
        component, `rotation_rms` [rad], `centre_rms` of each coordinate [pixels], what the 95 % intervals of each cover
        (`coverage`, of strain, `rotation_coverage`, `centre_coverage`) and `phase_right`; ``student alone``, the same
        of all that the student does not flag, whatever its teacher does. ``ratio``, the student's RMS
        over the teacher's, worst component, of the same patterns; ``ratio_interval``, of 95 %, from specimens drawn
        with replacement; ``ratio_all``, of all patterns, where what is flagged counts as no strain.
    """
    rng = np.random.default_rng([seed, int(dose)])
    frames = rng.poisson(np.tile(truth.expected, (repeats, 1, 1)) * dose).astype(np.uint32)
    own, its = (each.predict(frames, truth.optics) for each in (student, teacher))
    both, every = (own.flagged == "") & (its.flagged == ""), np.ones(len(frames), bool)
    out: dict = {
        "student": _figures(own, truth, repeats, both),
        "teacher": _figures(its, truth, repeats, both),
        "student alone": _figures(own, truth, repeats, own.flagged == ""),
        "specimens": len(truth.strain),
        "ratio_all": float(f"{_ratio(_squares(own, truth, repeats, every), _squares(its, truth, repeats, every)):.3g}"),
    }
    if both.any():
        a, b = (_squares(each, truth, repeats, both) for each in (own, its))
        drawn = [rng.integers(0, len(a), len(a)) for _ in range(_BOOTSTRAPS)]
        ends = np.quantile([_ratio(a[some], b[some]) for some in drawn if b[some].any(0).all()], [0.025, 0.975])
        out |= {"ratio": float(f"{_ratio(a, b):.3g}"), "ratio_interval": [float(f"{end:.3g}") for end in ends]}
    return out


def _ratio(student: np.ndarray, teacher: np.ndarray) -> float:
    """Root of the sum of the student's squares (n, 3) over the teacher's, worst component."""
    return float(np.sqrt(student.sum(0) / teacher.sum(0)).max())


def flagged_foreign(student: Student, lessons: Lessons, dose: float, seed: int = 0) -> dict[str, float]:
    """Share of frames without a lattice that the student flags, by kind, at a dose [electrons per pattern]."""
    rng = np.random.default_rng([seed, 4, int(dose)])
    counts = lessons.counts(np.full(len(lessons), dose), rng)
    shift = student.frontend.shift_for(dose, student.brightest)
    out = {}
    for kind in KINDS:
        bins = student.frontend.attenuated(foreign(kind, counts, student.frontend, rng), shift)
        features, normaliser = student.features(bins)
        read = student.described(student.tail(features), np.where(normaliser == 0, 3, 0))
        out[kind] = float(f"{(read.flagged != '').mean():.3g}")
    return out


def calibrated(student: Student, lessons: Lessons, domain: Domain, seed: int = 0) -> Student:
    """The student with factors that make its standard deviations those of its errors, over lessons it did not have."""
    rng = np.random.default_rng([seed, 2])
    low, high = np.log10(domain.dose)
    counts = lessons.counts(10 ** rng.uniform(low, high, len(lessons)), rng)
    shift = student.frontend.shift_for(counts.sum(1), student.brightest)
    features, normaliser = student.features(student.frontend.attenuated(counts, shift))
    plain = replace(student, sd_factors=(1.0, 1.0, 1.0))
    read = plain.described(student.tail(features), np.where(normaliser == 0, 3, 0))
    known = read.flagged == ""
    if known.sum() < 10:
        return student
    assert read.centre is not None
    spread = read.strain_sd[known, 0]
    factors = [
        np.sqrt(np.mean(np.square((read.strain - lessons.strain)[known] / read.strain_sd[known]))),
        np.sqrt(np.mean(np.square(crystals.wrap_rotation(read.rotation - lessons.rotation)[known] / spread))),
        np.sqrt(np.mean(np.square((read.centre / student.frontend.bin - lessons.centre)[known] / spread[:, None]))),
    ]
    of_strain, of_rotation, of_centre = (float(f"{value:.5g}") for value in factors)
    return replace(student, sd_factors=(of_strain, of_rotation / of_strain, of_centre / of_strain))
