"""Disks and their lattice in patterns of which nothing is known: radius of the disks, lattice vectors, beam.

Disks are found by the likelihood ratio of Poisson counts, a disk and the ring around it having two densities or one;
their radius by the mean profile across their edges. The lattice is the one whose sites hold most of the disks found,
chance discounted: a denser lattice hits more of them by chance. It is made denser where dim disks stand between its
sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Outer radius of the ring around a disk, over the disk's radius.
_RING = 1.35
#: Counts that patterns are added up to before disks are looked for in them, and how many are at most.
_ENOUGH, _TOGETHER = 2e5, 16
#: Disks that are no brighter than this part of the others do not matter. Those that are left out are taken for
#: background: a hundredth, between disks of 6 pixels that almost touch, displaces them by a strain of up to 0.05 %.
_DIM = 0.001
#: Of radii that are this nearly the best, the least is taken.
_AS_GOOD = 0.99
#: Disks in a sample that may be of a lattice, and samples that have to agree on one.
_LEAST, _AGREE = 6, 3
#: Two lattices are the same if their vectors' lengths and angle agree to this.
_ALIKE = 0.06


@dataclass(frozen=True)
class FoundLattice:
    """What was found."""

    vectors: np.ndarray  #: (2, 2) rows, shortest first, right-handed [pixels]
    centre: np.ndarray  #: (2,) x, y of the direct beam [pixels]
    radius: float  #: of the disks [pixels]
    agreeing: float  #: share of the samples with disks that have this lattice, in any rotation


def _discs(shape: tuple[int, int], radius: float) -> np.ndarray:
    """Spectrum of a disk of a radius around the first pixel."""
    y, x = (np.fft.fftfreq(n, 1 / n) for n in shape)
    return np.fft.rfft2(np.clip(radius + 0.5 - np.hypot(y[:, None], x), 0.0, 1.0))


class _Correlator:
    """Sums over disks around each pixel of an image, what is outside the frame being no pixel."""

    def __init__(self, shape: tuple[int, int], radii: Sequence[float]) -> None:
        from scipy import fft

        margin = int(np.ceil(_RING * max(radii))) + 1
        self.shape, self.padded = shape, tuple(fft.next_fast_len(n + margin) for n in shape)
        self.kernels = {r: (_discs(self.padded, r), _discs(self.padded, _RING * r)) for r in radii}
        self._areas = {r: self._sums(np.ones(shape), r) for r in radii}

    def _sums(self, image: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
        spectrum = np.fft.rfft2(image, s=self.padded)
        inner, outer = (
            np.fft.irfft2(spectrum * k, s=self.padded)[: self.shape[0], : self.shape[1]] for k in self.kernels[radius]
        )
        return np.maximum(inner, 1e-6), np.maximum(outer - inner, 1e-6)

    def ratio(self, image: np.ndarray, radius: float) -> np.ndarray:
        """Log-likelihood ratio (ny, nx) of a disk brighter than its ring around each pixel."""
        inside, around = self._sums(image, radius)
        area, ring = self._areas[radius]
        both = (inside + around) * np.log((inside + around) / (area + ring))
        ratio = inside * np.log(inside / area) + around * np.log(around / ring) - both
        # A disk that the frame cuts off says little of where it is.
        whole = area > 0.9 * np.pi * radius**2
        return np.where(whole & (inside / area > around / ring), ratio, 0.0)


def _peaks(ratio: np.ndarray, radius: float, least: float = 15.0) -> tuple[np.ndarray, np.ndarray]:
    """Places (p, 2) x, y and heights (p,) of disks, highest first."""
    from scipy.ndimage import maximum_filter

    size = 2 * int(np.ceil(radius)) + 1
    y, x = np.nonzero((ratio == maximum_filter(ratio, size)) & (ratio > least))
    order = np.argsort(-ratio[y, x], kind="stable")
    kept: list[int] = []
    for i in order:  # a disk that is too large for one with nothing around it is as likely in many places
        if len(kept) < 80 and ((x[kept] - x[i]) ** 2 + (y[kept] - y[i]) ** 2 >= radius**2).all():
            kept.append(int(i))
    return np.stack([x[kept], y[kept]], -1).astype(float), ratio[y[kept], x[kept]]


def _reduced(vectors: np.ndarray) -> np.ndarray:
    """The lattice's shortest vectors, right-handed, the first pointing to positive x (Gauss's reduction)."""
    a, b = vectors
    if a @ a > b @ b:
        a, b = b, a
    while True:
        b = b - np.rint(a @ b / (a @ a)) * a
        if a @ a <= b @ b:
            break
        a, b = b, a
    if a[0] < 0:
        a = -a
    if a[0] * b[1] - a[1] * b[0] < 0:
        b = -b
    return np.array([a, b])


def _lattice_of(places: np.ndarray, weights: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Vectors, a site, and the score (0 to 1) of the lattice that holds most of the disks' weight."""
    if len(places) < _LEAST:
        return None
    weights = np.minimum(weights, np.median(weights))
    weights = weights / weights.sum()
    strong = places[:24]
    between = (strong[:, None] - strong[None]).reshape(-1, 2)
    length = np.hypot(*between.T)
    between = between[(length > 1.85 * radius) & ((between[:, 0] > 0) | ((between[:, 0] == 0) & (between[:, 1] > 0)))]
    between = between[np.argsort(np.hypot(*between.T), kind="stable")][:60]
    tolerance = max(1.2, 0.2 * radius)
    score, cell, anchor = -1.0, np.zeros((2, 2)), places[0]
    first, second = np.triu_indices(len(between), 1)
    cells = np.stack([between[first], between[second]], 1)
    area = np.abs(np.linalg.det(cells))
    lengths = np.hypot(cells[..., 0], cells[..., 1])
    usable = area > 0.35 * lengths[:, 0] * lengths[:, 1]
    cells, area = cells[usable], area[usable]
    if not len(cells):
        return None
    inverse = np.linalg.inv(cells)
    for origin in places[:3]:
        index = np.einsum("pi,cij->cpj", places - origin, inverse)
        off = np.einsum("cpj,cji->cpi", index - np.rint(index), cells)
        hits = ((off**2).sum(-1) < tolerance**2) @ weights
        chance = np.minimum(np.pi * tolerance**2 / area, 0.95)
        beyond = (hits - chance) / (1 - chance)
        at = int(beyond.argmax())
        if beyond[at] > score:
            score, cell, anchor = float(beyond[at]), cells[at], origin
    cell = _reduced(cell)
    for _ in range(3):
        index = np.rint((places - anchor) @ np.linalg.inv(cell))
        off = places - anchor - index @ cell
        near = (off**2).sum(1) < tolerance**2
        design = np.concatenate([index, np.ones((len(index), 1))], 1)[near]
        if np.linalg.matrix_rank(design) < 3:
            return None
        fit = np.linalg.lstsq(design * weights[near, None], places[near] * weights[near, None], rcond=None)[0]
        cell, anchor = fit[:2], fit[2]
    return _reduced(cell), anchor, score


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    def shape(vectors: np.ndarray) -> np.ndarray:
        a, b = vectors
        return np.array([a @ a, b @ b, abs(a @ b)])

    return bool((np.abs(shape(one) - shape(other)) < 2 * _ALIKE * (one[1] @ one[1])).all())


