"""Strain and rotation at the positions of a scan, with their uncertainty and what they are relative to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..geometry import FieldOfView, ScanGrid
from .scan_images import grid_index

Measure = Literal["infinitesimal", "Lagrangian"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
COMPONENTS = ("exx", "eyy", "exy", "rotation")


def check_measure(measure: str) -> None:
    """Raise ValueError where there is no such measure of strain."""
    if measure not in MEASURES:
        raise ValueError(f"measure is {measure!r}; allowed are {' and '.join(map(repr, MEASURES))}")


@dataclass(frozen=True)
class StrainMaps:
    """Strain and rotation at `n` positions, each with its uncertainty.

    Attributes
    ----------
    positions : numpy.ndarray
        (n, 2) x, y [nm].
    strain : numpy.ndarray
        (n, 3) exx, eyy, exy, dimensionless; nan where flagged.
    rotation : numpy.ndarray
        (n,) of the lattice, counter-clockwise [rad]; nan where flagged.
    covariance : numpy.ndarray
        (n, 4, 4) of exx, eyy, exy and rotation; nan where flagged.
    flagged : numpy.ndarray
        (n,) str, empty where the values are trusted, otherwise why not.
    reference : str
        What the strain is relative to, in words.
    measure : {"infinitesimal", "Lagrangian"}
        ε of ``F = (1 + ε) R(θ)``, the infinitesimal strain to first order, in the axes of the scan,
        or ``E = (FᵀF - 1)/2``, in those of the reference crystal.
    scan_rotation, mirrored : float, bool
        From the axes of the scan to those of the detector, taken out; see `scan_images.detector_to_scan`.
    grid : ScanGrid, optional
        Of a raster.
    region : FieldOfView, optional
        The region that the strain is relative to, where it is one.
    caution : str
        Why none of it is to be trusted; empty for a network that has converged.

    Raises
    ------
    ValueError
        There is no such measure.
    """

    positions: np.ndarray
    strain: np.ndarray
    rotation: np.ndarray
    covariance: np.ndarray
    flagged: np.ndarray
    reference: str
    measure: Measure = "infinitesimal"
    scan_rotation: float = 0.0
    mirrored: bool = False
    grid: ScanGrid | None = None
    region: FieldOfView | None = None
    caution: str = ""

    def __post_init__(self) -> None:
        check_measure(self.measure)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def sd(self) -> np.ndarray:
        """Standard deviations (n, 4) of exx, eyy, exy and the rotation [rad]."""
        return np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2))

    @property
    def known(self) -> np.ndarray:
        """(n,) bool, where the values are trusted."""
        return self.flagged == ""

    def values(self, name: str) -> np.ndarray:
        """Values (n,) of `COMPONENTS`, or of their standard deviations, ``exx_sd`` and so on.

        Raises
        ------
        KeyError
            There are none of this name.
        """
        component = name.removesuffix("_sd")
        if component not in COMPONENTS:
            names = (*COMPONENTS, *(f"{c}_sd" for c in COMPONENTS))
            raise KeyError(f"no map is called {name!r}; there are {', '.join(names)}")
        k = COMPONENTS.index(component)
        if name.endswith("_sd"):
            return self.sd[:, k]
        return self.rotation if component == "rotation" else self.strain[:, k]

    def image(self, name: str) -> np.ndarray:
        """The map called `name` as `values` knows them: (ny, nx) on a raster, nan where nothing was measured."""
        return self.on_grid(self.values(name))

    def on_grid(self, values: np.ndarray) -> np.ndarray:
        """Values (n, ...) of the positions as an image (ny, nx, ...), nan where none lies; as they are for a list."""
        if self.grid is None:
            return values
        index = grid_index(self.grid, self.positions)
        image = np.full((self.grid.nx * self.grid.ny, *values.shape[1:]), np.nan)
        image[index[index >= 0]] = values[index >= 0]
        return image.reshape(*self.grid.shape, *values.shape[1:])
