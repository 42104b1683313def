"""How the detector is turned against the scan, told by the deflection of the beam.

A thin specimen deflects the beam by the gradient of its phase: the field of the centres of mass has no curl in the axes
of the scan. In the axes of a turned detector it has, ``curl' = sin θ div + cos θ curl``; the rotation is the one that
takes it away, the least of ``<curl'²>``, in closed form. A mirrored detector sees a field that no rotation frees of
curl, unless all deflections have one direction, as at a straight edge; of the two kinds the one that leaves less is
taken. (Lazić, Bosch and Lazar, Ultramicroscopy 160, 265 (2016); Savitzky et al., Microsc. Microanal. 27, 712 (2021).)

What is left as curl at that rotation is noise, by which the angle is off by ``Σ div curl / Σ (div² - curl²)``; the
noise is taken to be alike all over the scan, so that all of it tells the uncertainty. (The scatter of 16 tiles, of
which few hold an edge, told the standard deviation to 30 % only: 95 % intervals held 89 to 92 % of the errors.)

Curl cannot tell θ from θ + π. The beam is drawn to where atoms are, which scatter it to high angles: it is deflected
towards the brighter side of the dark field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..geometry import ScanGrid
from .scan_images import ScanImages, turned

TILES = 4
"""Tiles along each axis, each left out once: their scatter tells whether the direction is sure."""
SURE = 3.0
"""Standard deviations that a choice between two has to be away from even."""
SMOOTH = 1.5
"""Standard deviation [points] of the Gaussian that deflections are smoothed with: slopes are mostly noise without."""
ONE_SIDED = 0.9
"""Share of the smoothing's weight below which too many points around one are not known."""
CUT = 0.97
"""The same for points beyond the scan's edge: of a scan of multislice frames, with 0.9 the rotation was 0.25° off."""
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
    fields = [_divergence_and_curl(turned(com, 0.0, mirrored), grid) for mirrored in (False, True)]
    powers = [_powers(*field) for field in fields]
    shares = [_share(power) for power in powers]
    mirrored = shares[1] < shares[0]
    rotation = _angle(powers[mirrored])
    sd, even = _uncertainty(*fields[mirrored], rotation)
    margin = _remaining(powers[not mirrored]) - _remaining(powers[mirrored])
    if not (margin > SURE * even and sd < LARGEST_SD):
        raise WeakSignal(
            f"the deflections do not tell how the detector is turned: {100 * min(shares):.0f} % of them remain as curl "
            f"(0 for a gradient, 50 for noise), {100 * max(shares):.0f} % if it is mirrored the other way, and the "
            f"angle is sure to {np.degrees(sd):.1f}°. Scan an edge of a particle or another one that is not straight, "
            "with more positions, a longer dwell time, or a beam defocused so that the disk shows a shadow image"
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


def _smooth(image: np.ndarray, grid: ScanGrid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image (ny, nx), each point the weighted mean of those known around it, and its derivatives along x and y.

    nan at edges and beside large gaps. The derivatives are those of the Gaussian: differences of neighbours would leave
    a curl of their own, of third order in the step.
    """
    from scipy.ndimage import gaussian_filter

    known = np.isfinite(image)
    dx, dy = grid.field.width / (grid.nx - 1), grid.field.height / (grid.ny - 1)

    def filtered(values: np.ndarray) -> list[np.ndarray]:
        orders = ((0, 0), 1.0), ((0, 1), dx), ((1, 0), dy)
        return [gaussian_filter(values, SMOOTH, order=order, mode="constant") / step for order, step in orders]

    share, *by_share = filtered(known.astype(float))
    total, *by_total = filtered(np.where(known, image, 0.0))
    # Means of one side's points alone are no gradient any more. What gaps do to it is as often one way as the other.
    whole = gaussian_filter(np.ones(image.shape), SMOOTH, mode="constant")
    there = known & (share > ONE_SIDED * whole) & (whole > CUT)
    share = np.where(there, share, 1.0)
    mean = total / share
    slopes = [(of_total - mean * of_share) / share for of_total, of_share in zip(by_total, by_share, strict=True)]
    value, along_x, along_y = (np.where(there, each, np.nan) for each in (mean, *slopes))
    return value, along_x, along_y


def _blocks(image: np.ndarray) -> np.ndarray:
    """Sums over the tiles of an image (ny, nx), without what is nan; (blocks,)."""
    return np.array([np.nansum(t) for strip in np.array_split(image, TILES) for t in np.array_split(strip, TILES, 1)])


def _divergence_and_curl(com: np.ndarray, grid: ScanGrid) -> tuple[np.ndarray, np.ndarray]:
    """Of deflections (n, 2), smoothed, as images (ny, nx)."""
    (_, x_x, x_y), (_, y_x, y_y) = (_smooth(along.reshape(grid.shape), grid) for along in com.T)
    # Descan, linear in the position, has the same divergence and curl everywhere.
    divergence, curl = (image - np.nanmean(image) for image in (x_x + y_y, y_x - x_y))
    return divergence, curl


def _powers(divergence: np.ndarray, curl: np.ndarray) -> np.ndarray:
    """Sums of divergence², curl² and their product, (3,)."""
    return np.array([np.nansum(image) for image in (divergence**2, curl**2, divergence * curl)])


def _uphill(com: np.ndarray, image: np.ndarray, grid: ScanGrid) -> np.ndarray:
    """Deflections times the slope of an image, and the squares of both, of each block; (blocks, 3)."""
    x, y = (_smooth(along.reshape(grid.shape), grid)[0] for along in com.T)
    _, along_x, along_y = _smooth(image, grid)
    product = x * along_x + y * along_y
    there = np.where(np.isfinite(product), 1.0, np.nan)
    squares = [(a**2 + b**2) * there for a, b in ((x, y), (along_x, along_y))]
    return np.column_stack([_blocks(each) for each in (product, *squares)])


def _angle(sums: np.ndarray) -> float:
    """The rotation of least curl [rad], within ±π/2."""
    divergence, curl, both = sums
    return float(np.arctan2(-2 * both, divergence - curl) / 2)


def _remaining(sums: np.ndarray) -> float:
    """Power of the curl that is left at that rotation."""
    divergence, curl, both = sums
    return float((divergence + curl) / 2 - np.hypot((divergence - curl) / 2, both))


def _share(sums: np.ndarray) -> float:
    """The same, of the power of both."""
    return _remaining(sums) / max(float(sums[0] + sums[1]), float(np.finfo(float).tiny))


def _uncertainty(divergence: np.ndarray, curl: np.ndarray, angle: float) -> tuple[float, float]:
    """What the curl that is left, as noise, makes of the rotation and of the choice between the two kinds of detector.

    The variance of ``Σ div curl`` is that of a sum over correlated noise, ``Σ_pq div_p div_q R(p - q)``, with R the
    autocovariance of the curl in the axes of the scan. That of ``Σ curl²`` is ``2 Σ_pq R(p - q)²`` for normal noise;
    the curls of the two kinds are made of different slopes of the deflections.

    Returns
    -------
    float
        Standard deviation of the rotation [rad].
    float
        Standard deviation of the difference in `_remaining` between the two kinds, were there nothing but this noise.
    """
    from scipy.signal import correlate

    c, s = np.cos(angle), np.sin(angle)
    known = np.isfinite(divergence) & np.isfinite(curl)
    signal = np.where(known, c * divergence - s * curl, 0.0)
    noise = np.where(known, s * divergence + c * curl, 0.0)
    alike, covariance, pairs = (correlate(a, a, method="fft") for a in (signal, noise, known.astype(float)))
    # Of points farther apart than half the scan there are too few pairs to tell whether they share anything.
    away = [np.abs(np.arange(1 - n, n)) <= n / 2 for n in signal.shape]
    near = np.outer(*away) & (pairs > 0.5)
    alike, covariance, pairs = alike[near], covariance[near], pairs[near]
    # With all pairs counted as those of no distance the sum cannot become negative.
    variance = max(np.sum(alike * covariance / pairs), np.sum(alike * covariance) / np.count_nonzero(known))
    # The rotation took away of the noise what looked like the signal turned.
    taken = np.sum(alike**2 / pairs) / np.sum(signal**2) ** 2
    variance /= 1 - min(taken, 0.5)
    slope = max(abs(np.sum(signal**2 - noise**2)), np.finfo(float).tiny)
    return float(np.sqrt(max(variance, 0.0)) / slope), float(2 * np.sqrt(np.sum(covariance**2 / pairs)))


def _jackknife(blocks: np.ndarray, statistic: Callable[[np.ndarray], float]) -> tuple[float, float]:
    """A statistic of the sum of blocks (k, ...), and its standard deviation by leaving out each (Tukey 1958)."""
    total = blocks.sum(axis=0)
    whole, k = statistic(total), len(blocks)
    away = np.array([statistic(total - block) - whole for block in blocks])
    return whole, float(np.sqrt((k - 1) / k * np.sum((away - away.mean()) ** 2)))
