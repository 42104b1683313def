"""The scan coils' queue: positions that an inference board adds to the flight under way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ophyd import Component as Cpt

from .signals import NamingDevice, ReadSignal, SetSignal, TimeSignal


@dataclass(frozen=True)
class AddedPositions:
    """What the board added to one flight."""

    x: np.ndarray  #: (n,) [nm]
    y: np.ndarray  #: (n,) [nm]
    cause: np.ndarray  #: (n,) int, the frame of the flight that each is because of


class PositionQueue(NamingDevice):
    """Takes positions from the board, without the computer, in flights that were started to fly on after their list.

    Parameters
    ----------
    prefix : str
        That of the coils.
    """

    limit = Cpt(SetSignal, "QueueLimit", kind="config", doc="positions that may be added to a flight")
    series = Cpt(SetSignal, "QueueSeries", kind="omitted", doc="the detector's number of the series of that flight")
    wait_time = Cpt(TimeSignal, "QueueWait", kind="config", doc="wait for the board after the last position [s]")
    added = Cpt(ReadSignal, "Queued_RBV", kind="normal")
    x = Cpt(ReadSignal, "QueueX_RBV", kind="omitted")
    y = Cpt(ReadSignal, "QueueY_RBV", kind="omitted")
    cause = Cpt(ReadSignal, "QueueCause_RBV", kind="omitted")

    def positions(self) -> AddedPositions:
        """What was added to the last flight; asked for, as monitors may be late."""
        count = int(self.added.get(use_monitor=False))
        x, y, cause = (np.atleast_1d(signal.get(use_monitor=False))[:count] for signal in (self.x, self.y, self.cause))
        return AddedPositions(x, y, cause.astype(int))
