"""The energy of a strained monolayer, as every source of energies gives it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Strains are rounded to this before anything is computed, so that a structure and its key are the same thing.
STRAIN_RESOLUTION = 1e-5

#: No monolayer of the table below survives more; a strain beyond is a misread pattern.
LARGEST_STRAIN = 0.1

_NAN = float("nan")


@dataclass(frozen=True)
class EnergyResult:
    """Energy of one structure, or why there is none.

    Attributes
    ----------
    formula : str
        Phase, such as "MoS2".
    strain : (3,) floats
        exx, eyy, exy relative to the phase's own relaxed lattice, crystal axes (zigzag along x).
    energy : float
        Energy per formula unit relative to the relaxed phase [eV]; nan unless converged.
    gradient : (3,) floats
        Derivative of the energy by exx, eyy and exy [eV]; exy is both off-diagonal entries of the strain at once.
    state : str
        "converged" or "failed".
    reason : str
        Why it failed; empty if it did not.
    cached : bool
        Whether the energy was known already.
    wall_s : float
        How long the calculation took [s], whenever it was made.
    method : str
        Name of the method with a short hash of its settings.
    """

    formula: str
    strain: tuple[float, float, float]
    energy: float
    gradient: tuple[float, float, float]
    state: str
    reason: str
    cached: bool
    wall_s: float
    method: str

    @classmethod
    def failed(
        cls, formula: str, strain: Sequence[float], reason: str, method: str, wall_s: float = 0.0
    ) -> EnergyResult:
        """The result of a calculation that gave no energy."""
        exx, eyy, exy = (float(e) for e in strain)
        return cls(formula, (exx, eyy, exy), _NAN, (_NAN, _NAN, _NAN), "failed", reason, False, wall_s, method)


def rounded(strain: Sequence[float]) -> tuple[float, float, float]:
    """`strain` (3,) to multiples of `STRAIN_RESOLUTION`.

    Raises
    ------
    ValueError
        If it is not three finite numbers of at most `LARGEST_STRAIN`.
    """
    values = [float(e) for e in strain]
    if len(values) != 3 or not all(math.isfinite(e) for e in values):
        raise ValueError(f"strain must be three finite numbers (exx, eyy, exy), not {tuple(values)}")
    if max(map(abs, values)) > LARGEST_STRAIN:
        raise ValueError(
            f"strain {tuple(values)} is beyond ±{LARGEST_STRAIN}, where a monolayer tears: the descriptor is wrong"
        )
    # Adding zero turns -0.0 into 0.0, which would make a second key of the same structure.
    exx, eyy, exy = (round(round(e / STRAIN_RESOLUTION) * STRAIN_RESOLUTION, 10) + 0.0 for e in values)
    return exx, eyy, exy
