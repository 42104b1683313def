"""Learning the base pattern from a scan's own frames, by alternating between what is shared and what is each frame's.

First every disk of every frame has a fill of its own, so that only edges tell where it is; from these places follow the
aperture, the background, and the few modes that fills vary along (principal components, weighted by information; those
above the edge of noise, Marchenko and Pastur 1967). Then encoder and decoder are improved in turns: maps and codes by
Fisher scoring with the fills known, fills by the expected likelihood over the codes (EM).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from . import lattice_search
from .base_pattern import Background, BasePattern, rotation_of
from .disk_aperture import Aperture, turning
from .disk_scoring import Estimates, Scores, coded_step, design, evaluate, free_step, place_information
from .lattice_discovery import FoundLattice

#: Principal components this much above the edge of noise are kept as modes, and how many at most.
_ABOVE_NOISE, _MOST_MODES = 1.6, 12
_FREE_STEPS, _ROUNDS = 6, 6
#: Least and greatest radius, spread [pixels] and shared part that an aperture can have.
_LEAST, _MOST = np.array([1.5, 0.05, 0.0]), np.array([np.inf, 3.0, 1.0])
#: By how much each is varied to see which are the most likely.
_VARIED = np.array([0.05, 0.05, 0.25])
#: Disks count that are in the frame, or nearly, in this part of the frames.
_OFTEN = 0.05
#: Errors of fills move disks by this many times the variance that counting noise alone would make: what disks hold
#: beyond the modes counts, too. From simulated specimens with disks of 6 pixels.
_FILL_ERROR = 6.0
#: Frames that the aperture is fitted to, and what is expected at least there, over a frame's mean.
_FEW, _MORE, _LEAST_EXPECTED = 32, 64, 0.01


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


def search(base: BasePattern, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps (n, 2, 2) and beams (n, 2) of frames, to about a pixel."""
    radius, (a, _) = base.aperture.radius, np.linalg.norm(base.vectors, axis=1)
    reach = min(base.shape) / 2
    inner = base.reflections[np.linalg.norm(base.reflections, axis=1) < reach - 1.2 * radius - a / 3]
    turns = lattice_search.angles(lattice_search.symmetry(base.vectors), radius, reach)
    transform, centre = np.empty((len(frames), 2, 2)), np.empty((len(frames), 2))
    half, wide = max(round(0.6 * radius), 1), max(round(0.9 * radius), 2)
    lattice_search.search(frames, base.good, inner, turns, base.beam, half, wide, a, reach, transform, centre)
    return transform, centre


def _background(base: BasePattern, frames: np.ndarray, at: Estimates) -> tuple[Background, np.ndarray]:
    """Background from the pixels between the disks, and its electrons in each frame (n,)."""
    from scipy.optimize import minimize

    y, x = np.indices(base.shape)
    pixels = np.stack([x.ravel(), y.ravel()], -1)
    edges = np.geomspace(1, np.hypot(*base.shape), 40)
    counts, areas, dose = np.zeros(39), np.zeros(39), 0.0
    mine, mine_area = np.zeros(len(frames)), []
    for n, frame in enumerate(frames):
        off = pixels - at.centre[n]
        index = off @ np.linalg.inv(at.transform[n]).T @ np.linalg.inv(base.vectors)
        away = np.linalg.norm((index - np.rint(index)) @ base.vectors @ at.transform[n].T, axis=1)
        between = (away > base.aperture.radius + 3 * base.aperture.blur) & (base.good.ravel() > 0)
        r = np.hypot(*off.T)[between]
        seen = frame.ravel()[between].astype(float)
        counts += np.histogram(r, edges, weights=seen)[0]
        areas += np.histogram(r, edges)[0]
        dose += at.dose[n]
        mine[n] = seen.sum()
        mine_area.append(r)
    middle = np.sqrt(edges[1:] * edges[:-1])
    use = areas > 0
    if not use.any() or counts.sum() < 100:
        share = float(counts.sum() / max(areas.sum(), 1) * y.size / max(dose, 1) * len(frames))
        flat = Background(max(base.shape) / 4, 0.1, max(share / len(frames), 1e-3), 1.0)
        return flat, flat.share * at.dose

    def density(p):
        return np.exp(p[0]) * (1 / (1 + (middle / np.exp(p[1])) ** 2) + np.exp(p[2]))

    def cost(p):
        expected = density(p)[use] * areas[use]
        return (expected - counts[use] * np.log(expected)).sum() / counts.sum() + 1e-4 * (p[2] + 4) ** 2

    start = [np.log(counts.sum() / areas.sum() + 1e-9), np.log(max(base.shape) / 4), -4.0]
    p = minimize(cost, start, method="Nelder-Mead", options={"maxiter": 600}).x
    fitted = Background(float(np.exp(p[1])), float(np.exp(p[2])), 0.0, 0.0)
    table = fitted.table(base.shape, base.beam)
    scale = fitted.half_width**2
    peak = float(table.max())
    expected = np.array([peak * (1 / (1 + r**2 / scale) + fitted.constant).sum() for r in mine_area])
    expected /= 1 + fitted.constant
    amount = mine / np.maximum(expected, 1e-9)
    shares = amount / at.dose
    share = float(shares.mean())
    noise = np.sqrt(np.mean(amount / np.maximum(expected, 1e-9)) / np.mean(at.dose) ** 2)
    spread = float(np.sqrt(max(shares.var() - noise**2, 0)) / max(share, 1e-9))
    return replace(fitted, share=max(share, 1e-4), spread=float(np.clip(spread, 0.1, 1.0))), amount


