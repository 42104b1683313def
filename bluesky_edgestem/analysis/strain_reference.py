"""The crystal that strain is relative to: the typical one of a region, or that of a known lattice.

Both are given as the deformation ``F_ref`` that makes the reference crystal of the one that the base pattern shows.
"""

from __future__ import annotations

import numpy as np

from .crystals import rotation_matrix
from .materials import Material

INDEX = 6
"""Largest index of a reflection that a vector of the lattice found may be."""
ALLOWED = 0.045
"""Strain beyond which a lattice is another, or the calibration wrong."""


def region_reference(transform: np.ndarray) -> np.ndarray:
    """The median crystal (2, 2) of `transform` (n, 2, 2), robust against patterns that were misread.

    Stretch and rotation apart: ``F = R U``, where U, in the axes of the base crystal, is the same for grains of any
    rotation, even where the base pattern is distorted. The rotation is that of the median about the circular mean.
    """
    found = np.swapaxes(np.linalg.inv(transform), 1, 2)
    angle = np.arctan2(found[:, 1, 0] - found[:, 0, 1], found[:, 0, 0] + found[:, 1, 1])
    middle = np.angle(np.exp(1j * angle).sum())
    turned = middle + np.median(np.angle(np.exp(1j * (angle - middle))))
    back = np.swapaxes(rotation_matrix(angle), -1, -2)
    return rotation_matrix(turned) @ np.median(back @ found, axis=0)


def lattice_reference(vectors: np.ndarray, material: Material) -> np.ndarray:
    """The deformation (2, 2) that makes a crystal of `material`, oriented as tabulated, of the base pattern's.

    Parameters
    ----------
    vectors : numpy.ndarray
        (2, 2) rows, of the reciprocal lattice that the base pattern shows [1/Å], axes of the scan.
    material : Material

    Raises
    ------
    ValueError
        No two reflections of the material are these vectors, rotated and strained by up to `ALLOWED`.

    Notes
    -----
    Of all pairs of reflections the one that needs the least strain is taken; of those that need the same, by the
    symmetry of the lattice, the one that is rotated least.
    """
    indices = np.stack(np.meshgrid(*[np.arange(-INDEX, INDEX + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    reflections = indices @ material.reciprocal
    lengths = np.linalg.norm(reflections, axis=1)
    first, second = (
        reflections[np.abs(lengths - np.linalg.norm(v)) < 1.5 * ALLOWED * np.linalg.norm(v)] for v in vectors
    )
    pairs = np.stack(
        [np.repeat(first, len(second), axis=0), np.tile(second, (len(first), 1))], axis=1
    )  # (pairs, 2, 2) rows
    pairs = pairs[np.linalg.det(pairs) * np.linalg.det(vectors) > 0]
    found = np.zeros((0, 2, 2))
    if len(pairs):
        # F_ref^-T takes each vector to its reflection; in rows: vectors @ F_ref^-1 = pair.
        found = np.linalg.solve(np.broadcast_to(vectors, pairs.shape), pairs)
    stretch = np.linalg.svd(found, compute_uv=False)
    worst = np.abs(stretch - 1).max(axis=1, initial=0.0)
    if not len(found) or worst.min() > ALLOWED:
        a, b = np.linalg.norm(vectors, axis=1)
        angle = np.degrees(np.arccos(np.clip(vectors[0] @ vectors[1] / (a * b), -1, 1)))
        raise ValueError(
            f"the lattice found, {a:.4f} and {b:.4f} 1/Å at {angle:.1f}°, is not that of {material.name} "
            f"({material.zone_axis}) within {100 * ALLOWED:g} %; check the beam's energy and the angle of a pixel, or "
            "take another material or a region of the scan for reference"
        )
    least = found[worst < worst.min() + 1e-9]
    angle = np.abs(np.arctan2(least[:, 1, 0] - least[:, 0, 1], least[:, 0, 0] + least[:, 1, 1]))
    return np.linalg.inv(least[angle.argmin()])
