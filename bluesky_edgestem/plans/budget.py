"""What a run may cost, whatever it knows by then."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """The limits of a run.

    Parameters
    ----------
    max_positions : int
        Probe positions.
    max_time : float
        Time [s]; no batch begins that would end after it.
    max_dose : float, optional
        Dose of all positions together [electrons]; None for no limit.
    dose_per_position : float
        What one position costs [electrons].

    Raises
    ------
    ValueError
        If a limit is not above 0, or does not allow a single position.
    """

    max_positions: int
    max_time: float
    max_dose: float | None
    dose_per_position: float

    def __post_init__(self) -> None:
        for name, unit in (("max_positions", "positions"), ("max_time", "s"), ("max_dose", "electrons")):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise ValueError(f"the budget {name} is {limit} {unit}; it has to be above 0")
        if self.positions < 1:
            raise ValueError(
                f"one position costs {self.dose_per_position:.4g} electrons, "
                f"the whole run may cost {self.max_dose:.4g}: "
                "shorten the dwell time, lower the current, or allow more"
            )

    @property
    def positions(self) -> int:
        """How many positions the limits of positions and of dose allow."""
        if self.max_dose is None or not self.dose_per_position > 0:
            return self.max_positions
        # A budget that is a whole number of doses allows that number, whatever the last digit says.
        return min(self.max_positions, int(self.max_dose / self.dose_per_position * (1 + 1e-9)))

    def spent(self, positions: int, seconds: float, next_batch: float = 0.0) -> str:
        """Which limit is reached after `positions` and `seconds` [s], where another batch takes about `next_batch` [s].

        Empty if none is.
        """
        if positions >= self.max_positions:
            return f"the budget of {self.max_positions} positions is spent"
        if positions >= self.positions:
            cost = f"another position costs {self.dose_per_position:.4g}"
            return f"the budget of {self.max_dose:.4g} electrons is spent: {cost}"
        if seconds >= self.max_time:
            return f"the budget of {self.max_time:g} s is spent"
        if seconds + next_batch > self.max_time:
            return f"the budget of {self.max_time:g} s is spent: another batch would take about {next_batch:.0f} s"
        return ""