def samples(frames: np.ndarray, together: int, count: int = 16) -> list[np.ndarray]:
    """Sums of consecutive frames, spread over the scan."""
    starts = np.unique(np.linspace(0, len(frames) - together, count).astype(int))
    return [frames[s : s + together].sum(0, dtype=float) for s in starts]


def _sites(vectors: np.ndarray, site: np.ndarray, shape: tuple[int, int], margin: float) -> np.ndarray:
    """Places (s, 2) of a lattice that are at least a margin inside the frame."""
    reach = int(np.ceil(max(shape) * 1.5 / np.linalg.svd(vectors)[1].min()))
    h, k = np.meshgrid(*[np.arange(-reach, reach + 1)] * 2)
    middle = site + np.rint((np.array(shape[::-1]) / 2 - site) @ np.linalg.inv(vectors)) @ vectors
    places = middle + np.stack([h.ravel(), k.ravel()], -1) @ vectors
    inside = ((places > margin) & (places < np.array(shape[::-1]) - 1 - margin)).all(1)
    return places[inside]


def _edge(found: list[tuple], radius: float) -> float:
    """Radius of the disks [pixels], from the mean profile across the edges of the brighter half of them."""
    from scipy.optimize import curve_fit
    from scipy.special import erfc

    spacing = np.linalg.norm(found[0][0][0])
    bins = np.arange(0.4 * radius, min(1.5 * radius, spacing - 0.8 * radius), 0.5)
    counts, pixels = np.zeros(len(bins) - 1), np.zeros(len(bins) - 1)
    for vectors, site, _, image in found:
        y, x = np.indices(image.shape)
        sites = _sites(vectors, site, image.shape, radius)
        away = [np.hypot(x - s[0], y - s[1]) for s in sites]
        core = np.array([image[r < 0.6 * radius].mean() for r in away])
        for r in (away[i] for i in np.flatnonzero(core >= np.median(core))):
            near = r < bins[-1]
            counts += np.histogram(r[near], bins, weights=image[near] / image.sum())[0]
            pixels += np.histogram(r[near], bins)[0]
    profile = counts / np.maximum(pixels, 1)
    middle = (bins[1:] + bins[:-1]) / 2

    def edge(r, high, slope, low, at, width):
        return low + (high + slope * (r - at)) * 0.5 * erfc((r - at) / width)

    start = (np.ptp(profile), 0.0, profile.min(), 0.87 * radius, 1.0)
    limits = ([0, -np.inf, 0, bins[0], 0.2], [np.inf, np.inf, np.inf, bins[-1], 0.5 * radius])
    scale = profile.max()
    start = tuple(v / scale if i < 3 else v for i, v in enumerate(start))
    try:
        return float(curve_fit(edge, middle, profile / scale, start, bounds=limits)[0][3])
    except RuntimeError:
        return 0.87 * radius


