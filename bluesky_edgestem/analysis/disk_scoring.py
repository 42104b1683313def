"""Fisher scoring of patterns by the base pattern: the encoder's step, and that of fills which are not known yet.

Unknown are the map M, the beam's place c, the background β, and what fills the disks: each disk its own polynomial
(`free_step`), or a few codes for all of them (`coded_step`). Both are joint Newton steps with the expected information
of Poisson counts; what the fill explains is not counted as displacement.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from . import disk_kernels
from .base_pattern import MARGIN, BasePattern, rotation_of
from .disk_aperture import turning
from .kernels import in_parts
from .map_information import packed

#: Disks move by no more than this in one step [pixels].
_FARTHEST = 1.5
#: The variance of a pixel is no less than this part of what its surroundings count, and than this part of the mean.
_FLOOR_LOCAL, _FLOOR = 0.3, 0.01
#: Frames whose floors are in memory at a time.
_BLOCK = 64
#: Parts of the information on map and beam that the disks hold which lead, and those which are read at all.
_LEADING, _TELLING = 0.5, 0.99
#: Angle [rad] over which fills are taken to change in proportion, for their slopes.
_NEAR = 1e-3


@dataclass(frozen=True)
class Estimates:
    """Of n patterns."""

    transform: np.ndarray  #: (n, 2, 2)
    centre: np.ndarray  #: (n, 2)
    background: np.ndarray  #: (n,) [electrons]
    dose: np.ndarray  #: (n,) [electrons]

    def __len__(self) -> int:
        return len(self.transform)

    def part(self, which) -> Estimates:
        return Estimates(self.transform[which], self.centre[which], self.background[which], self.dose[which])

    def moved(self, step: np.ndarray) -> Estimates:
        """By steps (n, 7 or more) of map, beam and background, which does not become negative."""
        return Estimates(
            self.transform + step[:, :4].reshape(-1, 2, 2), self.centre + step[:, 4:6],
            np.maximum(self.background + step[:, 6], 0), self.dose,
        )  # fmt: skip


@dataclass(frozen=True)
class Scores:
    """What `disk_kernels.evaluate` says, of fills in the detector's axes if nothing else is said."""

    moments: np.ndarray
    gram: np.ndarray
    cross: np.ndarray
    place_info: np.ndarray
    place_score: np.ndarray
    back_score: np.ndarray
    back_info: np.ndarray
    misfit: np.ndarray  #: (n,) Pearson's statistic over the number of pixels that count
    seen: np.ndarray

    def of_crystal(self, turns: np.ndarray) -> Scores:
        """The same of fills in the crystal's axes; `turns` (n, b, b) are `BasePattern.turns`."""
        turns, gram = turns.astype(np.float32), np.empty_like(self.gram)
        for n, turn in enumerate(turns):
            gram[n] = turn.T @ self.gram[n] @ turn
        return replace(self, moments=self.moments @ turns, gram=gram, cross=self.cross @ turns[:, None])


def floors(frames: np.ndarray) -> np.ndarray:
    """Least variance of the pixels of frames, (n, ny, nx) float32."""
    from scipy.ndimage import uniform_filter

    around = np.array([uniform_filter(f.astype(np.float32), 5) for f in frames])
    return _FLOOR_LOCAL * around + _FLOOR * around.mean((1, 2), keepdims=True) + np.float32(1e-6)


def evaluate(base: BasePattern, frames: np.ndarray, at: Estimates, coefficients: np.ndarray) -> Scores:
    """Score and information of frames (n, ny, nx) with fills (n, g, b) [counts]."""
    n, g, b = coefficients.shape
    s = Scores(
        np.zeros((n, g, b), np.float32), np.zeros((n, g, b, b), np.float32), np.zeros((n, g, 3, b), np.float32),
        np.zeros((n, g, 5)), np.zeros((n, g, 2)), np.zeros(n), np.zeros(n), np.zeros(n), np.zeros((n, g), bool),
    )  # fmt: skip
    coefficients = coefficients.astype(np.float32)
    aperture, table, reflections = base.aperture, base.background_table, base.reflections

    def part(whole: slice) -> None:
        for first in range(whole.start, whole.stop, _BLOCK):
            p = slice(first, min(first + _BLOCK, whole.stop))
            disk_kernels.evaluate(
                frames[p], base.good, table, MARGIN, aperture.templates, aperture.rows, aperture.radius, reflections,
                coefficients[p],
                at.transform[p], at.centre[p], at.background[p], base.beam, floors(frames[p]), s.moments[p], s.gram[p],
                s.cross[p], s.place_info[p], s.place_score[p], s.back_score[p], s.back_info[p], s.misfit[p], s.seen[p],
            )  # fmt: skip

    in_parts(n, part)
    return s


