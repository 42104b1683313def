"""What a run may cost, whatever it knows by then."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite


@dataclass(frozen=True)
class Budget:
    """The limits of a run.

    Parameters
    ----------
    max_positions : int
        Probe positions.
    max_time : float
        Time [s]; no batch begins after it.
    max_dose : float
        Dose of all positions together [electrons]; may be infinite.
    dose_per_position : float
        What one position costs [electrons].

    Raises
    ------
    ValueError
        If a limit is not above 0, or does not allow a single position.
    """

    max_positions: int
    max_time: float
    max_dose: float
    dose_per_position: float

    def __post_init__(self) -> None:
        for name, unit in (("max_positions", "positions"), ("max_time", "s"), ("max_dose", "electrons")):
            if not getattr(self, name) > 0:
                raise ValueError(f"the budget {name} is {getattr(self, name)} {unit}; it has to be above 0")
        if self.positions < 1:
            raise ValueError(
                f"one position costs {self.dose_per_position:.4g} electrons, "
                f"the whole run may cost {self.max_dose:.4g}: "
                "shorten the dwell time, lower the current, or allow more"
            )

    @property
    def positions(self) -> int:
        """How many positions the limits of positions and of dose allow."""
        if not isfinite(self.max_dose) or not self.dose_per_position > 0:
            return self.max_positions
        # A budget that is a whole number of doses allows that number, whatever the last digit says.
        return min(self.max_positions, int(self.max_dose / self.dose_per_position * (1 + 1e-9)))

    def spent(self, positions: int, seconds: float) -> str:
        """Which limit is reached after `positions` and `seconds` [s]; empty if none is."""
        if positions >= self.max_positions:
            return f"the budget of {self.max_positions} positions is spent"
        if positions >= self.positions:
            cost = f"another position costs {self.dose_per_position:.4g}"
            return f"the budget of {self.max_dose:.4g} electrons is spent: {cost}"
        if seconds >= self.max_time:
            return f"the budget of {self.max_time:g} s is spent"
        return ""
