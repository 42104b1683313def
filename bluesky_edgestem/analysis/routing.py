"""The order in which to visit a chosen set of positions: a short open path from where the beam is.

The coils settle for a time that grows with the step, so a batch is chosen first and ordered after. A
nearest-neighbour tour, improved by 2-opt (reversing a stretch) and or-opt (moving a stretch of up to three), is
within a few per cent of the best path for the few dozen positions of a batch.
"""

from __future__ import annotations

import numpy as np


def path_length(positions: np.ndarray, start: np.ndarray | None = None) -> float:
    """Length [nm] of the path through (n, 2) positions in their order, from `start` (2,) where one is given."""
    points = np.asarray(positions, dtype=float).reshape(-1, 2)
    if start is not None:
        points = np.vstack([np.asarray(start, dtype=float), points])
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def nearest_neighbour_order(positions: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """(n,) order of visit that always takes the nearest position left; without `start`, from the first position."""
    points = np.asarray(positions, dtype=float).reshape(-1, 2)
    left = np.ones(len(points), dtype=bool)
    here = points[0] if start is None and len(points) else np.asarray(start, dtype=float)
    order = np.empty(len(points), dtype=int)
    for step in range(len(points)):
        distance = np.where(left, np.linalg.norm(points - here, axis=1), np.inf)
        order[step] = int(np.argmin(distance))
        left[order[step]] = False
        here = points[order[step]]
    return order


def travel_order(positions: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """Order of a short open path through positions.

    Parameters
    ----------
    positions : (n, 2) array
        x, y [nm].
    start : (2,) array, optional
        Where the beam is [nm]; the path begins there. Without it the path begins at the first position.

    Returns
    -------
    (n,) int array
        Indices into `positions`, each once. The path is never longer than the nearest-neighbour path.
    """
    points = np.asarray(positions, dtype=float).reshape(-1, 2)
    order = nearest_neighbour_order(points, start)
    if len(points) < 3:
        return order
    # The start is stop 0 of the path and stays there.
    if start is None:
        stops, path = points, order
    else:
        stops, path = np.vstack([np.asarray(start, dtype=float), points]), np.concatenate([[0], order + 1])
    distance = np.linalg.norm(stops[:, None] - stops[None], axis=-1)
    improved = True
    while improved:
        path, reversed_ = _two_opt(path, distance)
        path, moved = _or_opt(path, distance)
        improved = reversed_ or moved
    return path if start is None else path[1:] - 1


_LEAST_GAIN = 1e-9  # [nm] below it a change is rounding, and the search would not end


def _two_opt(path: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, bool]:
    """Reverse the best stretch until none gains; the last stop is free, so a stretch may run to the end."""
    changed = False
    n = len(path)
    while True:
        d = distance[np.ix_(path, path)]
        link = np.append(np.diagonal(d, 1), 0.0)  # link[j] joins stops j and j + 1; nothing follows the last
        before = link[: n - 1, None] + link[None, :]
        closing = np.zeros((n - 1, n))
        closing[:, : n - 1] = d[1:, 1:]
        after = d[: n - 1, :] + closing
        i, j = np.ogrid[: n - 1, :n]
        gain = np.where(j >= i + 2, before - after, -np.inf)
        at, to = np.unravel_index(int(np.argmax(gain)), gain.shape)
        if gain[at, to] <= _LEAST_GAIN:
            return path, changed
        path = np.concatenate([path[: at + 1], path[at + 1 : to + 1][::-1], path[to + 1 :]])
        changed = True


def _or_opt(path: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, bool]:
    """Move one stretch of up to three stops, either way round, to the first place found where it gains."""
    length = distance[path[:-1], path[1:]].sum()
    for size in (1, 2, 3):
        for first in range(1, len(path) - size + 1):
            stretch = path[first : first + size]
            rest = np.concatenate([path[:first], path[first + size :]])
            bare = distance[rest[:-1], rest[1:]].sum() + distance[stretch[:-1], stretch[1:]].sum()
            link = np.append(distance[rest[:-1], rest[1:]], 0.0)
            for piece in (stretch, stretch[::-1]):
                leave = np.append(distance[piece[-1], rest[1:]], 0.0)
                cost = bare - link + distance[rest, piece[0]] + leave
                place = int(np.argmin(cost))
                if cost[place] < length - _LEAST_GAIN:
                    return np.concatenate([rest[: place + 1], piece, rest[place + 1 :]]), True
    return path, False
