"""Strain and rotation of a crystal from how its diffraction pattern is mapped onto a base pattern.

A reflection at g of the base pattern is measured at M g, so the crystal is deformed by ``F = M^-T`` relative to the one
that the base pattern shows; relative to a reference crystal, which is ``F_ref`` of the base, by ``F F_ref^-1``. It is
split as everywhere in the package (see `crystals`): ``F = (1 + ε) R(θ)``, ε symmetric, in the axes of the scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from ..geometry import FieldOfView, ScanGrid
from .affine_readings import AffineReadings
from .crystals import strain_vector
from .materials import Material
from .optics import Optics
from .scan_images import detector_to_scan, grid_index
from .strain_reference import lattice_reference, region_reference

Measure = Literal["infinitesimal", "Lagrangian"]
COMPONENTS = ("exx", "eyy", "exy", "rotation")
_TURN = np.array([[0.0, -1.0], [1.0, 0.0]])  # dR/dθ = TURN R


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
        ε of ``F = (1 + ε) R(θ)``, in the axes of the scan, or ``E = (FᵀF - 1)/2``, in those of the reference crystal.
    scan_rotation, mirrored : float, bool
        From the axes of the scan to those of the detector, taken out; see `scan_images.detector_to_scan`.
    grid : ScanGrid, optional
        Of a raster.
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


Reference = FieldOfView | np.ndarray | Material | None
"""A region of the scan, a mask of its positions, a material, or the whole scan."""


@dataclass(frozen=True)
class StrainFrame:
    """What strain is relative to, and in which axes: settled once, it turns readings into strain.

    Attributes
    ----------
    deformation : numpy.ndarray
        (2, 2) that makes the reference crystal of the base pattern's, in the axes of the scan.
    covariance : numpy.ndarray
        (4, 4) that the reference adds to a reading's transform, entries in row order.
    described : str
        The reference in words.
    to_scan : numpy.ndarray
        (2, 2) from the axes of the detector to those of the scan.
    """

    deformation: np.ndarray
    covariance: np.ndarray
    described: str
    to_scan: np.ndarray

    @classmethod
    def settle(
        cls,
        reference: Reference,
        readings: AffineReadings,
        positions: np.ndarray,
        *,
        base_vectors: np.ndarray,
        grid: ScanGrid | None = None,
        optics: Optics | None = None,
        rotation: float = 0.0,
        mirrored: bool = False,
    ) -> StrainFrame:
        """Find the reference.

        Parameters
        ----------
        reference : FieldOfView, numpy.ndarray, Material or None
            A region of the scan [nm]; a mask of bool, (n,) of its positions or (ny, nx) of its raster; the lattice of a
            material, which needs `optics`; None for the whole scan.
        readings : AffineReadings
            Of `n` patterns, axes of the detector. A material does without any.
        positions : numpy.ndarray
            (n, 2) [nm].
        base_vectors : numpy.ndarray
            (2, 2) rows, vectors of the base pattern's lattice [pixels].
        grid : ScanGrid, optional
            Of a raster.
        optics : Optics, optional
            Calibration of the detector.
        rotation, mirrored : float, bool
            From the axes of the scan to those of the detector.

        Raises
        ------
        ValueError
            The region has no trusted pattern, the mask another shape, or the lattice is not that of the material.
        """
        turn = detector_to_scan(rotation, mirrored)
        if isinstance(reference, Material):
            if optics is None:
                raise ValueError(
                    f"strain relative to the lattice of {reference.name} needs the detector's calibration, which this "
                    "scan lacks; give the optics, or take a region of the scan for reference"
                )
            deformation = lattice_reference(base_vectors @ turn.T * optics.pixel_reciprocal, reference)
            return cls(deformation, np.zeros((4, 4)), f"the lattice of {reference.name}", turn)
        inside, described = _inside(reference, positions, grid)
        trusted = inside & (readings.flagged == "")
        if not trusted.any():
            raise ValueError(
                f"{described} holds {np.count_nonzero(inside)} patterns and none that could be read; choose another "
                "region for reference"
            )
        deformation = region_reference(_turned(readings.transform[trusted], turn))
        # A median's standard error is that of a mean, times √(π/2).
        share = np.pi / 2 / np.count_nonzero(trusted)
        covariance = share * np.median(_turned_covariance(readings.covariance[trusted], turn), axis=0)
        return cls(deformation, covariance, described, turn)

    def strain(
        self, readings: AffineReadings, measure: Measure = "infinitesimal"
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Strain (n, 3), rotation (n,) [rad] and the covariance (n, 4, 4) of both; nan where a reading is flagged."""
        transform = _turned(readings.transform, self.to_scan)
        covariance = _turned_covariance(readings.covariance, self.to_scan) + self.covariance
        of_base = np.swapaxes(np.linalg.inv(transform), 1, 2)
        found = of_base @ np.linalg.inv(self.deformation)
        strain, rotation, slopes = _split(found, _slopes(of_base, found), measure)
        spread = slopes @ covariance @ np.swapaxes(slopes, 1, 2)
        unknown = readings.flagged != ""
        strain[unknown], rotation[unknown], spread[unknown] = np.nan, np.nan, np.nan
        return strain, rotation, spread