def _brightest(base: BasePattern, at: Estimates, fills: np.ndarray) -> np.ndarray:
    """Pixels (n, ny, nx) at and around the brightest whole disks, which hold half of the electrons between them."""
    level = fills[:, :, 0].mean(0)
    order = np.argsort(-level)
    some = order[: 1 + np.searchsorted(np.cumsum(np.maximum(level[order], 0)), level.clip(0).sum() / 2)]
    places = at.centre[:, None] + np.einsum("nij,gj->ngi", at.transform, base.reflections[some])
    inner = base.aperture.radius + 1.0
    y, x = np.indices(base.shape)
    near = np.zeros((len(places), *base.shape), bool)
    for n, frame in enumerate(places):
        for px, py in frame:
            if inner < px < base.shape[1] - 1 - inner and inner < py < base.shape[0] - 1 - inner:
                near[n] |= (x - px) ** 2 + (y - py) ** 2 < (base.aperture.half + 1) ** 2
    return near


def _aperture(p: Sequence[float] | np.ndarray, degree: int) -> Aperture:
    """Of a radius, a spread and a shared part, as far as there can be such."""
    radius, spread, shared = np.clip(p, _LEAST, _MOST)
    return Aperture(float(radius), float(spread), float(shared), degree)


def _fit_aperture(
    base: BasePattern, frames: np.ndarray, at: Estimates, fills: np.ndarray, prior: tuple[np.ndarray, np.ndarray]
) -> Aperture:
    """Radius and spread that make the counts of the brightest disks most likely, with fills of half of them.

    Fills of all would fit noise, and the sharper the disks the better; the half that they do not know takes that back.
    Pearson's statistic would not do: of few counts it is the less, the more is expected around the disks.
    """
    from scipy.optimize import minimize

    degree = base.aperture.degree
    half = np.random.default_rng(0).binomial(frames, 0.5).astype(frames.dtype)
    start = replace(at, background=at.background / 2, dose=at.dose / 2)
    least = _LEAST_EXPECTED * frames.mean((1, 2), keepdims=True)
    counted = base.good * _brightest(base, at, fills)

    def cost(p):
        aperture = _aperture([*p, base.aperture.shared], degree)
        trial, moved, filled = replace(base, aperture=aperture), start, fills
        for _ in range(2):
            moved, filled, _, _ = free_step(trial, half, moved, filled, *prior)
        drawn = trial.draw_filled(moved.transform, moved.centre, filled * at.dose[:, None, None], at.background)
        expected = np.maximum(drawn, least)
        return float((counted * (expected - frames * np.log(expected))).sum(dtype=float) / len(frames))

    known = np.array([base.aperture.radius, base.aperture.spread])
    simplex = known + np.array([[0, 0], [0.25, 0.0], [0.0, 0.3]])
    best = minimize(
        cost, known, method="Nelder-Mead", options={"initial_simplex": simplex, "xatol": 0.01, "maxfev": 30}
    ).x
    return _aperture([*best, base.aperture.shared], degree)


