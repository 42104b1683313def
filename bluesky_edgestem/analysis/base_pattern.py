"""The base pattern of a scan, the decoder of the strain autoencoder: from an affine map and a few codes to a pattern.

    λ = Σ_g D_g(p - c - M g) + β B(p - c),    D_g = blur ∗ inside · Σ_k y_k R(θ) A_kg

Disks move with the lattice as rigid images of the aperture. What fills them is a mean and K modes of all disks
together, known from the scan: thickness and tilt change them along few directions. The fill belongs to the crystal and
turns with it by the angle θ of the map M; the aperture does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import disk_kernels, lattice_search
from .disk_aperture import Aperture, turning

#: Pixels around the frame for which the background is known, for beams that are not where they mostly are.
MARGIN = 32


def rotation_of(transform: np.ndarray) -> np.ndarray:
    """Angle (n,) of affine maps (n, 2, 2), of their polar decomposition [rad]."""
    m = transform
    return np.arctan2(m[:, 1, 0] - m[:, 0, 1], m[:, 0, 0] + m[:, 1, 1])


def reindexing(vectors: np.ndarray, transform: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The change of basis that gives the reflections of maps the indices that they have in others of one lattice.

    Parameters
    ----------
    vectors : (2, 2)
        Of the base lattice, as rows [pixels].
    transform, like : (n, 2, 2)
        Maps of it to about the same lattices.

    Returns
    -------
    turn : (n, 2, 2)
        ``transform @ turn`` has those lattices, with reflections where `like` has them; one where that is so already,
        or the two have no lattice in common.
    """
    # Rows V T' = N V L' of the lattice; N are whole numbers.
    with np.errstate(all="ignore"):
        change = vectors @ np.linalg.solve(like, transform).transpose(0, 2, 1) @ np.linalg.inv(vectors)
    whole = np.rint(np.nan_to_num(change, nan=0.0, posinf=0.0, neginf=0.0))
    alike = np.abs(np.abs(np.linalg.det(whole)) - 1) < 0.5
    whole[~alike] = np.eye(2)
    return (np.linalg.inv(vectors) @ np.linalg.inv(whole) @ vectors).transpose(0, 2, 1)


@dataclass(frozen=True)
class Background:
    """What is counted between the disks, by the distance from the beam."""

    profile: np.ndarray  #: (r,) density at 0, 1, 2, … pixels from the beam, in any unit
    share: float  #: of a pattern's electrons, on average
    spread: float  #: standard deviation of that share over the scan, over the share

    @classmethod
    def lorentzian(cls, shape: tuple[int, int], half_width: float, constant: float) -> Background:
        """A Lorentzian of a half width [pixels] and a constant, over its top: what is taken before frames are seen."""
        distance = np.arange(int(np.hypot(*shape)) + 2 * MARGIN)
        return cls(1 / (1 + (distance / half_width) ** 2) + constant, 0.05, 1.0)

    def density(self, distance: np.ndarray) -> np.ndarray:
        """At distances from the beam [pixels], of the profile's unit."""
        return np.interp(distance, np.arange(len(self.profile)), self.profile)

    def table(self, shape: tuple[int, int], beam: np.ndarray) -> np.ndarray:
        """Density around a beam (2,) x, y, one electron in all, with `MARGIN` pixels around the frame, float32."""
        y, x = (np.arange(-MARGIN, n + MARGIN) for n in shape)
        density = self.density(np.hypot(x - beam[0], y[:, None] - beam[1]))
        return (density / density[MARGIN:-MARGIN, MARGIN:-MARGIN].sum()).astype(np.float32)


@dataclass(frozen=True)
class BasePattern:
    """What all patterns of a scan have in common."""

    shape: tuple[int, int]  #: of a frame
    vectors: np.ndarray  #: (2, 2) rows, of the lattice [pixels]
    index: np.ndarray  #: (g, 2) int, of the reflections
    beam: np.ndarray  #: (2,) x, y where the beam mostly is [pixels]
    aperture: Aperture
    background: Background
    fills: np.ndarray  #: (K + 1, g, b) mean and modes, of one electron
    good: np.ndarray  #: (ny, nx) float32, 0 for pixels that do not count

    @property
    def reflections(self) -> np.ndarray:
        """Their places around the beam, (g, 2) [pixels]."""
        return self.index @ self.vectors

    @cached_property
    def background_table(self) -> np.ndarray:
        return self.background.table(self.shape, self.beam)

    def turns(self, transform: np.ndarray) -> np.ndarray:
        """Matrices (n, b, b) from fills in the crystal's axes to those in the detector's, of maps (n, 2, 2)."""
        return turning(self.aperture.degree, rotation_of(transform))

    def coefficients(self, transform: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Fills (n, g, b) [counts] of patterns with maps (n, 2, 2) and codes (n, K + 1)."""
        own = np.tensordot(codes, self.fills, 1).astype(np.float32)
        return own @ self.turns(transform).transpose(0, 2, 1).astype(np.float32)

    def draw(self, transform: np.ndarray, centre: np.ndarray, codes: np.ndarray, background: np.ndarray) -> np.ndarray:
        """Expected counts (n, ny, nx) float32 of maps (n, 2, 2), beams (n, 2), codes (n, K + 1), background (n,)."""
        return self.draw_filled(transform, centre, self.coefficients(transform, codes), background)

    def draw_filled(
        self, transform: np.ndarray, centre: np.ndarray, fills: np.ndarray, background: np.ndarray
    ) -> np.ndarray:
        """The same of disks that are filled (n, g, b) [counts] as they may be."""
        out = np.empty((len(fills), *self.shape), np.float32)
        disk_kernels.draw(
            out, self.background_table, MARGIN, self.aperture.templates, self.aperture.rows, self.aperture.radius,
            self.reflections, fills.astype(np.float32), transform, centre, background, self.beam,
        )  # fmt: skip
        return out


def search(base: BasePattern, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps (n, 2, 2) and beams (n, 2) of frames, to about a pixel."""
    radius, (a, _) = base.aperture.radius, np.linalg.norm(base.vectors, axis=1)
    reach = min(base.shape) / 2
    inner = base.reflections[np.linalg.norm(base.reflections, axis=1) < reach - 1.2 * radius - a / 3]
    turns = lattice_search.angles(lattice_search.symmetry(base.vectors), radius, reach)
    transform, centre = np.empty((len(frames), 2, 2)), np.empty((len(frames), 2))
    half, wide = max(round(0.6 * radius), 1), max(round(0.9 * radius), 2)
    lattice_search.search(frames, base.good, inner, turns, base.beam, half, wide, a, reach, transform, centre)
    return transform, centre
