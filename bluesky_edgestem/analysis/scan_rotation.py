"""How the detector is turned against the scan, told by the deflection of the beam.

A thin specimen deflects the beam by the gradient of its phase: the field of the centres of mass has no curl in the axes
of the scan. In the axes of a turned detector it has, ``curl' = sin θ div + cos θ curl``; the rotation is the one that
takes it away, the least of ``<curl'²>``, in closed form. A mirrored detector sees a field that no rotation frees of
curl, so that of the two kinds the one that leaves less is taken. (Lazić, Bosch and Lazar, Ultramicroscopy 160, 265
(2016); Savitzky et al., Microsc. Microanal. 27, 712 (2021).)

Curl cannot tell θ from θ + π. The beam is drawn to where atoms are, which scatter it to high angles: it is deflected
towards the brighter side of the dark field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..geometry import ScanGrid
from .scan_images import ScanImages, derivative, turned

TILES = 4
"""Tiles along each axis, each left out once: their scatter tells the uncertainty, also of noise that points share."""
SURE = 3.0
"""Standard deviations that a choice between two has to be away from even; noise alone stayed below 2.5 in 200 scans."""
SMOOTH = 1.5
"""Standard deviation [points] of the Gaussian that deflections are smoothed with: slopes are mostly noise without."""
ONE_SIDED = 0.9
"""Share of the smoothing's weight below which too many points around one are not known."""
LARGEST_SD = np.radians(3.0)
"""Standard deviation [rad] beyond which a rotation is of no use."""


class WeakSignal(ValueError):
    """The deflections of a scan do not tell how the detector is turned."""


@dataclass(frozen=True)
class ScanRotation:
    """From the axes of the scan to those of the detector.

    Attributes
    ----------
    rotation : float
        Counter-clockwise [rad], -π to π; where its direction is not known, -π/2 to π/2.
    rotation_sd : float
        Standard deviation [rad].
    mirrored : bool
        Whether the rows of a frame run the other way, see `scan_images.detector_to_scan`.
    direction_known : bool
        Whether the rotation is told from the one that differs by π. Strain is the same with either, images of
        deflections change their sign.
    curl_share, other_share : float
        Of the power of divergence and curl together, what remains as curl: 0 for a perfect gradient, 1/2 for noise. The
        second is for the other handedness.
    """

    rotation: float
    rotation_sd: float
    mirrored: bool
    direction_known: bool
    curl_share: float
    other_share: float


def scan_rotation(images: ScanImages) -> ScanRotation:
    """Measure the rotation with the centres of mass, and where there is one with the dark field, of a raster.

    Parameters
    ----------
    images : ScanImages
        ``com_x`` and ``com_y`` in the axes of the detector, ``dark_field`` optional; gaps are nan. What is linear in
        the position (descan) is taken out.

    Raises
    ------
    WeakSignal
        The rotation or the handedness cannot be told.
    ValueError
        The scan is no raster.
    """
    grid = images.grid
    if grid is None:
        raise ValueError("divergence and curl need neighbours: scan a raster to measure the rotation of the detector")
    com = _without_plane(np.column_stack([images.values["com_x"], images.values["com_y"]]), grid)
    com = np.column_stack([_smooth(along.reshape(grid.shape)).ravel() for along in com.T])
    powers = [_powers(turned(com, 0.0, mirrored), grid) for mirrored in (False, True)]
    shares = [_share(power.sum(0)) for power in powers]
    mirrored = shares[1] < shares[0]
    mine, other = powers[mirrored], powers[not mirrored]
    margin, margin_sd = _jackknife(np.hstack([mine, other]), lambda sums: _share(sums[3:]) - _share(sums[:3]))
    rotation, sd = _jackknife(mine, _angle, period=np.pi)
    if not (margin > SURE * margin_sd and sd < LARGEST_SD):
        raise WeakSignal(
            f"the deflections do not tell how the detector is turned: {100 * min(shares):.0f} % of them remain as curl "
            f"(0 for a gradient, 50 for noise), {100 * max(shares):.0f} % if it is mirrored the other way, and the "
            f"angle is sure to {np.degrees(sd):.1f}°. Scan an edge of a particle or of the specimen, with more "
            "positions, a longer dwell time, or a beam that is defocused so that the disk shows a shadow image"
        )
    known = False
    if "dark_field" in images.values:
        uphill = _uphill(turned(com, rotation, mirrored), images.image("dark_field"), grid)
        along, along_sd = _jackknife(uphill, lambda sums: float(sums[0] / np.sqrt(sums[1] * sums[2])))
        known = abs(along) > SURE * along_sd
        if known and along < 0:
            rotation += np.pi if rotation <= 0 else -np.pi
    return ScanRotation(rotation, sd, bool(mirrored), known, shares[mirrored], shares[not mirrored])