def _completed(found: list[tuple], radius: float) -> np.ndarray:
    """Matrix (2, 2) that makes the lattices denser where disks stand between their sites, dim ones that were missed."""
    a, b = np.eye(2)
    best, most = np.eye(2), 0.0
    for denser in (np.array([a, b / 2]), np.array([a / 2, b]), np.array([a, (a + b) / 2]), np.eye(2) / 2):
        inside = between = whole = 0.0
        n_inside = n_between = n_whole = 0
        for vectors, site, _, image in found:
            fine = _reduced(denser @ vectors)
            if np.linalg.norm(fine[0]) < 1.9 * radius:
                break
            # The points farthest from all sites: the corners of the lattice's Voronoi cells.
            p, q = fine
            corner = np.linalg.solve(2 * np.array([p, q]), [p @ p, q @ q]) if p @ q > 0 else None
            if corner is None:
                corner = np.linalg.solve(2 * np.array([p, p + q]), [p @ p, (p + q) @ (p + q)])
            y, x = np.indices(image.shape)
            at = np.stack([x.ravel(), y.ravel()], -1)
            index = (at - site) @ np.linalg.inv(fine)
            off = np.linalg.norm((index - np.rint(index)) @ fine, axis=1)
            old = (at - site) @ np.linalg.inv(vectors)
            from_old = np.linalg.norm((old - np.rint(old)) @ vectors, axis=1)
            hole = (at - site - corner) @ np.linalg.inv(fine)
            from_hole = np.linalg.norm((hole - np.rint(hole)) @ fine, axis=1)
            flat = image.ravel()
            core, gap = (off < 0.6 * radius) & (from_old > 1.5 * radius), (from_hole < 1.0) & (off > 1.1 * radius)
            inside += flat[core].sum()
            n_inside += int(core.sum())
            between += flat[gap].sum()
            n_between += int(gap.sum())
            whole += flat[from_old < 0.6 * radius].sum()
            n_whole += int((from_old < 0.6 * radius).sum())
        if min(n_inside, n_between, n_whole) == 0:
            continue
        new, gap, old = inside / n_inside, between / n_between, whole / n_whole
        sd = np.sqrt(inside / n_inside**2 + (between + 1) / n_between**2)
        if new - gap > 6 * sd and new - gap > _DIM * (old - gap) and (new - gap) > most * 1.2:
            best, most = denser, new - gap
    return best


