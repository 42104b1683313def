"""A deformation split into strain and rotation, and how both change with the map of the pattern it is read from."""

from __future__ import annotations

import numpy as np

from .crystals import rotation_matrix, strain_vector
from .strain import Measure, check_measure

_TURN = np.array([[0.0, -1.0], [1.0, 0.0]])  # dR/dθ = TURN R


def slopes_of(of_base: np.ndarray, found: np.ndarray) -> np.ndarray:
    """How a deformation changes with the map of the pattern.

    Parameters
    ----------
    of_base : numpy.ndarray
        (n, 2, 2) ``M^-T``, relative to the crystal of the base pattern.
    found : numpy.ndarray
        (n, 2, 2) ``F = M^-T F_ref^-1``, relative to the reference.

    Returns
    -------
    numpy.ndarray
        (n, 4, 2, 2) change of F with each entry of M, in row order: ``dF = -M^-T dMᵀ F``.
    """
    return -np.einsum("naj,nib->nijab", of_base, found).reshape(-1, 4, 2, 2)


def split(found: np.ndarray, slopes: np.ndarray, measure: Measure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split deformations into strain and rotation.

    Parameters
    ----------
    found : numpy.ndarray
        (n, 2, 2) F.
    slopes : numpy.ndarray
        (n, 4, 2, 2) its change with four quantities, as of `slopes_of`.
    measure : {"infinitesimal", "Lagrangian"}
        See `strain.StrainMaps`.

    Returns
    -------
    strain : numpy.ndarray
        (n, 3) exx, eyy, exy.
    rotation : numpy.ndarray
        (n,) [rad], -π to π.
    slopes : numpy.ndarray
        (n, 4, 4) change of exx, eyy, exy and rotation (rows) with the four quantities (columns).

    Raises
    ------
    ValueError
        There is no such measure.
    """
    check_measure(measure)
    rotation = np.arctan2(found[:, 1, 0] - found[:, 0, 1], found[:, 0, 0] + found[:, 1, 1])
    back = np.swapaxes(rotation_matrix(rotation), -1, -2)
    stretch = found @ back
    # δF = (δV + V TURN δθ) R with δV symmetric: the antisymmetric part tells δθ.
    change = slopes @ back[:, None]
    turned = (change[..., 1, 0] - change[..., 0, 1]) / np.trace(stretch, axis1=1, axis2=2)[:, None]
    if measure == "Lagrangian":
        strain = (np.swapaxes(found, 1, 2) @ found - np.eye(2)) / 2
        half = np.swapaxes(found, 1, 2)[:, None] @ slopes
        stretched = (half + np.swapaxes(half, 2, 3)) / 2
    else:
        strain = stretch - np.eye(2)
        stretched = change - (stretch @ _TURN)[:, None] * turned[..., None, None]
    columns = np.concatenate([strain_vector(stretched), turned[..., None]], -1)
    return strain_vector(strain), rotation, np.swapaxes(columns, 1, 2)