def _without_plane(com: np.ndarray, grid: ScanGrid) -> np.ndarray:
    known = np.isfinite(com).all(axis=1)
    if np.count_nonzero(known) < 9:
        raise WeakSignal(f"{np.count_nonzero(known)} frames have a centre of mass; a rotation takes at least 9")
    plane = np.column_stack([np.ones(len(com)), grid.positions])
    fitted, *_ = np.linalg.lstsq(plane[known], com[known], rcond=None)
    return com - plane @ fitted


def _smooth(image: np.ndarray) -> np.ndarray:
    """An image (ny, nx), each point the weighted mean of those known around it; nan at edges and beside large gaps."""
    from scipy.ndimage import gaussian_filter

    known = np.isfinite(image)
    share = gaussian_filter(known.astype(float), SMOOTH, mode="constant")
    total = gaussian_filter(np.where(known, image, 0.0), SMOOTH, mode="constant")
    # Means of one side's points alone are no gradient any more.
    return np.where(known & (share > ONE_SIDED), total / np.maximum(share, ONE_SIDED), np.nan)


def _derivatives(image: np.ndarray, grid: ScanGrid) -> tuple[np.ndarray, np.ndarray]:
    dx, dy = grid.field.width / (grid.nx - 1), grid.field.height / (grid.ny - 1)
    return derivative(image, dx, 1), derivative(image, dy, 0)


def _blocks(image: np.ndarray) -> np.ndarray:
    """Sums over the tiles of an image (ny, nx), without what is nan; (blocks,)."""
    return np.array([np.nansum(t) for strip in np.array_split(image, TILES) for t in np.array_split(strip, TILES, 1)])


def _powers(com: np.ndarray, grid: ScanGrid) -> np.ndarray:
    """Divergence², curl² and their product, of each block; (blocks, 3)."""
    x, y = com.T.reshape(2, *grid.shape)
    (x_x, x_y), (y_x, y_y) = _derivatives(x, grid), _derivatives(y, grid)
    # Descan, linear in the position, has the same divergence and curl everywhere.
    divergence, curl = (image - np.nanmean(image) for image in (x_x + y_y, y_x - x_y))
    return np.column_stack([_blocks(image) for image in (divergence**2, curl**2, divergence * curl)])


def _uphill(com: np.ndarray, image: np.ndarray, grid: ScanGrid) -> np.ndarray:
    """Deflections times the slope of an image, and the squares of both, of each block; (blocks, 3)."""
    x, y = com.T.reshape(2, *grid.shape)
    along_x, along_y = _derivatives(image, grid)
    product = x * along_x + y * along_y
    there = np.where(np.isfinite(product), 1.0, np.nan)
    squares = [(a**2 + b**2) * there for a, b in ((x, y), (along_x, along_y))]
    return np.column_stack([_blocks(each) for each in (product, *squares)])


def _angle(sums: np.ndarray) -> float:
    """The rotation of least curl [rad], within ±π/2."""
    divergence, curl, both = sums
    return float(np.arctan2(-2 * both, divergence - curl) / 2)


def _share(sums: np.ndarray) -> float:
    """Power of the curl that is left at that rotation, of the power of both."""
    divergence, curl, both = sums
    return float(0.5 - np.hypot((divergence - curl) / 2, both) / max(divergence + curl, np.finfo(float).tiny))


def _jackknife(
    blocks: np.ndarray, statistic: Callable[[np.ndarray], float], period: float = np.inf
) -> tuple[float, float]:
    """A statistic of the sum of blocks (k, ...), and its standard deviation by leaving out each (Tukey 1958)."""
    total = blocks.sum(axis=0)
    whole, k = statistic(total), len(blocks)
    away = np.array([statistic(total - block) - whole for block in blocks])
    if np.isfinite(period):
        away -= period * np.round(away / period)
    return whole, float(np.sqrt((k - 1) / k * np.sum((away - away.mean()) ** 2)))
