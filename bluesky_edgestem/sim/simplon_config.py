"""The parameters that a DECTRIS detector serves over REST, by module and name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

VERSIONS = ("1.6.0", "1.8.0")
TRIGGER_MODES = {"1.6.0": ("exte", "exts", "inte", "ints"), "1.8.0": ("eies", "exte", "extg", "exts", "inte", "ints")}
READOUT = 1e-7
"""Time [s] between two frames in which nothing is counted."""

TYPES: dict[str, tuple[type, ...]] = {
    "uint": (int,),
    "float": (int, float),
    "string": (str,),
    "bool": (bool,),
}


class Refused(ValueError):
    """What the detector answers with an error; `status` is that of HTTP."""

    def __init__(self, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True)
class Parameter:
    """A value with what a client may know of it."""

    value: Any
    kind: str = "string"
    access: str = "rw"
    unit: str = ""
    low: float | None = None
    high: float | None = None
    allowed: tuple[Any, ...] = ()

    def described(self) -> dict[str, Any]:
        """The answer to a GET."""
        answer = {"value": self.value, "value_type": self.kind, "access_mode": self.access}
        limits = {"min": self.low, "max": self.high, "unit": self.unit or None, "allowed_values": list(self.allowed)}
        return answer | {key: value for key, value in limits.items() if value not in (None, [])}

    def changed(self, name: str, value: Any) -> Parameter:
        """This parameter with `value`.

        Raises
        ------
        Refused
        """
        if self.access == "r":
            raise Refused(f"{name} can only be read")
        if not isinstance(value, TYPES[self.kind]) or (isinstance(value, bool) and self.kind != "bool"):
            raise Refused(f"{name} is {value!r}; allowed is a {self.kind}")
        if self.allowed and value not in self.allowed:
            raise Refused(f"{name} is {value!r}; allowed is {' | '.join(map(str, self.allowed))}")
        for limit, beyond in ((self.low, -1), (self.high, 1)):
            if limit is not None and (value - limit) * beyond > 0:
                raise Refused(f"{name} is {value} {self.unit}; allowed is {self.low} to {self.high} {self.unit}")
        return replace(self, value=value)


def detector_config(version: str, shape: tuple[int, int], bits: int, frames: int, frame_time: float) -> dict:
    """The module ``detector``: a detector of `shape` (ny, nx) that takes `frames` by external triggers."""
    count = {"kind": "uint", "low": 1, "high": 2_000_000_000}
    return {
        "description": Parameter("DECTRIS ARINA (simulated)", access="r"),
        "detector_number": Parameter("S-00-0001", access="r"),
        "software_version": Parameter(version, access="r"),
        "x_pixels_in_detector": Parameter(shape[1], "uint", "r"),
        "y_pixels_in_detector": Parameter(shape[0], "uint", "r"),
        "x_pixel_size": Parameter(1e-4, "float", "r", "m"),
        "y_pixel_size": Parameter(1e-4, "float", "r", "m"),
        "bit_depth_image": Parameter(bits, "uint", "r"),
        "bit_depth_readout": Parameter(min(bits, 16), "uint", "r"),
        "sensor_material": Parameter("Si", access="r"),
        "sensor_thickness": Parameter(4.5e-4, "float", "r", "m"),
        "detector_readout_time": Parameter(READOUT, "float", "r", "s"),
        "countrate_correction_count_cutoff": Parameter(2**bits - 2, "uint", "r"),
        "beam_center_x": Parameter(shape[1] / 2, "float", unit="pixel"),
        "beam_center_y": Parameter(shape[0] / 2, "float", unit="pixel"),
        "detector_distance": Parameter(1.0, "float", unit="m", low=0.0),
        "incident_energy": Parameter(80e3, "float", unit="eV", low=3e4, high=3e5),
        "threshold/1/energy": Parameter(40e3, "float", unit="eV", low=1e4, high=1.5e5),
        "roi_mode": Parameter("disabled", allowed=("disabled",)),
        "compression": Parameter("bslz4", allowed=("bslz4", "lz4", "none")),
        "count_time": Parameter(frame_time - READOUT, "float", unit="s", low=5e-8, high=3600.0),
        "frame_time": Parameter(frame_time, "float", unit="s", low=8e-6, high=3600.0),
        "nimages": Parameter(1, **count),
        "ntrigger": Parameter(frames, **count),
        "ntriggers_skipped": Parameter(0, "uint", low=0, high=2_000_000_000),
        "trigger_mode": Parameter("exte", allowed=TRIGGER_MODES[version]),
        "mask_to_zero": Parameter(False, "bool"),
        "pixel_mask_applied": Parameter(True, "bool"),
        "flatfield_correction_applied": Parameter(True, "bool"),
        "countrate_correction_applied": Parameter(False, "bool"),
    }


def stream_config(version: str, protocol: str) -> dict[str, Parameter]:
    """The module ``stream``; the choice of a format came with version 1.8."""
    config = {
        "mode": Parameter("enabled", allowed=("enabled", "disabled")),
        "header_detail": Parameter("basic", allowed=("none", "basic", "all")),
        "header_appendix": Parameter(""),
        "image_appendix": Parameter(""),
    }
    if version != "1.6.0":
        name = "legacy" if protocol == "v1" else "cbor"
        config["format"] = Parameter(name, allowed=(name,))
    return config


def filewriter_config() -> dict[str, Parameter]:
    """The module ``filewriter``, which takes its settings and writes nothing."""
    return {
        "mode": Parameter("disabled", allowed=("enabled", "disabled")),
        "name_pattern": Parameter("series_$id"),
        "nimages_per_file": Parameter(1000, "uint", low=0, high=2_000_000_000),
        "compression_enabled": Parameter(True, "bool"),
        "image_nr_start": Parameter(1, "uint", low=0, high=2_000_000_000),
    }
