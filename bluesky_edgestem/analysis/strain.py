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
from .materials import Material, material
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
    region : FieldOfView, optional
        The region that the strain is relative to, where it is one.
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


def as_reference(given: Reference | str | Sequence[float]) -> Reference:
    """A reference, also from a material's name or from the x0, y0, width, height of a region [nm].

    Raises
    ------
    ValueError
        The material is unknown, or the region is none.
    """
    if isinstance(given, str):
        return material(given)
    if given is None or isinstance(given, FieldOfView | np.ndarray | Material):
        return given
    return FieldOfView(*given)


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
    rotation, mirrored : float, bool
        From the axes of the scan to those of the detector [rad].
    region : FieldOfView, optional
        Whose crystal it is.
    """

    deformation: np.ndarray
    covariance: np.ndarray
    described: str
    rotation: float
    mirrored: bool
    region: FieldOfView | None = None

    @classmethod
    def of_lattice(
        cls, lattice: Material, base_vectors: np.ndarray, optics: Optics | None, rotation: float, mirrored: bool
    ) -> StrainFrame:
        """Relative to a known lattice, oriented as tabulated.

        Parameters
        ----------
        lattice : Material
        base_vectors : numpy.ndarray
            (2, 2) rows, vectors of the base pattern's lattice [pixels], axes of the detector.
        optics : Optics, optional
            Calibration of the detector.
        rotation, mirrored : float, bool
            From the axes of the scan to those of the detector.

        Raises
        ------
        ValueError
            The base pattern's lattice is not that of the material, or there is no calibration to tell.
        """
        if optics is None:
            raise ValueError(
                f"strain relative to the lattice of {lattice.name} needs the detector's calibration, which this scan "
                "lacks; give the optics, or take a region of the scan for reference"
            )
        turn = detector_to_scan(rotation, mirrored)
        deformation = lattice_reference(base_vectors @ turn.T * optics.pixel_reciprocal, lattice)
        return cls(deformation, np.zeros((4, 4)), f"the lattice of {lattice.name}", rotation, mirrored)

    @classmethod
    def of_region(
        cls,
        region: FieldOfView | np.ndarray | None,
        readings: AffineReadings,
        positions: np.ndarray,
        grid: ScanGrid | None,
        rotation: float,
        mirrored: bool,
    ) -> StrainFrame:
        """Relative to the typical crystal of a region.

        Parameters
        ----------
        region : FieldOfView, numpy.ndarray or None
            A region of the scan [nm]; a mask of bool, (n,) of its positions or (ny, nx) of its raster; None for all.
        readings : AffineReadings
            Of `n` patterns, axes of the detector.
        positions : numpy.ndarray
            (n, 2) [nm].
        grid : ScanGrid, optional
            Of a raster.
        rotation, mirrored : float, bool
            From the axes of the scan to those of the detector.

        Raises
        ------
        ValueError
            The region has no trusted pattern, or the mask another shape.
        """
        inside, described = _inside(region, positions, grid)
        trusted = inside & (readings.flagged == "")
        if not trusted.any():
            raise ValueError(
                f"{described} holds {np.count_nonzero(inside)} patterns and none that could be read; choose another "
                "region for reference"
            )
        turn = detector_to_scan(rotation, mirrored)
        deformation = region_reference(_turned(readings.transform[trusted], turn))
        # A median's standard error is that of a mean, times √(π/2).
        share = np.pi / 2 / np.count_nonzero(trusted)
        covariance = share * np.median(_turned_covariance(readings.covariance[trusted], turn), axis=0)
        where = region if isinstance(region, FieldOfView) else None
        return cls(deformation, covariance, described, rotation, mirrored, where)

    @classmethod
    def unknown(cls, why: str) -> StrainFrame:
        """Of a scan without a reference: every strain is unknown, and flagged with the reason."""
        return cls(np.full((2, 2), np.nan), np.zeros((4, 4)), why, 0.0, False)

    def maps(
        self,
        readings: AffineReadings,
        positions: np.ndarray,
        measure: Measure = "infinitesimal",
        grid: ScanGrid | None = None,
    ) -> StrainMaps:
        """Strain of `n` patterns at `positions` (n, 2) [nm], on `grid` where there is one."""
        turn = detector_to_scan(self.rotation, self.mirrored)
        transform = _turned(readings.transform, turn)
        covariance = _turned_covariance(readings.covariance, turn) + self.covariance
        of_base = np.swapaxes(np.linalg.inv(transform), 1, 2)
        found = of_base @ np.linalg.inv(self.deformation)
        strain, rotation, slopes = _split(found, _slopes(of_base, found), measure)
        spread = slopes @ covariance @ np.swapaxes(slopes, 1, 2)
        flagged = np.asarray(readings.flagged, dtype=object)
        if not np.isfinite(self.deformation).all():
            flagged = np.where(flagged == "", self.described, flagged)
        unknown = flagged != ""
        strain[unknown], rotation[unknown], spread[unknown] = np.nan, np.nan, np.nan
        return StrainMaps(
            positions,
            strain,
            rotation,
            spread,
            flagged,
            self.described,
            measure,
            self.rotation,
            self.mirrored,
            grid,
            self.region,
        )


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
    """Strain of a whole scan.

    Parameters
    ----------
    readings : AffineReadings
        Of `n` patterns, axes of the detector.
    positions : numpy.ndarray
        (n, 2) [nm].
    base_vectors, optics, rotation, mirrored
        As for `StrainFrame.of_lattice`.
    reference : FieldOfView, numpy.ndarray, Material or None
        A region of the scan, as for `StrainFrame.of_region`, or the lattice of a material.
    grid : ScanGrid, optional
        Of a raster.
    measure : {"infinitesimal", "Lagrangian"}

    Raises
    ------
    ValueError
        As `StrainFrame.of_lattice` and `StrainFrame.of_region`.
    """
    if isinstance(reference, Material):
        frame = StrainFrame.of_lattice(reference, base_vectors, optics, rotation, mirrored)
    else:
        frame = StrainFrame.of_region(reference, readings, positions, grid, rotation, mirrored)
    return frame.maps(readings, positions, measure, grid)


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
