"""The lattice that a crystal's pattern shows: that of its atoms projected along the beam."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np

from .materials import Material, Site


def primitive(crystal: Material) -> np.ndarray:
    """Shortest vectors of the projected structure's lattice, (2, 2), as rows, right-handed [Å].

    A cell that is centred in projection (silicon's along [110]) shows only the reflections of the smaller lattice;
    what a surface adds between them is fainter by orders of magnitude.
    """
    return np.array(_shortest(crystal.cell, crystal.sites))


@cache
def _shortest(cell: tuple[tuple[float, float], ...], atoms: tuple[Site, ...]) -> tuple[tuple[float, ...], ...]:
    """The vectors of `primitive`, kept: training asks for them many times a second."""
    sites = [(site.symbol, site.x, site.y) for site in atoms]

    def moved(shift: np.ndarray) -> Counter:
        return Counter((s, *np.round(np.mod(np.round(np.add(shift, (x, y)), 6), 1.0), 4)) for s, x, y in sites)

    still = moved(np.zeros(2))
    between = {tuple(np.subtract(a[1:], b[1:])) for a in sites for b in sites if a[0] == b[0]}
    shifts = [np.array(t) for t in between if moved(np.array(t)) == still]
    cells = np.stack(np.meshgrid((-1, 0, 1), (-1, 0, 1)), -1).reshape(-1, 2)
    points = np.unique(np.round(np.concatenate([cells + t for t in shifts]), 9), axis=0) @ np.array(cell)
    points = points[np.argsort(np.round(np.linalg.norm(points, axis=1), 6), kind="stable")][1:]
    first = points[0]
    crossed = first[0] * points[:, 1] - first[1] * points[:, 0]
    return tuple(first.tolist()), tuple(points[np.argmax(crossed > 1e-6)].tolist())


def reciprocal(vectors: np.ndarray) -> np.ndarray:
    """Reciprocal vectors of `vectors` (2, 2), as rows [1/Å]."""
    return np.linalg.inv(vectors).T


def first_order(crystal: Material) -> float:
    """Length of the shortest reflection [1/Å]."""
    return float(np.linalg.norm(spots(crystal, 1.0)[1]))


def spots(crystal: Material, g_max: float) -> np.ndarray:
    """Reflections (g, 2) [1/Å] up to `g_max`, the direct beam first, then by length."""
    return _spots(tuple(map(tuple, primitive(crystal).tolist())), g_max)


@cache
def _spots(vectors: tuple[tuple[float, ...], ...], g_max: float) -> np.ndarray:
    rows = reciprocal(np.array(vectors))
    reach = int(np.ceil(g_max * np.linalg.norm(vectors, axis=1).max())) + 1
    index = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    g = index @ rows
    length = np.linalg.norm(g, axis=1)
    g, length = g[length <= g_max], length[length <= g_max]
    found = g[np.lexsort((g[:, 1], g[:, 0], np.round(length, 6)))]
    found.flags.writeable = False
    return found


def symmetry(crystal: Material) -> int:
    """Rotations that leave the projected lattice as it is: 2, 4 or 6. A rotation is known modulo 360° over this."""
    rows = reciprocal(primitive(crystal))
    for fold in (6, 4):
        c, s = np.cos(2 * np.pi / fold), np.sin(2 * np.pi / fold)
        turned = rows @ np.array([[c, s], [-s, c]]) @ np.linalg.inv(rows)
        if np.allclose(turned, np.round(turned), atol=1e-6):
            return fold
    return 2


def wrapped(rotation: np.ndarray | float, fold: int) -> np.ndarray:
    """Rotations [rad] brought into (-π/fold, π/fold]."""
    period = 2 * np.pi / fold
    rotation = np.asarray(rotation, float)
    return rotation - period * np.ceil(rotation / period - 0.5)
