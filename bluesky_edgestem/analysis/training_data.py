"""Multislice patterns to train and to judge networks on: drawn from seeds, kept without noise in HDF5.

A *condition* is one draw of beam energy, semiangle and calibration, with some patterns of differently deformed
specimens. Everything about a condition follows from ``(seed, index)``, so a file that was cut short is completed by
running the same command again, and training and held-out patterns are told apart by condition, never by pattern.
Point spread, background, dose and noise are left to whoever reads the patterns: they are cheap, and new at every
reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from . import crystals
from .diffraction import cbed, patch_extent
from .optics import Optics
from .resumable_file import UNFINISHED, resumable

PHASES = tuple(crystals.MONOLAYERS)
PATTERNS_PER_CONDITION = 24
FORMAT = 1
#: Every fifth condition is held out.
HELD_OUT_EVERY = 5

#: What is drawn from: beam shift [px], semiangle [mrad], first-order reflection's radius [px].
SHIFT_RANGE = 2.0
SEMIANGLES = (1.0, 3.0)
FIRST_ORDER = (22.0, 34.0)
ENERGIES = (80.0, 200.0, 300.0)


@dataclass(frozen=True)
class PatternSet:
    """The noise-free patterns of one condition, with their truth."""

    index: int  #: number of the condition
    optics: Optics  #: point spread and background are zero: they are for the reader to choose
    patterns: np.ndarray  #: (n, n_pixels, n_pixels) float32, from `diffraction.cbed`
    strain: np.ndarray  #: (n, 3)
    rotation: np.ndarray  #: (n,) [rad], any angle
    shift_px: np.ndarray  #: (n, 2) where the beam meets the detector, from its centre [pixels]
    phase: np.ndarray  #: (n,) index into `PHASES` of the phase under the beam's axis
    interface: np.ndarray  #: (n,) distance of the interface between the phases from the beam's axis [Å]; inf without

    @property
    def held_out(self) -> bool:
        """Whether training must not see this condition."""
        return self.index % HELD_OUT_EVERY == 0

    def __len__(self) -> int:
        return len(self.patterns)


def draw_optics(rng: np.random.Generator) -> Optics:
    """Beam and calibration of one condition; most at one of the usual energies, some between them."""
    energy = float(rng.choice(ENERGIES)) if rng.uniform() < 0.85 else float(rng.uniform(60, 300))
    first_order = rng.uniform(*FIRST_ORDER)
    bragg = Optics(energy).wavelength * 1e3 * 2 / (np.sqrt(3) * crystals.REFERENCE.a)
    pixel = bragg / first_order
    # Disks that overlap interfere; this network is for those that do not, under the largest strain too.
    semiangle = min(rng.uniform(*SEMIANGLES), 0.42 * bragg)
    return Optics(energy, float(semiangle), float(pixel), psf_px=0.0, background=0.0)


def simulate_condition(seed: int, index: int, n_patterns: int = PATTERNS_PER_CONDITION) -> PatternSet:
    """Compute one condition by multislice, about 60 ms a pattern.

    Parameters
    ----------
    seed, index : int
        The set and the number of the condition in it; they settle every draw.
    n_patterns : int
        Patterns in this condition.
    """
    rng = np.random.default_rng([seed, index])
    optics = draw_optics(rng)
    extent = patch_extent(optics)
    strain = rng.uniform(-1, 1, (n_patterns, 3)) * crystals.STRAIN_RANGE
    rotation = rng.uniform(-np.pi, np.pi, n_patterns)
    shift = rng.uniform(-SHIFT_RANGE, SHIFT_RANGE, (n_patterns, 2))
    phase = rng.integers(len(PHASES), size=n_patterns)
    # One in eight has an interface within two probe widths of the axis.
    interface = np.where(
        rng.uniform(size=n_patterns) < 0.125, rng.uniform(0, 20 * optics.resolution, n_patterns), np.inf
    )
    normal = rng.uniform(-np.pi, np.pi, n_patterns)
    patterns = np.empty((n_patterns, optics.n_pixels, optics.n_pixels), np.float32)
    for i in range(n_patterns):

        def phase_at(p: np.ndarray, i: int = i) -> np.ndarray:
            beyond = p @ [np.cos(normal[i]), np.sin(normal[i])] > interface[i]
            return np.array(PHASES)[np.where(beyond, 1 - phase[i], phase[i])]

        atoms = crystals.monolayer_atoms(
            strain[i], float(rotation[i]), extent, phase_at, origin=rng.uniform(0, 1, 2).tolist()
        )
        patterns[i] = cbed(atoms, optics, (float(shift[i, 0]), float(shift[i, 1])))
    return PatternSet(index, optics, patterns, strain, rotation, shift, phase, interface)


def _group(index: int) -> str:
    return f"condition_{index:05d}"


def _write(file, made: PatternSet) -> None:
    # Written under a name that no reader looks for, then renamed: a condition is there whole or not at all.
    group = file.create_group(UNFINISHED)
    group.attrs.update(
        energy_keV=made.optics.energy_keV, semiangle_mrad=made.optics.semiangle_mrad, pixel_mrad=made.optics.pixel_mrad
    )
    group.create_dataset(
        "patterns", data=made.patterns, compression="lzf", shuffle=True, chunks=(1, *made.patterns.shape[1:])
    )
    for name in ("strain", "rotation", "shift_px", "phase", "interface"):
        group.create_dataset(name, data=getattr(made, name))
    file.move(UNFINISHED, _group(made.index))
    file.flush()


def generate(
    path: Path,
    seed: int,
    n_patterns: int,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    per_condition: int = PATTERNS_PER_CONDITION,
) -> int:
    """Write at least `n_patterns` patterns into an HDF5 file, or add those that it lacks.

    Parameters
    ----------
    path : Path
        File to write, or to complete.
    seed : int
        Settles every draw; a file holds one seed.
    n_patterns : int
        Rounded up to whole conditions.
    workers : int
        Processes to use.
    progress : callable, optional
        Called with (conditions done, conditions wanted) after each.
    per_condition : int
        Patterns in a condition.

    Returns
    -------
    int
        Conditions that were computed now.

    Raises
    ------
    ValueError
        If the file holds patterns of another seed or format.
    """
    wanted = -(-n_patterns // per_condition)
    path = Path(path)
    with resumable(path, "multislice patterns", lambda file, name: name.startswith("condition_")) as file:
        kept = (file.attrs.get("format", FORMAT), file.attrs.get("seed", seed))
        if kept != (FORMAT, seed):
            raise ValueError(
                f"{path} holds patterns of format {kept[0]} and seed {kept[1]}; wanted are format {FORMAT} and seed "
                f"{seed}: choose another file, or that seed"
            )
        file.attrs.update(format=FORMAT, seed=seed)
        missing = [index for index in range(wanted) if _group(index) not in file]
        done = wanted - len(missing)

        def results() -> Iterator[PatternSet]:
            if workers <= 1:
                yield from (simulate_condition(seed, index, per_condition) for index in missing)
                return
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                for future in as_completed(
                    [pool.submit(simulate_condition, seed, index, per_condition) for index in missing]
                ):
                    yield future.result()

        for made in results():
            _write(file, made)
            done += 1
            if progress is not None:
                progress(done, wanted)
    return len(missing)


def read(path: Path, held_out: bool, n_patterns: int | None = None) -> list[PatternSet]:
    """The conditions of a file that are held out, or those that are not; of the first `n_patterns` if that is given."""
    import h5py

    sets: list[PatternSet] = []
    read_so_far = 0
    with h5py.File(path, "r") as file:
        for name in sorted(n for n in file if n.startswith("condition_")):
            if n_patterns is not None and read_so_far >= n_patterns:
                break
            group = file[name]
            read_so_far += len(group["strain"])
            energy, semiangle, pixel = (
                float(group.attrs[name]) for name in ("energy_keV", "semiangle_mrad", "pixel_mrad")
            )
            optics = Optics(energy, semiangle, pixel, psf_px=0.0, background=0.0)
            arrays = {k: group[k][()] for k in ("patterns", "strain", "rotation", "shift_px", "phase", "interface")}
            made = PatternSet(int(name.split("_")[1]), optics, **arrays)
            if made.held_out == held_out:
                sets.append(made)
    return sets