def design(reflections: np.ndarray) -> np.ndarray:
    """Derivatives (g, 2, 6) of the disks' places by the map's entries and the beam's place."""
    out = np.zeros((len(reflections), 2, 6))
    out[:, 0, :2] = out[:, 1, 2:4] = reflections
    out[:, 0, 4] = out[:, 1, 5] = 1
    return out


def _solved(information: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = np.sqrt(np.maximum(np.einsum("nii->ni", information), 1e-30))
    covariance = np.linalg.inv(information / scale[:, :, None] / scale[:, None, :]) / scale[:, :, None] / scale[:, None]
    return (covariance @ score[..., None])[..., 0], covariance


def _limited(step: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Steps (n, 6 or more) of map, beam and what follows, as far as disks may move."""
    far = np.abs(np.einsum("gia,na->ngi", places, step[:, :6])).max((1, 2))
    return step * np.minimum(1, _FARTHEST / np.maximum(far, 1e-12))[:, None]


def place_information(scores: Scores) -> np.ndarray:
    """Fisher information (n, g, 2, 2) of the disks' places."""
    p = scores.place_info
    return np.stack([np.stack([p[..., 0], p[..., 1]], -1), np.stack([p[..., 1], p[..., 2]], -1)], -2)


def _of_map(places: np.ndarray, by_place: np.ndarray) -> np.ndarray:
    """What is known by each disk's place (n, g, 2, k) as known by the map, (n, 6, k)."""
    return places.reshape(-1, 6).T @ by_place.reshape(len(by_place), -1, by_place.shape[-1])


def free_step(
    base: BasePattern, frames: np.ndarray, at: Estimates, fills: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> tuple[Estimates, np.ndarray, np.ndarray, Scores]:
    """One step where each disk of each pattern has a fill of its own, and the background is known.

    Parameters
    ----------
    fills : array (n, g, b)
        Of one electron, in the detector's axes.
    mean, variance : array (b,)
        Of fills, beforehand.

    Returns
    -------
    Estimates, fills (n, g, b), covariance (n, 6, 6), Scores
    """
    dose = at.dose[:, None, None]
    scores = evaluate(base, frames, at, fills * dose)
    moments = scores.moments * dose - (fills - mean) / variance
    gram = scores.gram * dose[..., None] ** 2 + np.diag(1 / variance)
    cross = scores.cross[:, :, :2] * dose[..., None]
    both = np.linalg.solve(gram, np.concatenate([cross.transpose(0, 1, 3, 2), moments[..., None]], -1))
    places = design(base.reflections)
    left = place_information(scores) - cross @ both[..., :2]
    push = scores.place_score - (cross @ both[..., 2:])[..., 0]
    information = _of_map(places, left @ places)
    step, covariance = _solved(information, _of_map(places, push[..., None])[..., 0])
    step = _limited(step, places)
    shift = np.einsum("gia,na->ngi", places, step)
    change = both[..., 2] - np.einsum("ngbi,ngi->ngb", both[..., :2], shift)
    moved = at.moved(np.pad(step, ((0, 0), (0, 1))))
    return moved, fills + np.where(scores.seen[..., None], change, 0), covariance, scores


def coded_step(
    base: BasePattern, frames: np.ndarray, at: Estimates, codes: np.ndarray
) -> tuple[Estimates, np.ndarray, np.ndarray, Scores]:
    """One step where fills are told by codes (n, K + 1): brightness [electrons], and that times each mode's code.

    Returns
    -------
    Estimates, codes (n, K + 1), covariance (n, 7 + K + 1, 7 + K + 1) of map, beam, background and codes, Scores of
    fills in the crystal's axes
    """
    scores = evaluate(base, frames, at, base.coefficients(at.transform, codes)).of_crystal(base.turns(at.transform))
    n, count = codes.shape
    information, score = np.zeros((n, 7 + count, 7 + count)), np.zeros((n, 7 + count))
    places = design(base.reflections)
    information[:, :6, :6] = _of_map(places, place_information(scores) @ places)
    information[:, :6, 6] = _of_map(places, scores.place_info[..., 3:5, None])[..., 0]
    information[:, 6, 6] = scores.back_info
    score[:, :6] = _of_map(places, scores.place_score[..., None])[..., 0]
    score[:, 6] = scores.back_score
    flat = base.fills.reshape(count, -1)
    each = base.fills.transpose(1, 2, 0).astype(np.float32)
    information[:, 7:, 7:] = flat.astype(np.float32) @ (scores.gram @ each).reshape(n, -1, count)
    by_fill = scores.cross @ each
    information[:, :6, 7:] = _of_map(places, by_fill[:, :, :2])
    information[:, 6, 7:] = by_fill[:, :, 2].sum(1)
    score[:, 7:] = scores.moments.reshape(n, -1).astype(float) @ flat.T
    lower = np.tril_indices(7 + count, -1)
    information[:, lower[0], lower[1]] = information[:, lower[1], lower[0]]
    # Beforehand codes are of order one, and the background as in other patterns.
    expected = base.background.share * at.dose
    known = np.zeros_like(score)
    known[:, 6] = 1 / (base.background.spread * expected + 1) ** 2
    known[:, 8:] = 1 / np.maximum(codes[:, :1], 1.0) ** 2
    score[:, 6] -= known[:, 6] * (at.background - expected)
    score[:, 8:] -= known[:, 8:] * codes[:, 1:]
    information += known[:, :, None] * np.eye(7 + count)
    step, covariance = _solved(information, score)
    step = _limited(step, places)
    return at.moved(step), codes + step[:, 7:], covariance, scores


@dataclass(frozen=True)
class KnownInformation:
    """Fisher information of the mean pattern of one electron, in each of t rotations."""

    angle: np.ndarray  #: (t,) [rad]
    fills: np.ndarray  #: (t, K + 1, g, b) float32, in the detector's axes, in the disks' `order`
    slopes: np.ndarray  #: (t, K + 1, g, b) float32, by which they change with the angle [1/rad]
    disks: np.ndarray  #: (t, g, m) what each disk holds of map, beam, background and codes, `map_information.packed`
    place: np.ndarray  #: (t, g) of x and y together
    level: np.ndarray  #: (t, g) of the disk's first function
    background: np.ndarray  #: (t,)
    order: np.ndarray  #: (t, g) of the disks by what they tell of map and beam
    leading: np.ndarray  #: (t,) how many of them hold `_LEADING` of what all tell
    telling: np.ndarray  #: (t,) how many hold `_TELLING` of it


def _turned(turns: np.ndarray, fills: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Fills (K + 1, g, b) by each of matrices (t, b, b), disks in an order (t, g): (t, K + 1, g, b) float32."""
    turned = (fills @ turns.transpose(0, 2, 1)[:, None]).astype(np.float32)
    return np.take_along_axis(turned, order[:, None, :, None], 2)


def known_information(base: BasePattern, turned: np.ndarray) -> KnownInformation:
    """What the encoder needs to know of patterns in rotations (t, 2, 2), all different."""
    electrons = 1e6
    count = len(base.fills)
    mean = np.zeros((len(turned), count))
    mean[:, 0] = electrons
    beam = np.broadcast_to(base.beam, (len(turned), 2)).copy()
    background = np.full(len(turned), base.background.share * electrons)
    drawn = np.clip(np.rint(base.draw(turned, beam, mean, background)), 0, 65535).astype(np.uint16)
    at = Estimates(turned, beam, background, np.full(len(turned), electrons))
    turns = base.turns(turned)
    scores = evaluate(base, drawn, at, base.coefficients(turned, mean)).of_crystal(turns)
    a = base.fills
    places = design(base.reflections)
    by_place = places.transpose(0, 2, 1)
    disks = np.zeros((*scores.place_score.shape[:2], 7 + count, 7 + count))
    disks[:, :, :6, :6] = by_place @ (place_information(scores) / electrons) @ places
    disks[:, :, :6, 6] = (by_place @ scores.place_info[..., 3:5, None])[..., 0]
    disks[:, :, :6, 7:] = by_place @ np.einsum("tgib,kgb->tgik", scores.cross[:, :, :2], a)
    disks[:, :, 6, 7:] = np.einsum("tgb,kgb->tgk", scores.cross[:, :, 2], a) * electrons
    disks[:, :, 7:, 7:] = np.einsum("kga,tgab,lgb->tgkl", a, scores.gram, a, optimize=True) * electrons
    lower = np.tril_indices(7 + count, -1)
    disks[:, :, lower[0], lower[1]] = disks[:, :, lower[1], lower[0]]
    # Of the information on map and beam, the mean over the six.
    each = np.einsum("tgaa->tga", disks[:, :, :6, :6])
    shares = (each / each.sum(1, keepdims=True)).mean(2)
    order = np.argsort(-shares, axis=1, kind="stable")
    held = np.cumsum(np.take_along_axis(shares, order, 1), axis=1)
    angle = rotation_of(turned)
    back, ahead = (turning(base.aperture.degree, angle + side) for side in (-_NEAR, _NEAR))
    return KnownInformation(
        angle, _turned(turns, a, order), _turned((ahead - back) / (2 * _NEAR), a, order), packed(disks),
        (scores.place_info[..., 0] + scores.place_info[..., 2]) / electrons, scores.gram[:, :, 0, 0] * electrons,
        scores.back_info * electrons, order, 1 + (held < _LEADING).sum(1), 1 + (held < _TELLING).sum(1),
    )  # fmt: skip
