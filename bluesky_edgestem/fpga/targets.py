"""The devices that a build may be for, and the boards that they are on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A device, and the port of its board that the detector's link comes to."""

    part: str  #: as Vitis HLS names it
    port_rate: float  #: [bit/s]
    port: str  #: its name, the board's, and the document that says so


TARGETS = {
    "xcu250": Target("xcu250-figd2104-2L-e", 100e9, "QSFP28 port of the Alveo U250 (DS962)"),
    "xcu55c": Target("xcu55c-fsvh2892-2L-e", 100e9, "QSFP28 port of the Alveo U55C (DS978)"),
    "xczu9eg": Target("xczu9eg-ffvb1156-2-e", 10e9, "SFP+ port of the ZCU102 (UG1182)"),
}