def _likelihood(
    base: BasePattern, frames: np.ndarray, at: Estimates, codes: np.ndarray, aperture: Aperture, counted: np.ndarray
) -> float:
    """Log-likelihood of the pixels `counted` with another aperture, once maps, codes and fills have gone with it."""
    grown = (base.aperture.radius / aperture.radius) ** 2
    trial = replace(base, aperture=aperture, fills=base.fills * grown)
    at, codes, covariance, _ = coded_step(trial, frames, at, codes)
    trial, at = _improved(trial, frames, at, codes, covariance)
    at, codes, _, _ = coded_step(trial, frames, at, codes)
    drawn = trial.draw(at.transform, at.centre, codes, at.background)
    expected = np.maximum(drawn, _LEAST_EXPECTED * frames.mean((1, 2), keepdims=True))
    return float((counted * (frames * np.log(expected) - expected)).sum(dtype=float))


def _refined_aperture(base: BasePattern, frames: np.ndarray, at: Estimates, codes: np.ndarray) -> tuple[Aperture, bool]:
    """Radius and blur that are most likely with fills that all frames share, and whether those known were near.

    An error of a hundredth of a pixel shows: disks that grow dimmer outwards would be taken for displaced, by the
    contrast of their edges times the error, all inwards.
    """
    was = np.array([base.aperture.radius, base.aperture.spread, base.aperture.shared])
    known = np.clip(was, _LEAST + _VARIED, _MOST - _VARIED)
    counted = base.good * _brightest(base, at, base.fills[:1])

    def found(*moves: int) -> float:
        moved = known.copy()
        for move in moves:
            moved[abs(move) - 1] += np.sign(move) * _VARIED[abs(move) - 1]
        return _likelihood(base, frames, at, codes, _aperture(moved, base.aperture.degree), counted)

    none, up, down = found(), [found(i) for i in (1, 2, 3)], [found(-i) for i in (1, 2, 3)]
    slope = (np.array(up) - down) / 2
    bend = np.diag(np.array(up) + down - 2 * none)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        bend[i, j] = bend[j, i] = found(i + 1, j + 1) - up[i] - up[j] + none
    # Uphill, also where the likelihood is not concave: by its curvature along each axis, whatever the sign.
    values, axes = np.linalg.eigh(bend)
    bend = (axes * -np.maximum(np.abs(values), 1e-9)) @ axes.T
    low, high = np.maximum((_LEAST - known) / _VARIED, -3), np.minimum((_MOST - known) / _VARIED, 3)
    free, step = np.ones(3, bool), np.zeros(3)
    for _ in range(3):  # what would go farther than it can stays there
        step[free] = -np.linalg.solve(bend[np.ix_(free, free)], slope[free] + bend[np.ix_(free, ~free)] @ step[~free])
        free &= (low < step) & (step < high)
        step = np.clip(step, low, high)
    likeliest = known + step * _VARIED
    near = bool((np.abs(likeliest - was) < _VARIED / 2).all())
    return _aperture(likeliest, base.aperture.degree), near


def _turns(base: BasePattern, at: Estimates) -> np.ndarray:
    """Matrices (n, b, b) from fills of the crystal to fills on the detector."""
    steps, which = np.unique(np.rint(rotation_of(at.transform) / 0.01).astype(int), return_inverse=True)
    return np.array([turning(base.aperture.degree, 0.01 * step) for step in steps])[which]


