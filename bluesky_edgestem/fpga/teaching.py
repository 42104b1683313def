"""Patterns to teach the student with, and what the teacher reads in them.

The teacher reads each pattern once, with so many electrons that counting hardly limits it; the student is shown the
same pattern with as few as the microscope has, drawn anew each time. So it learns from any pattern that a teacher can
read, and never from a truth that only a simulation knows.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from ..analysis import disk_tables
from ..analysis.diffraction import detected
from ..analysis.disk_patterns import compose
from ..analysis.disk_tables import DiskTable
from ..analysis.optics import Optics
from .frontend import CORE, Frontend
from .student import DOSE

CHUNK = 250
TEACHING_DOSE = 1e7
#: What the descriptor network tells apart.
PHASES: tuple[str, str] = ("MoS2", "WS2")


@dataclass(frozen=True)
class Domain:
    """What the student has to expect; all is drawn uniformly, doses by their logarithm."""

    strain: tuple[float, float, float] = (0.04, 0.04, 0.03)  #: |exx|, |eyy|, |exy| at most
    shift_bins: float = 0.5  #: of the beam, along each axis, at most
    psf_px: tuple[float, float] = (0.4, 0.8)
    background: tuple[float, float] = (0.0, 0.1)
    dose: tuple[float, float] = DOSE  #: electrons per pattern

    @property
    def strain_sd(self) -> float:
        """Standard deviation of exx before anything is measured."""
        return self.strain[0] / np.sqrt(3)


@dataclass(frozen=True)
class Lessons:
    """Patterns with the teacher's readings."""

    expected: np.ndarray  #: (n, CORE²) float16, expected counts of each bin per 1000 electrons
    strain: np.ndarray  #: (n, 3)
    rotation: np.ndarray  #: (n,) [rad]
    centre: np.ndarray  #: (n, 2) [bins] from the middle
    second_phase: np.ndarray  #: (n,) probability of the second of the teacher's phases

    def __len__(self) -> int:
        return len(self.strain)

    def __getitem__(self, which) -> Lessons:
        return Lessons(*(getattr(self, name)[which] for name in self.__dataclass_fields__))

    def brightest(self, frontend: Frontend) -> float:
        """Share of a pattern's electrons in its brightest bin outside of the incident beam, but for one of 100."""
        outer = self.expected[:, frontend.outer].astype(np.float32)
        return float(np.quantile(outer.max(1), 0.99)) / 1000

    def counts(self, dose: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Electrons counted in each bin at doses (n,), (n, CORE²) int64; drawn anew at each call."""
        return rng.poisson(self.expected.astype(np.float32) * (dose[:, None] / 1000).astype(np.float32))

    @classmethod
    def joined(cls, parts: list[Lessons]) -> Lessons:
        """The lessons of several chunks as one."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


def core_optics(frontend: Frontend, optics: Optics) -> Optics:
    """The optics of frames after binning, before they are cropped."""
    return replace(
        optics,
        n_pixels=frontend.n_pixels // frontend.bin,
        pixel_mrad=optics.pixel_mrad * frontend.bin,
        psf_px=optics.psf_px / frontend.bin,
    )


def cropped(patterns: np.ndarray) -> np.ndarray:
    """The CORE × CORE in the middle of patterns (..., n, n)."""
    margin = (patterns.shape[-1] - CORE) // 2
    return patterns[..., margin : margin + CORE, margin : margin + CORE]


@cache
def _table(phase: str, energy_keV: float, semiangle_mrad: float) -> DiskTable:
    return disk_tables.compute(phase, energy_keV, [1], 1.1 * semiangle_mrad + 2.0, 0.5, strained=True)


@cache
def _teacher(path: str | None):
    import torch

    from ..analysis.networks import DescriptorNetwork

    torch.set_num_threads(1)
    return DescriptorNetwork.pretrained(None if path is None else Path(path), device="cpu")


def _chunk(seed: int, index: int, frontend: Frontend, optics: dict, domain: Domain, teacher: str | None) -> Lessons:
    """`CHUNK` patterns, fewer where the teacher does not know."""
    rng = np.random.default_rng([seed, index])
    core = core_optics(frontend, Optics(**optics))
    network = _teacher(teacher)
    patterns = np.empty((CHUNK, core.n_pixels, core.n_pixels), np.float32)
    shift = rng.uniform(-1, 1, (CHUNK, 2)) * domain.shift_bins
    stated = replace(core, psf_px=float(np.mean(domain.psf_px)) / frontend.bin)
    for i in range(CHUNK):
        # Sharp disks: the detector's point spread and background come after.
        detector = replace(
            core, psf_px=rng.uniform(*domain.psf_px) / frontend.bin, background=rng.uniform(*domain.background)
        )
        table = _table(PHASES[rng.integers(2)], core.energy_keV, core.semiangle_mrad)
        strain = rng.uniform(-1, 1, 3) * domain.strain
        pattern = compose(table, core, strain, rng.uniform(-np.pi, np.pi), 1, tuple(shift[i]))
        patterns[i] = detected(pattern, detector, tuple(shift[i]))
    read = network.predict(rng.poisson(patterns * TEACHING_DOSE).astype(np.uint32), stated)
    assert read.centre is not None
    known = read.flagged == ""
    return Lessons(
        (1000 * cropped(patterns[known])).reshape(-1, CORE**2).astype(np.float16),
        read.strain[known], read.rotation[known], read.centre[known], read.phase_probability[known, 1],
    )  # fmt: skip


def lessons(
    frontend: Frontend,
    optics: Optics,
    n_patterns: int,
    *,
    domain: Domain | None = None,
    teacher: Path | None = None,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Lessons:
    """Draw patterns and have the teacher read them, about 4 ms each.

    Parameters
    ----------
    frontend : Frontend
    optics : Optics
        Of the detector's frames.
    n_patterns : int
        Rounded up to whole chunks of `CHUNK`, of which those that the teacher flags are left out.
    domain : Domain, optional
    teacher : Path, optional
        Weights of a descriptor network; those that ship with the package if left out.
    seed : int
        Settles every draw.
    workers : int
        Processes to use.
    progress : callable, optional
        Called with (patterns done, patterns wanted).
    """
    domain = domain or Domain()
    wanted = -(-n_patterns // CHUNK)
    path = None if teacher is None else str(teacher)
    jobs = [(seed, index, frontend, asdict(optics), domain, path) for index in range(wanted)]
    parts: list[Lessons] = []

    def take(part: Lessons) -> None:
        parts.append(part)
        if progress is not None:
            progress(len(parts) * CHUNK, wanted * CHUNK)

    if workers <= 1:
        for job in jobs:
            take(_chunk(*job))
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for part in pool.map(_chunk, *zip(*jobs, strict=True)):
                take(part)
    if not sum(map(len, parts)):
        raise ValueError(f"the teacher knows none of the patterns of these optics ({optics}): choose others")
    return Lessons.joined(parts)
