"""What a run knows of each position it visited, read from the rows of its streams and kept through a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from .elasticity import MODES, to_modes

_NAN3 = (math.nan, math.nan, math.nan)
_LEAST_VARIANCE = 1e-12  # of a strain mode: a measurement without noise would leave a singular covariance


@dataclass(frozen=True)
class Measurement:
    """One visited position.

    Attributes
    ----------
    x, y : float
        Position [nm].
    flagged : str
        Why nothing was learnt from the pattern; empty if something was.
    strain, covariance : tuples
        exx, eyy, exy relative to the reference lattice, image axes, and their 3 x 3 covariance.
    rotation : float
        Rotation of the crystal [rad].
    phase, phase_probability : str, float
        The most probable phase.
    energy, gradient : float, tuple
        Of the phase at this strain [eV], the gradient by exx, eyy, exy in crystal axes; nan where there is none.
    """

    x: float
    y: float
    flagged: str = ""
    strain: tuple[float, ...] = _NAN3
    covariance: tuple[tuple[float, ...], ...] = (_NAN3,) * 3
    rotation: float = 0.0
    phase: str = ""
    phase_probability: float = 1.0
    energy: float = math.nan
    gradient: tuple[float, ...] = _NAN3

    @classmethod
    def of(cls, point: Mapping) -> Measurement:
        """A row of the `descriptors` stream, of the `energetics` stream with x and y, or of both joined.

        Raises
        ------
        ValueError
            If x or y is not finite, or a strain that is not flagged is not.
        """
        x, y = (float(point.get(key, math.nan)) for key in ("x", "y"))
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError(f"a measurement needs finite x and y [nm], got x={point.get('x')!r}, y={point.get('y')!r}")
        made = cls(x, y, flagged=str(point.get("flagged", "")))
        if "exx" in point and not made.flagged:
            made = replace(
                made,
                strain=tuple(float(point[key]) for key in ("exx", "eyy", "exy")),
                covariance=_covariance(point),
                rotation=float(point["rotation"]),
                phase=str(point["phase"]),
                phase_probability=float(point.get("phase_probability", 1.0)),
            )
            if not np.isfinite([*made.strain, *np.ravel(made.covariance), made.rotation]).all():
                raise ValueError(
                    f"strain, covariance and rotation at ({x:g}, {y:g}) nm must be finite, got {made.strain}, "
                    f"{made.covariance}, {made.rotation}. Flag a pattern that could not be read, with the reason"
                )
        energy = float(point.get("energy", math.nan))
        if point.get("state", "converged") == "converged" and math.isfinite(energy):
            made = replace(made, energy=energy, gradient=tuple(float(g) for g in point.get("gradient", _NAN3)))
        return made

    @classmethod
    def from_plain(cls, row: Mapping) -> Measurement:
        """The measurement that `plain` gave `row` for."""
        return cls(**{key: _from_json(value) for key, value in row.items()})

    def plain(self) -> dict:
        """As values of JSON, which has no nan."""
        return {f.name: _to_json(getattr(self, f.name)) for f in fields(self)}

    def completed(self, later: Measurement) -> Measurement:
        """This position after a second row about it: what the row tells replaces what was known."""
        told = {}
        if later.phase:
            told = {f.name: getattr(later, f.name) for f in fields(later) if f.name not in ("energy", "gradient")}
        if math.isfinite(later.energy):
            told |= {"energy": later.energy, "gradient": later.gradient}
        return replace(self, **(told | {"flagged": later.flagged or self.flagged}))


@dataclass(frozen=True)
class StrainData:
    """The unflagged measurements as arrays.

    Attributes
    ----------
    positions : (n, 2) array
        x, y [nm].
    strain, modes, noise : (n, 3) arrays
        Strain; its modes (see `elasticity`); the variances of the modes.
    rotation : (n,) array
        [rad].
    phase, phase_probability : (n,) arrays
        Formula and probability of the most probable phase.
    energy, gradient : (n,), (n, 3) arrays
        [eV]; nan where there is none.
    """

    positions: np.ndarray
    strain: np.ndarray
    modes: np.ndarray
    noise: np.ndarray
    rotation: np.ndarray
    phase: np.ndarray
    phase_probability: np.ndarray
    energy: np.ndarray
    gradient: np.ndarray

    @classmethod
    def of(cls, measurements: Sequence[Measurement]) -> StrainData:
        """The arrays of those measurements that tell a strain."""
        known = [m for m in measurements if m.phase and not m.flagged]
        strain = np.array([m.strain for m in known], dtype=float).reshape(-1, 3)
        covariance = np.array([m.covariance for m in known], dtype=float).reshape(-1, 3, 3)
        return cls(
            positions=np.array([(m.x, m.y) for m in known], dtype=float).reshape(-1, 2),
            strain=strain,
            modes=to_modes(strain),
            noise=np.maximum(np.einsum("ki,nij,kj->nk", MODES, covariance, MODES), _LEAST_VARIANCE),
            rotation=np.array([m.rotation for m in known], dtype=float),
            phase=np.array([m.phase for m in known], dtype=str),
            phase_probability=np.array([m.phase_probability for m in known], dtype=float),
            energy=np.array([m.energy for m in known], dtype=float),
            gradient=np.array([m.gradient for m in known], dtype=float).reshape(-1, 3),
        )

    def __len__(self) -> int:
        return len(self.positions)

    def reads_as(self, other: StrainData) -> bool:
        """Whether `other` tells the same of the crystal, whatever it tells of energies."""
        told = ("positions", "strain", "noise", "rotation", "phase", "phase_probability")
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in told)


def _covariance(point: Mapping) -> tuple[tuple[float, ...], ...]:
    """Covariance of the strain from the columns of the `descriptors` stream."""
    xx, yy, xy = (float(point[key]) ** 2 for key in ("exx_sd", "eyy_sd", "exy_sd"))
    xx_yy, xx_xy, yy_xy = (float(point.get(key, 0.0)) for key in ("cov_exx_eyy", "cov_exx_exy", "cov_eyy_exy"))
    return (xx, xx_yy, xx_xy), (xx_yy, yy, yy_xy), (xx_xy, yy_xy, xy)


def _to_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_to_json(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_from_json(v) for v in value)
    return math.nan if value is None else value