def _search(frames: np.ndarray, together: int) -> tuple[list[tuple], float, float]:
    """Lattices (vectors, site, score, image) of samples that agree, their share of those with disks, first radius."""
    images = samples(frames, together)
    shape = (frames.shape[1], frames.shape[2])
    radii = np.geomspace(2.0, min(shape) / 7, 36)
    correlator = _Correlator(shape, list(radii))
    gain = np.zeros(len(radii))
    for image in images[:: max(1, len(images) // 5)]:
        for i, radius in enumerate(radii):
            _, heights = _peaks(correlator.ratio(image, radius), radius)
            gain[i] += np.sqrt(heights[:12]).sum()
    if not gain.any():
        return [], 0.0, 0.0
    # Where nothing is between disks, one that is too large is as good, until it reaches the next.
    radius = float(radii[np.argmax(gain > _AS_GOOD * gain.max())])
    found, crystalline = [], 0
    for image in images:
        places, heights = _peaks(correlator.ratio(image, radius), radius)
        crystalline += len(places) >= _LEAST
        lattice = _lattice_of(places, np.sqrt(heights), radius)
        if lattice is not None and lattice[2] > 0.5:
            found.append((*lattice, image))
    if len(found) < min(_AGREE, len(images)):
        return [], 0.0, radius
    agreeing = np.array([[_alike(a[0], b[0]) for b in found] for a in found])
    members = agreeing[agreeing.sum(1).argmax()]
    share = members.sum() / crystalline if members.sum() >= min(_AGREE, len(images)) else 0.0
    return [f for f, m in zip(found, members, strict=True) if m], float(share), radius


def find_lattice(frames: np.ndarray) -> FoundLattice | None:
    """Find disks and their lattice.

    Parameters
    ----------
    frames : array (n, ny, nx)
        Counts; neighbours are neighbours in the specimen.

    Returns
    -------
    FoundLattice or None
        None if fewer than half of the samples that show disks, or fewer than three of all sixteen, show one lattice:
        a scan may be of vacuum for the most part.
    """
    mean = max(float(frames[:: max(1, len(frames) // 32)].sum((1, 2), dtype=float).mean()), 1.0)
    most = int(np.clip(np.ceil(_ENOUGH / mean), 1, min(_TOGETHER, len(frames))))
    # Many frames together show more disks, but at grains' boundaries those of two lattices.
    tried = sorted({most, max(1, most // 4), 1}, reverse=True)
    found, share, radius = max((_search(frames, t) for t in tried), key=lambda result: round(result[1], 1))
    if share < 0.5:
        return None
    few = found[:: max(1, len(found) // 4)]
    radius = _edge(few, radius)
    denser = _completed(few, radius)
    vectors, site, _, image = max(found, key=lambda lattice: lattice[2])
    # The direct beam is the site nearest to where the electrons are on average.
    y, x = np.indices(image.shape)
    total = frames[:: max(1, len(frames) // 64)].sum(0, dtype=float)
    middle = np.array([(total * x).sum(), (total * y).sum()]) / total.sum()
    vectors = _reduced(denser @ vectors)
    centre = site + np.rint((middle - site) @ np.linalg.inv(vectors)) @ vectors
    return FoundLattice(vectors, centre, radius, share)
