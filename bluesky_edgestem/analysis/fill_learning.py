"""What fills the disks of a base pattern: modes of free fills, and what makes frames more likely."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .base_pattern import BasePattern
from .code_regression import LEADING, surface
from .disk_scoring import Estimates, Scores, design, evaluate, place_information

#: Principal components this much above the edge of noise are kept as modes, and how many at most: each takes time in
#: reading, and what fainter ones move strain by is little.
_ABOVE_NOISE, _MOST_MODES = 1.8, 24
#: Codes, which are of order one, move maps as if they were no farther than this from zero.
_FARTHEST_CODE = 5.0


def modes_of(base: BasePattern, at: Estimates, fills: np.ndarray, scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Mean and modes (K + 1, g, b) of free fills (n, g, b), and codes (n, K + 1) [electrons]."""
    turns = base.turns(at.transform)
    own = fills @ turns
    gram = np.tensordot(at.dose**2, scores.of_crystal(turns).gram, 1)
    weight = np.maximum(scores.seen.sum(0), 1)[:, None, None]
    seen = scores.seen[..., None]
    mean = (own * seen).sum(0) / weight[..., 0]
    values, axes = np.linalg.eigh(gram / weight)
    values = np.maximum(values, 1e-6 * values.max(1, keepdims=True) + 1e-30)
    whiten, colour = np.sqrt(values)[..., None] * axes.transpose(0, 2, 1), axes / np.sqrt(values)[:, None, :]
    white = np.einsum("gab,ngb->nga", whiten, (own - mean) * seen).reshape(len(at), -1)
    leading = _principal(white)[0][:, :LEADING] * np.sqrt(len(at))
    basis = surface(leading, np.ones(len(at)))
    along = basis.T @ white
    _, s, v = _principal(white - basis @ along)
    _, s, v = _principal(np.concatenate([along, s[:, None] * v]))
    codes = white @ v[:_MOST_MODES].T
    sd = np.sqrt((codes**2).mean(0))
    modes = np.einsum("gab,kgb->kga", colour, (sd[:, None] * v[:_MOST_MODES]).reshape(len(sd), *mean.shape))
    codes = np.concatenate([np.ones((len(at), 1)), codes / sd], 1) * at.dose[:, None]
    return np.concatenate([mean[None], modes]), codes


def _principal(white: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Singular vectors and values u (n, k), s (k,), v (k, m) of rows that have noise of variance 1, those above it."""
    u, s, v = np.linalg.svd(white, full_matrices=False)
    k = int((s > _ABOVE_NOISE * (np.sqrt(white.shape[0]) + np.sqrt(white.shape[1]))).sum())
    return u[:, :k], s[:k], v[:k]


def improved(
    base: BasePattern, frames: np.ndarray, at: Estimates, codes: np.ndarray, covariance: np.ndarray
) -> tuple[BasePattern, Estimates]:
    """Fills that make the frames more likely, over what is known of the codes, and maps that go with them.

    Fills can take up most of what a deformation common to all maps does, and modes of one that goes with their codes;
    in turns neither would move. They are found together.
    """
    m = at.transform
    scores = evaluate(base, frames, at, base.coefficients(m, codes)).of_crystal(base.turns(m))
    count, disks, functions = base.fills.shape
    known = covariance[:, 7:, 7:]
    relative = np.clip(codes / codes[:, :1], -_FARTHEST_CODE, _FARTHEST_CODE)
    products = (relative[:, :, None] * codes[:, None, :]).reshape(len(at), -1)
    second = (np.einsum("nk,nl->nkl", codes, codes) + known).reshape(len(at), -1)
    normal = np.empty((disks, count * functions, count * functions))
    right = np.empty((disks, count, functions))
    cross = np.empty((disks, 2 * count, count * functions))
    for g in range(disks):
        gram = scores.gram[:, g].astype(float)
        blocks = (second.T @ gram.reshape(len(at), -1)).reshape(count, count, functions, functions)
        normal[g] = blocks.transpose(0, 2, 1, 3).reshape(count * functions, -1)
        right[g] = codes.T @ scores.moments[:, g].astype(float)
        right[g] -= np.tensordot(known @ base.fills[:, g], gram, ((0, 2), (0, 2)))
        by_place = m.transpose(0, 2, 1) @ scores.cross[:, g, :2].astype(float)
        blocks = (products.T @ by_place.reshape(len(at), -1)).reshape(count, count, 2, functions)
        cross[g] = blocks.transpose(0, 2, 1, 3).reshape(2 * count, -1)
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
    # A deformation, and a shift of the beam, in proportion to each code.
    local = (m.transpose(0, 2, 1)[:, None] @ place_information(scores) @ m[:, None]).reshape(len(at), -1)
    blocks = (relative[:, :, None] * relative[:, None, :]).reshape(len(at), -1).T @ local
    place = blocks.reshape(count, count, disks, 2, 2).transpose(2, 0, 3, 1, 4).reshape(disks, 2 * count, 2 * count)
    place -= cross @ both[..., 1:]
    local = (scores.place_score[:, :, None] @ m[:, None]).reshape(len(at), -1)
    push = (relative.T @ local).reshape(count, disks, 2).transpose(1, 0, 2).reshape(disks, -1)
    push -= (cross @ both[..., :1])[..., 0]
    places = np.array([np.kron(np.eye(count), each) for each in design(base.reflections)])
    information = (places[seen].transpose(0, 2, 1) @ place[seen] @ places[seen]).sum(0)
    common = np.linalg.solve(information, np.einsum("gia,gi->a", places[seen], push[seen]))
    step = both[..., 0] - (both[..., 1:] @ (places @ common)[..., None])[..., 0]
    fills = base.fills + step.reshape(disks, count, functions).transpose(1, 0, 2)
    moved = relative @ common.reshape(count, 6)
    transform = m @ (np.eye(2) + moved[:, :4].reshape(-1, 2, 2))
    centre = at.centre + (m @ moved[:, 4:, None])[..., 0]
    return replace(base, fills=fills), replace(at, transform=transform, centre=centre)


def standardised(base: BasePattern, codes: np.ndarray) -> tuple[BasePattern, np.ndarray]:
    """The same with codes of mean 0 and standard deviation 1."""
    relative = codes[:, 1:] / codes[:, :1]
    mean, sd = relative.mean(0), np.maximum(relative.std(0), 1e-9)
    fills = base.fills.copy()
    fills[0] += np.einsum("k,kgb->gb", mean, base.fills[1:])
    fills[1:] *= sd[:, None, None]
    return replace(base, fills=fills), np.concatenate([codes[:, :1], (relative - mean) / sd * codes[:, :1]], 1)
