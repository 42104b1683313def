"""The specimen that the simulated beam meets: a seeded MoS2/WS2 lateral heterojunction.

Only the simulated microscope and the scoring of results may ask a specimen for its truth; nothing that measures does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..analysis import crystals
from ..analysis.diffraction import cbed, counted, detected, patch_extent
from ..analysis.optics import Optics
from ..geometry import FieldOfView


def _smooth_step(distance: np.ndarray, width: float) -> np.ndarray:
    """From 0 (far below) to 1 (far above) over about 2 `width`."""
    return 0.5 * (1 + np.tanh(distance / width))


class Heterojunction:
    """A monolayer heterojunction with smooth strain, a wrinkle and a rotated grain; another seed is another specimen.

    MoS2 lies to the left of a gently waving interface, WS2 to the right. Strain comes from four sources: misfit at the
    interface (tension along it in the one phase, compression in the other, decaying with depth), a wrinkle (uniaxial
    tension across a ridge), the grain (rotated, with a biaxial strain of its own) and a weak long-wave field.

    Parameters
    ----------
    seed : int
        Draws everything about the specimen.
    field : FieldOfView
        The region that the features are placed in [nm].
    """

    def __init__(self, seed: int, field: FieldOfView | None = None) -> None:
        self.seed = seed
        self.field = field = FieldOfView.centred(100.0) if field is None else field
        rng = np.random.default_rng(seed)
        self._size = size = min(field.width, field.height)
        self._centre = centre = np.array([field.x0 + field.width / 2, field.y0 + field.height / 2])
        side = rng.choice([-1, 1])
        direction = rng.uniform(0, 2 * np.pi)
        self._base_rotation = np.deg2rad(rng.uniform(-8, 8))
        # Offset [nm], amplitude [nm] and phase of the interface's wave.
        self._interface = rng.uniform(-0.08, 0.08) * size, rng.uniform(0.03, 0.06) * size, rng.uniform(0, 2 * np.pi)
        # Strain, and decay length [nm].
        self._misfit = rng.uniform(0.014, 0.020), rng.uniform(0.08, 0.11) * size
        # Offset [nm], direction of its normal, width [nm] and strain.
        self._wrinkle = (
            rng.uniform(-0.25, 0.25) * size,
            side * np.deg2rad(rng.uniform(25, 65)),
            rng.uniform(0.055, 0.075) * size,
            rng.uniform(0.022, 0.030),
        )
        # Centre [nm], radius [nm], rotation and biaxial strain.
        self._grain = (
            centre + rng.uniform(0.2, 0.3) * size * np.array([np.cos(direction), np.sin(direction)]),
            rng.uniform(0.12, 0.16) * size,
            rng.choice([-1, 1]) * np.deg2rad(rng.uniform(10, 20)),
            rng.choice([-1, 1]) * rng.uniform(0.006, 0.010),
        )
        # Strain, wave vector [1/nm] and phase of each long wave.
        self._waves = [
            (rng.normal(0, 0.0012, 3), rng.normal(0, 1.0, 2) * 2 * np.pi / size, rng.uniform(0, 2 * np.pi))
            for _ in range(5)
        ]

    def _depth(self, positions: np.ndarray) -> np.ndarray:
        """Distance to the right of the interface [nm]."""
        offset, amplitude, phase = self._interface
        x, y = (np.asarray(positions, float).reshape(-1, 2) - self._centre).T
        return x - offset - amplitude * np.sin(2 * np.pi * y / self._size + phase)

    def _in_grain(self, positions: np.ndarray) -> np.ndarray:
        """From 0 outside the rotated grain to 1 inside it."""
        centre, radius, _, _ = self._grain
        return _smooth_step(radius - np.hypot(*(np.asarray(positions, float).reshape(-1, 2) - centre).T), 3.0)

    def phase(self, positions: np.ndarray) -> np.ndarray:
        """Formula of the phase at positions (n, 2) [nm]; (n,) str."""
        return np.where(self._depth(positions) < 0, "MoS2", "WS2")

    def rotation(self, positions: np.ndarray) -> np.ndarray:
        """Rotation of the lattice at positions (n, 2) [nm]; (n,) [rad]."""
        return self._base_rotation + self._grain[2] * self._in_grain(positions)

    def strain(self, positions: np.ndarray) -> np.ndarray:
        """Strain exx, eyy, exy at positions (n, 2) [nm], relative to the reference lattice; (n, 3)."""
        positions = np.asarray(positions, float).reshape(-1, 2)
        relative = positions - self._centre
        strain = np.zeros((len(positions), 3))

        misfit, decay = self._misfit
        depth = self._depth(positions)
        along = misfit * np.tanh(depth / 4.0) * np.exp(-np.abs(depth) / decay)
        strain[:, 1] -= along
        strain[:, 0] += 0.25 * along  # Poisson's ratio of MoS2

        offset, angle, width, amplitude = self._wrinkle
        normal = np.array([np.cos(angle), np.sin(angle)])
        ridge = amplitude * np.exp(-((relative @ normal - offset) ** 2) / (2 * width**2))
        strain += ridge[:, None] * np.array([normal[0] ** 2, normal[1] ** 2, normal[0] * normal[1]])

        strain[:, :2] += (self._grain[3] * self._in_grain(positions))[:, None]
        for amplitudes, wave, phase in self._waves:
            strain += np.sin(relative @ wave + phase)[:, None] * amplitudes
        return strain

    def atoms(self, position: np.ndarray | Sequence[float], extent: float, rng: np.random.Generator):
        """The patch of `extent` [Å] under a probe at `position` (2,) [nm]; the beam falls anywhere in the unit cell."""
        at = np.asarray(position, float).reshape(1, 2)
        return crystals.monolayer_atoms(
            self.strain(at)[0],
            float(self.rotation(at)[0]),
            extent,
            lambda offsets: self.phase(at + 0.1 * offsets),
            origin=tuple(rng.uniform(0, 1, 2)),
        )

    def frame(
        self, position: np.ndarray | Sequence[float], dose: float, optics: Optics, rng: np.random.Generator
    ) -> np.ndarray:
        """One recorded frame (n_pixels, n_pixels) uint16 at `position` (2,) [nm] and `dose` [electrons]."""
        pattern = cbed(self.atoms(position, patch_extent(optics), rng), optics)
        return counted(detected(pattern, optics), dose, rng)
