"""From how a pattern is mapped onto the base pattern to strain: relative to what, and in which axes.

A reflection at g of the base pattern is measured at M g, so the crystal is deformed by ``M^-T`` relative to the one
that the base pattern shows; relative to a reference crystal, which is ``F_ref`` of the base, by ``F = M^-T F_ref^-1``.
It is split as everywhere in the package (see `crystals`): ``F = (1 + ε) R(θ)``, ε symmetric, in the axes of the scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from ..geometry import FieldOfView, ScanGrid
from .affine_readings import AffineReadings
from .materials import Material, material
from .optics import Optics
from .polar_decomposition import slopes_of, split
from .scan_images import detector_to_scan, grid_index
from .strain import Measure, StrainMaps
from .strain_reference import lattice_reference, region_reference

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
    if len(given) != 4:
        raise ValueError(f"a region is four numbers, x0, y0, width, height [nm]; got {len(given)}")
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
        optics = _calibrated(lattice, optics)
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
            reasons, times = np.unique(readings.flagged[inside].astype(str), return_counts=True)
            why = f": most often, {reasons[np.argmax(times)]}" if len(reasons) else ""
            advice = "" if region is None else "; choose another region for reference"
            raise ValueError(
                f"{described} holds {np.count_nonzero(inside)} patterns and none that could be read{why}{advice}"
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
        caution: str = "",
    ) -> StrainMaps:
        """Strain of `n` patterns at `positions` (n, 2) [nm], on `grid` where there is one; `caution` as of the maps."""
        turn = detector_to_scan(self.rotation, self.mirrored)
        transform = _turned(readings.transform, turn)
        covariance = _turned_covariance(readings.covariance, turn) + self.covariance
        of_base = np.swapaxes(np.linalg.inv(transform), 1, 2)
        found = of_base @ np.linalg.inv(self.deformation)
        strain, rotation, slopes = split(found, slopes_of(of_base, found), measure)
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
            caution,
        )


def _calibrated(lattice: Material, optics: Optics | None) -> Optics:
    if optics is None:
        raise ValueError(
            f"strain relative to the lattice of {lattice.name} needs the detector's calibration, which this scan "
            "lacks; give the optics (the commands' --energy and --pixel), or take a region of the scan for reference"
        )
    return optics


def check_reference(reference: Reference, positions: np.ndarray, grid: ScanGrid | None, optics: Optics | None) -> None:
    """Raise ValueError where strain cannot be relative to `reference`, whatever the patterns at `positions` are.

    Arguments are those of `strain_maps`.
    """
    if isinstance(reference, Material):
        _calibrated(reference, optics)
        return
    inside, described = _inside(reference, positions, grid)
    if not inside.any():
        (x0, y0), (x1, y1) = positions.min(0), positions.max(0)
        raise ValueError(
            f"{described} holds none of the {len(positions)} patterns, which are at {x0:g} to {x1:g} nm along x and "
            f"{y0:g} to {y1:g} nm along y; choose another region for reference"
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
    caution: str = "",
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
    caution : str
        As of `StrainMaps`.

    Raises
    ------
    ValueError
        As `StrainFrame.of_lattice` and `StrainFrame.of_region`.
    """
    if isinstance(reference, Material):
        frame = StrainFrame.of_lattice(reference, base_vectors, optics, rotation, mirrored)
    else:
        frame = StrainFrame.of_region(reference, readings, positions, grid, rotation, mirrored)
    return frame.maps(readings, positions, measure, grid, caution)


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