def strain_maps(
    readings: AffineReadings,
    positions: np.ndarray,
    *,
    base_vectors: np.ndarray,
    reference: Reference = None,
    grid: ScanGrid | None = None,
    optics: Optics | None = None,
    rotation: float = 0.0,
    mirrored: bool = False,
    measure: Measure = "infinitesimal",
) -> StrainMaps:
    """Strain of a whole scan: `StrainFrame.settle` has the parameters, and raises."""
    frame = StrainFrame.settle(
        reference,
        readings,
        positions,
        base_vectors=base_vectors,
        grid=grid,
        optics=optics,
        rotation=rotation,
        mirrored=mirrored,
    )
    found = frame.strain(readings, measure)
    return StrainMaps(positions, *found, readings.flagged, frame.described, measure, rotation, mirrored, grid)


def _inside(
    region: FieldOfView | np.ndarray | None, positions: np.ndarray, grid: ScanGrid | None
) -> tuple[np.ndarray, str]:
    if region is None:
        return np.ones(len(positions), bool), "the median of the scan"
    if isinstance(region, FieldOfView):
        left, right, bottom, top = region.extent
        return region.contains(positions), f"the region x {left:g} to {right:g} nm, y {bottom:g} to {top:g} nm"
    mask = np.asarray(region)
    described = f"a mask of {np.count_nonzero(mask)} positions"
    if mask.dtype == bool and mask.shape == (len(positions),):
        return mask, described
    if mask.dtype == bool and grid is not None and mask.shape == grid.shape:
        index = grid_index(grid, positions)
        return (index >= 0) & mask.ravel()[index], described
    allowed = f"({len(positions)},)" + (f" or {grid.shape}" if grid is not None else "")
    raise ValueError(f"a mask for reference is bool of shape {allowed}; got {mask.dtype}, {mask.shape}")


def joined(parts: Sequence[AffineReadings]) -> AffineReadings:
    """Readings one after the other."""
    return AffineReadings(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(AffineReadings)))


def _turned(transform: np.ndarray, turn: np.ndarray) -> np.ndarray:
    return turn @ transform @ turn.T


def _turned_covariance(covariance: np.ndarray, turn: np.ndarray) -> np.ndarray:
    both = np.kron(turn, turn)
    return both @ covariance @ both.T


def _slopes(of_base: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Change (n, 4, 2, 2) of ``M^-T F_ref^-1`` with each entry of M: ``dF = -M^-T dMᵀ F``."""
    return -np.einsum("naj,nib->nijab", of_base, found).reshape(-1, 4, 2, 2)


def _split(found: np.ndarray, slopes: np.ndarray, measure: Measure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Strain (n, 3), rotation (n,), and their change (n, 4, 4) with the four entries that `slopes` are for."""
    rotation = np.arctan2(found[:, 1, 0] - found[:, 0, 1], found[:, 0, 0] + found[:, 1, 1])
    c, s = np.cos(rotation), np.sin(rotation)
    back = np.stack([np.stack([c, s], -1), np.stack([-s, c], -1)], -2)
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