def _modes(base: BasePattern, at: Estimates, fills: np.ndarray, scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Mean and modes (K + 1, g, b) of free fills (n, g, b), and codes (n, K + 1) [electrons]."""
    turns = _turns(base, at)
    own = np.einsum("nba,ngb->nga", turns, fills)
    gram = np.zeros(scores.gram.shape[1:])
    for n in range(len(at)):
        gram += turns[n].T @ (scores.gram[n].astype(float) * at.dose[n] ** 2) @ turns[n]
    weight = np.maximum(scores.seen.sum(0), 1)[:, None, None]
    seen = scores.seen[..., None]
    mean = (own * seen).sum(0) / weight[..., 0]
    values, axes = np.linalg.eigh(gram / weight)
    values = np.maximum(values, 1e-6 * values.max(1, keepdims=True) + 1e-30)
    whiten, colour = np.sqrt(values)[..., None] * axes.transpose(0, 2, 1), axes / np.sqrt(values)[:, None, :]
    white = np.einsum("gab,ngb->nga", whiten, (own - mean) * seen).reshape(len(at), -1)
    u, s, v = np.linalg.svd(white, full_matrices=False)
    edge = np.sqrt(white.shape[0]) + np.sqrt(white.shape[1])
    k = min(int((s > _ABOVE_NOISE * edge).sum()), _MOST_MODES)
    modes = np.einsum("gab,kgb->kga", colour, (v[:k] * s[:k, None]).reshape(k, *mean.shape)) / np.sqrt(len(at))
    codes = np.concatenate([np.ones((len(at), 1)), u[:, :k] * np.sqrt(len(at))], 1) * at.dose[:, None]
    return np.concatenate([mean[None], modes]), codes


def _improved(
    base: BasePattern, frames: np.ndarray, at: Estimates, codes: np.ndarray, covariance: np.ndarray
) -> tuple[BasePattern, Estimates]:
    """Fills that make the frames more likely, over what is known of the codes, and maps that go with them.

    Fills can take up most of what a deformation common to all maps does, and in turns neither would move: the two are
    found together.
    """
    scores = evaluate(base, frames, at, base.coefficients(at.transform, codes))
    turns, m = _turns(base, at), at.transform
    count, disks, functions = base.fills.shape
    known = covariance[:, 7:, 7:]
    second = (np.einsum("nk,nl->nkl", codes, codes) + known).reshape(len(at), -1)
    normal = np.empty((disks, count * functions, count * functions))
    right = np.empty((disks, count, functions))
    cross = np.empty((disks, 2, count * functions))
    for g in range(disks):
        gram = turns.transpose(0, 2, 1) @ scores.gram[:, g].astype(float) @ turns
        blocks = (second.T @ gram.reshape(len(at), -1)).reshape(count, count, functions, functions)
        normal[g] = blocks.transpose(0, 2, 1, 3).reshape(count * functions, -1)
        right[g] = codes.T @ np.einsum("nb,nba->na", scores.moments[:, g].astype(float), turns)
        fills = np.einsum("nkl,lb->nkb", known, base.fills[:, g])
        right[g] -= np.einsum("nab,nkb->ka", gram, fills)
        by_place = m.transpose(0, 2, 1) @ scores.cross[:, g, :2].astype(float) @ turns
        cross[g] = np.einsum("nib,nk->ikb", by_place, codes).reshape(2, -1)
    scale = np.sqrt(np.maximum(np.einsum("gii->gi", normal), 1e-30))
    # Fills are no wilder than disks are bright: where few frames, or few electrons, do not tell.
    by_degree = np.concatenate([np.full(d + 1, d) for d in range(base.aperture.degree + 1)])
    level = np.maximum(base.fills[0, :, 0], 0.1 * base.fills[0, :, 0].mean())
    precision = ((1.0 + by_degree) / (2 * level[:, None])) ** 2
    precision = np.repeat(precision[:, None], count, 1)
    precision[:, 0, 0] = 0
    right -= precision * base.fills.transpose(1, 0, 2)
    normal += precision.reshape(disks, -1, 1) * np.eye(count * functions)
    # Directions of which nothing is known stay as they are.
    scaled = normal / scale[:, :, None] / scale[:, None] + 1e-4 * np.eye(count * functions)
    both = np.concatenate([right.reshape(disks, -1, 1), cross.transpose(0, 2, 1)], 2)
    both = np.linalg.solve(scaled, both / scale[..., None]) / scale[..., None]
    seen = scores.seen.any(0)
    seen &= base.fills[0].any(1)
    both[~seen] = 0
    place, push = place_information(scores), scores.place_score
    place = np.einsum("nxi,ngxy,nyj->gij", m, place, m, optimize=True) - cross @ both[..., 1:]
    push = np.einsum("nxi,ngx->gi", m, push) - (cross @ both[..., :1])[..., 0]
    places = design(base.reflections)[:, :, :4]
    information = np.einsum("gia,gij,gjb->ab", places[seen], place[seen], places[seen], optimize=True)
    common = np.linalg.solve(information, np.einsum("gia,gi->a", places[seen], push[seen]))
    step = both[..., 0] - (both[..., 1:] @ (places @ common)[..., None])[..., 0]
    improved = replace(base, fills=base.fills + step.reshape(disks, count, functions).transpose(1, 0, 2))
    return improved, replace(at, transform=m @ (np.eye(2) + common.reshape(2, 2)))


def _standardised(base: BasePattern, codes: np.ndarray) -> tuple[BasePattern, np.ndarray]:
    """The same with codes of mean 0 and standard deviation 1."""
    relative = codes[:, 1:] / codes[:, :1]
    mean, sd = relative.mean(0), np.maximum(relative.std(0), 1e-9)
    fills = base.fills.copy()
    fills[0] += np.einsum("k,kgb->gb", mean, base.fills[1:])
    fills[1:] *= sd[:, None, None]
    return replace(base, fills=fills), np.concatenate([codes[:, :1], (relative - mean) / sd * codes[:, :1]], 1)


def learn(frames: np.ndarray, lattice: FoundLattice, good: np.ndarray, progress: Callable[[str], None]) -> Learned:
    """Learn the base pattern of frames (n, ny, nx) whose lattice was found; `good` (ny, nx) marks pixels that count."""
    shape = (frames.shape[1], frames.shape[2])
    degree = _degree(lattice.radius)
    index = _sites(lattice, shape)
    base = BasePattern(
        shape, lattice.vectors, index, lattice.centre, Aperture(lattice.radius, 0.6, 0.5, degree),
        Background(max(shape) / 4, 0.1, 0.05, 1.0), np.zeros((1, len(index), (degree + 1) * (degree + 2) // 2)), good,
    )  # fmt: skip
    dose = frames.sum((1, 2), dtype=float)
    transform, centre = search(base, frames)
    places = centre[:, None] + np.einsum("nij,gj->ngi", transform, base.reflections)
    reached = (np.abs(places - (np.array(shape[::-1]) - 1) / 2) < np.array(shape[::-1]) / 2 + lattice.radius).all(2)
    index = index[reached.any(0)]
    base = replace(base, beam=np.median(centre, 0), index=index, fills=base.fills[:, reached.any(0)])
    at = Estimates(transform, centre, base.background.share * dose, dose)
    background, amount = _background(base, frames, at)
    base, at = replace(base, background=background), replace(at, background=amount)
    flat = np.zeros(base.fills.shape[2])
    on = (np.abs(base.reflections) < np.array(shape[::-1]) / 2).all(1).sum()
    flat[0] = max(1 - background.share, 0.05) / (on * np.pi * lattice.radius**2)
    by_degree = np.concatenate([np.full(d + 1, d) for d in range(degree + 1)])
    variance = (2 * flat[0]) ** 2 * np.where(by_degree == 0, 4.0, 1 / (1.0 + by_degree) ** 2)
    fills = np.broadcast_to(flat, (len(frames), *base.fills.shape[1:])).copy()
    few = np.unique(np.linspace(0, len(frames) - 1, _FEW).astype(int))
    for turn in range(2):
        for step in range(_FREE_STEPS if turn == 0 else 3):
            at, fills, free, scores = free_step(base, frames, at, fills, flat, variance)
            progress(f"disks' edges, step {step + 1}: misfit {scores.misfit.mean():.3f}")
        if turn == 0:
            background, amount = _background(base, frames, at)
            base = replace(base, background=background, beam=np.median(at.centre, 0))
            at = replace(at, background=amount)
            aperture = _fit_aperture(base, frames[few], at.part(few), fills[few], (flat, variance))
            base = replace(base, aperture=aperture)
            progress(f"disks of radius {aperture.radius:.2f} pixels, blur {aperture.blur:.2f} pixels")
    learned, codes = _modes(base, at, fills, scores)
    learned[:, scores.seen.mean(0) < _OFTEN] = 0
    base = replace(base, fills=learned)
    restless, settled = np.inf, False
    more = np.unique(np.linspace(0, len(frames) - 1, _MORE).astype(int))
    for turn in range(_ROUNDS):
        before = at
        for _ in range(2):
            at, codes, covariance, scores = coded_step(base, frames, at, codes)
        base, at = _improved(base, frames, at, codes, covariance)
        base, codes = _standardised(base, codes)
        change = (at.transform - before.transform).reshape(-1, 4)
        restless = float(np.sqrt((change**2 / np.einsum("nii->ni", covariance[:, :4, :4])).mean()))
        progress(f"fills with {len(base.fills) - 1} modes, round {turn + 1}: misfit {scores.misfit.mean():.3f}")
        if not settled and turn < _ROUNDS - 2:
            aperture, settled = _refined_aperture(base, frames[more], at.part(more), codes[more])
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
