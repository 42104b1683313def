"""A detector's parameters as Ophyd signals, with the limits and units that the detector itself gives."""

from __future__ import annotations

import time
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device, Signal
from ophyd.utils import LimitError

from ..statuses import NamedStatus, in_thread
from .rest import DetectorRefused, Simplon

ROUNDING = 1e-3
"""Relative difference between what was set and what is read back that is none: detectors count time in ticks."""


class RestSignal(Signal):
    """A parameter of the detector.

    Parameters
    ----------
    parameter : str
        E.g. ``detector/config/count_time``.
    rest : Simplon, optional
        That of the device which this is a part of, by default.
    unit : str
        To give where the detector gives none.
    optional : bool
        Not every detector has it: where it has not, nothing is read.
    """

    def __init__(
        self,
        parameter: str,
        *,
        name: str,
        rest: Simplon | None = None,
        unit: str = "",
        optional: bool = False,
        parent: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, parent=parent, **kwargs)
        self.parameter, self._unit, self._optional = parameter, unit, optional
        self._rest = rest or parent.rest

    @property
    def setpoint_pvname(self) -> str:
        """What it is called in messages."""
        return f"{self._rest.url}/{self.parameter}"

    pvname = setpoint_pvname

    @property
    def latest(self) -> Any:
        """The value when it was last read or set, without going to the network; None before."""
        return self._readback

    @property
    def served(self) -> bool:
        """Whether the detector has it."""
        return self._rest.has(self.parameter)

    def get(self, **_: Any) -> Any:
        """The value now.

        Raises
        ------
        LostConnection, DetectorRefused
        """
        self._readback = self._rest.value(self.parameter)
        return self._readback

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """Lowest and highest value allowed by the detector; None where it gives no such limit."""
        known = self._rest.get(self.parameter)
        return known.get("min"), known.get("max")

    def check_value(self, value: Any, **_: Any) -> None:
        """Ask the detector what it allows.

        Raises
        ------
        LimitError
            `value` is outside the detector's limits, or none of its choices.
        """
        known = self._rest.get(self.parameter)
        unit = known.get("unit") or self._unit
        allowed, low, high = known.get("allowed_values"), known.get("min"), known.get("max")
        said = f"{self.setpoint_pvname} cannot be {value!r}{unit and ' ' + unit}; "
        if allowed and value not in allowed:
            raise LimitError(f"{said}the detector allows {' | '.join(map(str, allowed))}")
        if low is None and high is None:
            return
        try:
            inside = (low is None or value >= low) and (high is None or value <= high)
        except TypeError:
            inside = False
        if not inside:  # nan included
            bounds = [f"from {low:g}" if low is not None else "", f"up to {high:g}" if high is not None else ""]
            raise LimitError(f"{said}the detector allows {' '.join(b for b in bounds if b)} {unit}".rstrip())

    def put(self, value: Any, **_: Any) -> None:
        """Set it and read it back.

        Raises
        ------
        LimitError
            As for `check_value`; nothing was sent.
        ValueError
            The detector did not take the value.
        LostConnection, DetectorRefused
        """
        self.check_value(value)
        self._rest.put(self.parameter, value)
        read = self.get()
        numbers = isinstance(read, int | float) and isinstance(value, int | float)
        if read != value and not (numbers and abs(read - value) <= ROUNDING * abs(value)):
            raise ValueError(f"{self.setpoint_pvname} was set to {value!r}, but reads {read!r}")

    def set(self, value: Any, **_: Any) -> NamedStatus:
        """As `put`, with a status for what comes after the check of the limits."""
        self.check_value(value)
        return in_thread(f"set {self.setpoint_pvname} to {value!r}", lambda: self.put(value))

    def read(self) -> dict[str, Any]:
        """The value with the time at which it was asked for."""
        try:
            value = self.get()
        except DetectorRefused:
            if self._optional:
                return {}
            raise
        return {self.name: {"value": value, "timestamp": time.time()}}

    def describe(self) -> dict[str, Any]:
        """Unit and limits are the detector's."""
        try:
            known = self._rest.get(self.parameter)
        except DetectorRefused:
            if self._optional:
                return {}
            raise
        value = known.get("value")
        kind = {bool: "boolean", int: "integer", float: "number"}.get(type(value), "string")
        described: dict[str, Any] = {"source": self.setpoint_pvname, "dtype": kind, "shape": []}
        if kind in ("integer", "number"):  # what one detector gives as 1, another gives as 1.0
            described["dtype"] = "number"
        if unit := known.get("unit") or self._unit:
            described["units"] = unit
        for ours, theirs in (("lower_ctrl_limit", "min"), ("upper_ctrl_limit", "max")):
            if theirs in known:
                described[ours] = known[theirs]
        return {self.name: described}


class DetectorConfig(Device):
    """Settings of a DECTRIS detector; times in s, energies in eV, as SIMPLON has them."""

    def __init__(self, prefix: str = "", *, rest: Simplon | None = None, parent: Any = None, **kwargs: Any) -> None:
        self.rest = rest or parent.rest
        super().__init__(prefix, parent=parent, **kwargs)

    count_time = Cpt(RestSignal, "detector/config/count_time", unit="s", kind="config", doc="exposure [s]")
    frame_time = Cpt(RestSignal, "detector/config/frame_time", unit="s", kind="config", doc="period of frames [s]")
    nimages = Cpt(RestSignal, "detector/config/nimages", kind="omitted", doc="frames per trigger")
    ntrigger = Cpt(RestSignal, "detector/config/ntrigger", kind="omitted", doc="triggers per series")
    trigger_mode = Cpt(RestSignal, "detector/config/trigger_mode", kind="config")
    compression = Cpt(RestSignal, "detector/config/compression", optional=True, kind="config")
    photon_energy = Cpt(RestSignal, "detector/config/photon_energy", unit="eV", optional=True, kind="config")
    incident_energy = Cpt(RestSignal, "detector/config/incident_energy", unit="eV", optional=True, kind="config")
    threshold_energy = Cpt(RestSignal, "detector/config/threshold/1/energy", unit="eV", optional=True, kind="config")
    threshold_2_energy = Cpt(RestSignal, "detector/config/threshold/2/energy", unit="eV", optional=True, kind="config")
    size_x = Cpt(RestSignal, "detector/config/x_pixels_in_detector", kind="omitted", doc="columns of a frame")
    size_y = Cpt(RestSignal, "detector/config/y_pixels_in_detector", kind="omitted", doc="rows of a frame")
    bit_depth = Cpt(RestSignal, "detector/config/bit_depth_image", kind="omitted", doc="of a pixel")
    mask_to_zero = Cpt(
        RestSignal, "detector/config/mask_to_zero", optional=True, kind="config", doc="masked pixels count 0"
    )
    description = Cpt(RestSignal, "detector/config/description", optional=True, kind="config")
    serial_number = Cpt(RestSignal, "detector/config/detector_number", optional=True, kind="config")
    state = Cpt(RestSignal, "detector/status/state", kind="omitted")
    stream_mode = Cpt(RestSignal, "stream/config/mode", kind="omitted")
    stream_format = Cpt(RestSignal, "stream/config/format", optional=True, kind="config")
    header_detail = Cpt(RestSignal, "stream/config/header_detail", kind="config")
