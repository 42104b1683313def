"""The scan coils: step the probe, or fly a list of positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ophyd import Component as Cpt
from ophyd import Device
from ophyd.utils import LimitError

from .signals import WRITE_TIMEOUT, BusySignal, ReadSignal, SetSignal, TimeSignal, wait_until
from .statuses import NamedStatus, in_order, together

FLYING = ("Flying", "Paused")


def as_positions(positions: Sequence | np.ndarray) -> np.ndarray:
    """Positions as an array (n, 2) of x, y [nm].

    Raises
    ------
    ValueError
        They are not pairs, there are none, or one is not a finite number.
    """
    array = np.atleast_2d(np.asarray(positions, float))
    if array.ndim != 2 or array.shape[1] != 2 or not len(array):
        raise ValueError(f"positions are pairs of x, y [nm], shape (n, 2) with n above 0; got shape {array.shape}")
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise ValueError(f"position {bad} is {array[bad].tolist()} nm; positions are finite numbers")
    return array


COIL_STEPS = 2**16
"""Steps in which the coils' converters divide their range, at least."""


class PositionList(SetSignal):
    """Coordinates of positions to fly [nm], which the coils' converters round."""

    @property
    def tolerance(self) -> float:
        """A step of the coils [nm]."""
        return self.parent.step


class Coordinate(PositionList):
    """A coordinate of the probe: its put completes once the probe has settled, which may take long."""

    def set(self, value: float, *, timeout: float | None = None, settle_time: float | None = None) -> NamedStatus:
        """Move; see `SetSignal.set`. The time that the coils need to settle is added to the default of `timeout`."""
        settling = float(self.parent.settle_time.latest or 0.0)
        return super().set(value, timeout=timeout or WRITE_TIMEOUT + settling, settle_time=settle_time)


class ScanCoils(Device):
    """Scan coils that place the probe, x to the right and y up [nm].

    ``set((x, y))`` steps; `load` and `start` fly a list, at each position of which the coils settle, trigger the
    detector on a TTL line and wait for it.
    """

    x = Cpt(Coordinate, "X", limits=True, kind="hinted")
    y = Cpt(Coordinate, "Y", limits=True, kind="hinted")
    settle_time = Cpt(TimeSignal, "SettleTime", kind="config", doc="wait between a move and the exposure [s]")
    positions_x = Cpt(PositionList, "PositionsX", kind="omitted")
    positions_y = Cpt(PositionList, "PositionsY", kind="omitted")
    fly = Cpt(BusySignal, "Fly", kind="omitted")
    pause_flight = Cpt(BusySignal, "Pause", kind="omitted")
    abort = Cpt(BusySignal, "Abort", kind="omitted")
    index = Cpt(ReadSignal, "Index_RBV", kind="omitted", doc="positions of the list already exposed")
    state = Cpt(ReadSignal, "State_RBV", kind="omitted", string=True)
    message = Cpt(ReadSignal, "Message_RBV", kind="omitted", string=True)

    @property
    def step(self) -> float:
        """Distance [nm] that the coils may not resolve; 0 where they state no limits."""
        return max(high - low for low, high in (self.x.limits, self.y.limits)) / COIL_STEPS

    @property
    def flying(self) -> bool:
        """Whether a flight is under way or held."""
        return self.state.latest in FLYING

    def check_value(self, positions: Sequence | np.ndarray) -> None:
        """Raise where a position cannot be reached.

        Parameters
        ----------
        positions : array_like, (n, 2) or (2,)
            x, y [nm].

        Raises
        ------
        LimitError
            A position is outside the coils' limits.
        ValueError
            They are not pairs of finite numbers.
        """
        array = as_positions(positions)
        for axis, values in (("x", array[:, 0]), ("y", array[:, 1])):
            signal = getattr(self, axis)
            low, high = signal.limits
            outside = (values < low) | (values > high)
            if low < high and outside.any():
                first = int(np.flatnonzero(outside)[0])
                raise LimitError(
                    f"{axis} = {values[first]:g} nm (position {first}, one of {int(outside.sum())} outside) is beyond "
                    f"the limits of {signal.setpoint_pvname}, {low:g} to {high:g} nm; choose positions inside them"
                )

    def set(self, position: Sequence | np.ndarray) -> NamedStatus:
        """Step to `position` (x, y) [nm]."""
        self.check_value(position)
        x, y = as_positions(position)[0]
        return together(f"move to {x:g}, {y:g} nm", self.x.set(x), self.y.set(y))

    def load(self, positions: np.ndarray) -> NamedStatus:
        """Send a list (n, 2) [nm] to fly."""
        self.check_value(positions)
        x, y = np.ascontiguousarray(as_positions(positions).T)
        return in_order(f"load {len(x)} positions", lambda: self.positions_x.set(x), lambda: self.positions_y.set(y))

    def start(self, ended: Callable[[], None], grows: bool = False) -> None:
        """Fly the loaded list, and if it `grows` what an inference board adds to it.

        `ended` is called when the coils say that they have done, or will not.
        """
        self.fly.start(ended, 2 if grows else 1)

    def hold(self, dwell: float) -> NamedStatus:
        """Hold the flight before its next position; done once it is held, or over.

        Parameters
        ----------
        dwell : float
            Time [s] that the position under way may still take.
        """
        self.pause_flight.begin()
        return wait_until(self.state, lambda state: state != "Flying", f"hold {self.fly.pvname}", WRITE_TIMEOUT + dwell)

    def go_on(self) -> None:
        """Go on with a held flight."""
        self.pause_flight.end()

    def end_flight(self) -> NamedStatus:
        """End a flight, also one that another client left behind; done once the coils say that none is under way.

        It asks what they do: the monitors of a client that has just connected may not have come.
        """
        if self.state.get(use_monitor=False) in FLYING:
            self.abort.begin()
        return wait_until(self.state, lambda state: state not in FLYING, f"end {self.fly.pvname}")

    def stop(self, *, success: bool = False) -> None:
        """End a flight where it is."""
        if self.flying:
            self.abort.begin()
