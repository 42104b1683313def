"""The aperture's image, a disk with a sharp edge that the detector blurs, and the functions that fill it.

A disk is ``blur ∗ (inside · Σ a_b φ_b)`` with polynomials φ_b, orthonormal on the unit disk (Zernike's, but for a
rotation among those of one degree). The blur (point spread and the pixel itself) is applied to edge and fill together:
a fill that rises towards one side moves the blurred edge to that side, by 0.07 pixels in a disk of 6 pixels, which
would otherwise be read as a displacement.

What is blurred before the pixels and what pixels hand on to each other differ in a disk's edge by some per cent: with
the wrong one the radius comes out 0.04 pixels wrong, and strain with it (`aperture_learning`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

#: Tabulated places of a disk's centre along each side of a pixel, for each of which disks are drawn with a sample; what
#: is between them is first order.
PHASES = 8
#: Pixels that a processor takes at once, or some do in turns: of so many or a multiple no odd ones are left.
_AT_ONCE = 32
#: How many pixels away electrons are handed on to, and the greatest variance that this can have [pixels²].
_NEIGHBOURS, _MOST_SHARED = 2, 1.0


@dataclass(frozen=True)
class Aperture:
    """A disk of a radius and an edge, filled by polynomials up to a degree."""

    radius: float  #: [pixels]
    spread: float  #: standard deviation of the point spread along each axis, the pixel's own width left out [pixels]
    shared: float  #: the part of that variance which pixels hand on to their neighbours; the rest blurs before them
    degree: int  #: of the polynomials

    @property
    def blur(self) -> float:
        """Standard deviation of point spread and pixel together [pixels]."""
        return float(np.hypot(self.spread, 1 / np.sqrt(12)))

    @property
    def half(self) -> int:
        """Half the side of the window that holds a disk anywhere in its middle pixel."""
        return int(np.ceil(self.radius + 3 * self.blur + 0.5))

    @cached_property
    def rows(self) -> np.ndarray:
        """The window's rows, (2 half + 1, 2) int64: the first pixel and the one after the last of each, from its left.

        It is round: corners of a square would be two fifths of its pixels.
        """
        away = np.arange(-self.half, self.half + 1)
        reach = self.radius + 3 * self.blur + 0.5
        wide = np.floor(np.sqrt(np.maximum(reach**2 - away**2, 0))).astype(np.int64)
        return np.stack([self.half - wide, self.half + wide + 1], 1)

    @cached_property
    def templates(self) -> np.ndarray:
        """The blurred functions in a window, (PHASES, PHASES, 3, b, pixels) float32, phases of y first.

        Of each function its value, and its derivatives by the disk's place along x and y; at the end of each zeros, to
        a multiple of `_AT_ONCE`. Phase i is a centre ``(i + 1/2) / PHASES - 1/2`` pixels from the middle of the middle
        pixel.

        Derivatives are of the functions before they are sampled. Differences from pixel to pixel would miss a fifth of
        what a sharp edge tells of its place: most of it is in the foot, which is dark.
        """
        from scipy.ndimage import gaussian_filter1d, uniform_filter1d

        between = min(self.shared * self.spread**2, _MOST_SHARED)
        before = float(np.sqrt(self.spread**2 - between))
        reach, width = self.half + 1 + _NEIGHBOURS, 2 * self.half + 1
        axis = (np.arange((2 * reach + 1) * PHASES) + 1) / PHASES - reach - 0.5
        x, y = np.meshgrid(axis, axis)
        disk = np.clip(0.5 + (self.radius - np.hypot(x, y)) * PHASES, 0.0, 1.0)
        images = np.polynomial.polynomial.polyval2d(
            y / self.radius, x / self.radius, np.moveaxis(orthonormal(self.degree), 0, -1)
        )
        images *= disk
        for side in (1, 2):
            if before > 0:
                images = gaussian_filter1d(images, before * PHASES, axis=side, mode="constant")
            # A box of PHASES samples is even: filtered sample k stands for the place half a sample before k, where a
            # phase has its centre.
            images = uniform_filter1d(images, PHASES, axis=side, mode="constant")
        weights = _handed_on(between)
        for side in (1, 2):
            images = np.sum([w * np.roll(images, PHASES * k, axis=side) for k, w in weights.items()], axis=0)

        # What grows along an axis grows less with the disk's place.
        changes = [PHASES / 12 * (8 * _difference(images, side, 1) - _difference(images, side, 2)) for side in (2, 1)]
        images = np.stack([images, *changes])
        inside = np.concatenate([width * i + np.arange(*row) for i, row in enumerate(self.rows)])

        def picked(phase: int) -> slice:
            first = (reach + 1 - self.half) * PHASES - 1 - phase
            return slice(first, first + (width - 1) * PHASES + 1, PHASES)

        parts = [images[:, :, picked(i)] for i in range(PHASES)]
        windows = [[part[..., picked(j)].reshape(*images.shape[:2], -1) for j in range(PHASES)] for part in parts]
        out = np.zeros((*np.shape(windows)[:-1], -(-len(inside) // _AT_ONCE) * _AT_ONCE), np.float32)
        out[..., : len(inside)] = np.array(windows)[..., inside]
        return out


def _difference(images: np.ndarray, axis: int, by: int) -> np.ndarray:
    """Samples so many before, less those so many after."""
    return np.roll(images, by, axis) - np.roll(images, -by, axis)


def _handed_on(variance: float) -> dict[int, float]:
    """What reaches pixels that are so many away, as a Gaussian of a variance [pixels²] over whole pixels falls off."""
    reach = np.arange(-_NEIGHBOURS, _NEIGHBOURS + 1)
    falls = np.linspace(0.0, 0.8, 801)
    weights = falls[:, None] ** (reach**2)
    weights /= weights.sum(1, keepdims=True)
    fall = np.interp(variance, weights @ reach**2, falls)
    kept = fall ** (reach**2)
    return dict(zip(reach.tolist(), (kept / kept.sum()).tolist(), strict=True))


def orthonormal(degree: int) -> np.ndarray:
    """Polynomials that are orthonormal on the unit disk, by degree: (b, degree + 1, degree + 1) of [power of y, of x].

    The mean over the disk of the product of two is 1 or 0; the first is 1.
    """
    powers = np.array([(j, n - j) for n in range(degree + 1) for j in range(n + 1)])
    # Mean of x^i y^j over the disk, exactly: odd powers vanish.
    total = powers[:, None] + powers[None]
    from scipy.special import gamma

    j, i = total[..., 0], total[..., 1]
    mean = 2 * gamma((i + 1) / 2) * gamma((j + 1) / 2) / gamma((i + j) / 2 + 1) / (i + j + 2) / np.pi
    mean = np.where((i % 2 == 0) & (j % 2 == 0), mean, 0.0)
    inverse = np.linalg.inv(np.linalg.cholesky(mean))
    out = np.zeros((len(powers), degree + 1, degree + 1))
    out[:, powers[:, 0], powers[:, 1]] = inverse
    return out


def turning(degree: int, angle: np.ndarray) -> np.ndarray:
    """Matrices (n, b, b) that turn fills counter-clockwise by angles (n,) [rad]: new ones are ``turning @ old``.

    As functions of the angle they are trigonometric polynomials of the fills' degree, known by 2 degree + 1 of them.
    """
    off = angle[:, None] - _angles(degree)
    weight = 1 + 2 * sum((np.cos(m * off) for m in range(1, degree + 1)), np.zeros_like(off))
    return np.tensordot(weight / (2 * degree + 1), _turnings(degree), 1)


def _angles(degree: int) -> np.ndarray:
    return np.arange(2 * degree + 1) * 2 * np.pi / (2 * degree + 1)


@cache
def _turnings(degree: int) -> np.ndarray:
    """`turning` by each of `_angles`."""
    functions = orthonormal(degree)
    # As many points of the disk as settle the polynomials, evaluated before and after.
    radii = np.sqrt((np.arange(degree + 1) + 0.5) / (degree + 1))
    around = _angles(degree)
    x, y = (np.outer(radii, f(around)).ravel() for f in (np.cos, np.sin))
    c, s = np.cos(around)[:, None], np.sin(around)[:, None]
    before = np.polynomial.polynomial.polyval2d(y, x, np.moveaxis(functions, 0, -1))
    after = np.polynomial.polynomial.polyval2d(c * y - s * x, c * x + s * y, np.moveaxis(functions, 0, -1))
    return np.linalg.pinv(before.T) @ np.moveaxis(after, 0, -1)
