"""What fills the disks of a base pattern: modes of free fills, and what makes frames more likely."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .base_pattern import TURN, BasePattern, rotation_of
from .disk_aperture import turning
from .disk_scoring import Estimates, Scores, design, evaluate, place_information

#: Principal components this much above the edge of noise are kept as modes, and how many at most.
_ABOVE_NOISE, _MOST_MODES = 1.6, 24


def _turns(base: BasePattern, at: Estimates) -> np.ndarray:
    """Matrices (n, b, b) from fills of the crystal to fills on the detector."""
    steps, which = np.unique(np.rint(rotation_of(at.transform) / TURN).astype(int), return_inverse=True)
    return np.array([turning(base.aperture.degree, TURN * step) for step in steps])[which]


def modes_of(base: BasePattern, at: Estimates, fills: np.ndarray, scores: Scores) -> tuple[np.ndarray, np.ndarray]:
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


def improved(
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
    # Fills are no wilder than disks are bright: where few frames, or few electrons, do not tell.
    by_degree = np.concatenate([np.full(d + 1, d) for d in range(base.aperture.degree + 1)])
    level = np.maximum(base.fills[0, :, 0], 0.1 * base.fills[0, :, 0].mean())
    precision = ((1.0 + by_degree) / (2 * level[:, None])) ** 2
    precision = np.repeat(precision[:, None], count, 1)
    precision[:, 0, 0] = 0
    right -= precision * base.fills.transpose(1, 0, 2)
    normal += precision.reshape(disks, -1, 1) * np.eye(count * functions)
    # Directions of which nothing is known stay as they are.
    scale = np.sqrt(np.maximum(np.einsum("gii->gi", normal), 1e-30))
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
    fills = base.fills + step.reshape(disks, count, functions).transpose(1, 0, 2)
    return replace(base, fills=fills), replace(at, transform=m @ (np.eye(2) + common.reshape(2, 2)))


def standardised(base: BasePattern, codes: np.ndarray) -> tuple[BasePattern, np.ndarray]:
    """The same with codes of mean 0 and standard deviation 1."""
    relative = codes[:, 1:] / codes[:, :1]
    mean, sd = relative.mean(0), np.maximum(relative.std(0), 1e-9)
    fills = base.fills.copy()
    fills[0] += np.einsum("k,kgb->gb", mean, base.fills[1:])
    fills[1:] *= sd[:, None, None]
    return replace(base, fills=fills), np.concatenate([codes[:, :1], (relative - mean) / sd * codes[:, :1]], 1)
