"""Learning the base pattern from a scan's own frames, by alternating between what is shared and what is each frame's.

First every disk of every frame has a fill of its own, so that only edges tell where it is; from these places follow the
aperture, the background, and the few modes that fills vary along (principal components, weighted by information; those
above the edge of noise, Marchenko and Pastur 1967). Then encoder and decoder are improved in turns: maps and codes by
Fisher scoring with the fills known, faint codes by what the strong ones say of them, fills by the expected likelihood
over the codes (EM).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .aperture_learning import first_aperture, refined_aperture
from .background_learning import learned_background
from .base_pattern import Background, BasePattern, search
from .code_regression import informed
from .disk_aperture import Aperture
from .disk_scoring import Estimates, coded_step, free_step
from .fill_learning import improved, modes_of, standardised
from .lattice_discovery import FoundLattice

_FREE_STEPS, _ROUNDS = 6, 6
#: Disks count that are in the frame, or nearly, in this part of the frames.
_OFTEN = 0.05
#: Errors of fills move disks by this many times the variance that counting noise alone would make: what disks hold
#: beyond the modes counts, too. From simulated specimens with disks of 6 pixels.
_FILL_ERROR = 6.0
#: Frames that the aperture is fitted to, at first and with what was learned of fills.
_FEW, _MORE = 32, 64


@dataclass(frozen=True)
class Learned:
    """A base pattern, with what the frames it was learned from say of it."""

    base: BasePattern
    estimates: Estimates
    codes: np.ndarray  #: (n, K + 1)
    misfit: np.ndarray  #: (n,)
    #: (4, 4) covariance of the map from errors of the fills, which a finite number of frames leaves.
    fill_error: np.ndarray
    #: Root mean square motion of the disks in the last round, over their standard deviation.
    restless: float


def _degree(radius: float) -> int:
    # Finer structure the detector's blur would hide in small disks; in large ones it is more noise than structure.
    return int(np.clip(round(radius / 2 + 1), 2, 4))


def _sites(lattice: FoundLattice, shape: tuple[int, int]) -> np.ndarray:
    """Indices (g, 2) of the reflections that can be in the frame, whatever the rotation; the direct beam first."""
    n = 2 * int(np.ceil(max(shape) / np.linalg.norm(lattice.vectors[0])))
    index = np.stack(np.meshgrid(*[np.arange(-n, n + 1)] * 2), -1).reshape(-1, 2)
    length = np.linalg.norm(index @ lattice.vectors, axis=1)
    reach = np.hypot(*shape) / 2 + lattice.radius
    return index[np.argsort(length, kind="stable")][: int((length < reach).sum())]


def first_reading(frames: np.ndarray, lattice: FoundLattice, good: np.ndarray) -> tuple[BasePattern, Estimates]:
    """A base pattern of even disks on the lattice that was found, and where in frames (n, ny, nx) those are.

    `good` (ny, nx) marks pixels that count.
    """
    shape = (frames.shape[1], frames.shape[2])
    degree = _degree(lattice.radius)
    index = _sites(lattice, shape)
    base = BasePattern(
        shape, lattice.vectors, index, lattice.centre, Aperture(lattice.radius, 0.6, 0.5, degree),
        Background.lorentzian(shape, max(shape) / 4, 0.1),
        np.zeros((1, len(index), (degree + 1) * (degree + 2) // 2)), good,
    )  # fmt: skip
    dose = frames.sum((1, 2), dtype=float)
    transform, centre = search(base, frames)
    return base, Estimates(transform, centre, base.background.share * dose, dose)


def learn(frames: np.ndarray, base: BasePattern, at: Estimates, progress: Callable[[str], None]) -> Learned:
    """Learn the base pattern of frames (n, ny, nx) from what `first_reading` gave of them."""
    shape, radius = base.shape, base.aperture.radius
    degree, index, transform, centre = base.aperture.degree, base.index, at.transform, at.centre
    places = centre[:, None] + np.einsum("nij,gj->ngi", transform, base.reflections)
    reached = (np.abs(places - (np.array(shape[::-1]) - 1) / 2) < np.array(shape[::-1]) / 2 + radius).all(2)
    index = index[reached.any(0)]
    base = replace(base, beam=np.median(centre, 0), index=index, fills=base.fills[:, reached.any(0)])
    background, amount = learned_background(base, frames, at)
    base, at = replace(base, background=background), replace(at, background=amount)
    flat = np.zeros(base.fills.shape[2])
    on = (np.abs(base.reflections) < np.array(shape[::-1]) / 2).all(1).sum()
    flat[0] = max(1 - background.share, 0.05) / (on * np.pi * radius**2)
    by_degree = np.concatenate([np.full(d + 1, d) for d in range(degree + 1)])
    variance = (2 * flat[0]) ** 2 * np.where(by_degree == 0, 4.0, 1 / (1.0 + by_degree) ** 2)
    fills = np.broadcast_to(flat, (len(frames), *base.fills.shape[1:])).copy()
    few = np.unique(np.linspace(0, len(frames) - 1, _FEW).astype(int))
    for turn in range(2):
        for step in range(_FREE_STEPS if turn == 0 else 3):
            at, fills, free, scores = free_step(base, frames, at, fills, flat, variance)
            progress(f"disks' edges, step {step + 1}: misfit {scores.misfit.mean():.3f}")
        if turn == 0:
            background, amount = learned_background(base, frames, at)
            base = replace(base, background=background, beam=np.median(at.centre, 0))
            at = replace(at, background=amount)
            aperture = first_aperture(base, frames[few], at.part(few), fills[few], (flat, variance))
            base = replace(base, aperture=aperture)
            progress(f"disks of radius {aperture.radius:.2f} pixels, blur {aperture.blur:.2f} pixels")
    learned, codes = modes_of(base, at, fills, scores)
    learned[:, scores.seen.mean(0) < _OFTEN] = 0
    base = replace(base, fills=learned)
    restless, settled = np.inf, False
    more = np.unique(np.linspace(0, len(frames) - 1, _MORE).astype(int))
    for turn in range(_ROUNDS):
        before = at
        for _ in range(2):
            at, codes, covariance, scores = coded_step(base, frames, at, codes)
        step, covariance = informed(codes, covariance)
        base, at = improved(base, frames, at.moved(step), codes + step[:, 7:], covariance)
        base, codes = standardised(base, codes)
        change = (at.transform - before.transform).reshape(-1, 4)
        restless = float(np.sqrt((change**2 / np.einsum("nii->ni", covariance[:, :4, :4])).mean()))
        progress(f"fills with {len(base.fills) - 1} modes, round {turn + 1}: misfit {scores.misfit.mean():.3f}")
        if not settled and turn < _ROUNDS - 2:
            aperture, settled = refined_aperture(base, frames[more], at.part(more), codes[more])
            fills = base.fills * (base.aperture.radius / aperture.radius) ** 2
            base = replace(base, aperture=aperture, fills=fills)
            progress(
                f"disks of radius {aperture.radius:.3f} pixels, point spread {aperture.spread:.3f} pixels, "
                f"{100 * aperture.shared:.0f} % of it between pixels"
            )
    for _ in range(2):
        at, codes, _, scores = coded_step(base, frames, at, codes)
    # Each disk's mean and modes are as many unknown fills as they are, known from all frames together: their errors act
    # on a map as a disk's own fill would, which was to be found from one frame, but this many times less.
    fill_error = _FILL_ERROR * np.median(free[:, :4, :4], 0) * len(base.fills) / len(frames)
    return Learned(base, at, codes, scores.misfit, fill_error, restless)
