"""The time from an electron's frame to its strain, each part with how it is known."""

from __future__ import annotations

from dataclasses import dataclass

from .logic import Stream
from .targets import TARGETS

CYCLES = "cycles measured, clock asked for"  #: by simulation; no tool has shown the clock
DATASHEET = "datasheet"  #: from the rate that the maker of the board gives its port, and what Ethernet adds
MODELLED = "modelled"  #: from an assumption that the row states
OUT_RATE = 10e9  #: of the link to the scan generator, as assumed: 10-gigabit Ethernet [bit/s]
#: Bytes that a frame needs on Ethernet beyond its pixels, for each packet of at most 8,192: headers, gap and check.
OVERHEAD, PAYLOAD = 66, 8192


@dataclass(frozen=True)
class Part:
    """One line of the budget."""

    name: str
    seconds: float
    label: str  #: `CYCLES`, `DATASHEET` or `MODELLED`
    source: str


def _on_the_wire(size: int, rate: float) -> float:
    packets = -(-size // PAYLOAD)
    return 8 * (size + packets * OVERHEAD) / rate


def budget(
    stream: Stream, cycles: int, tail: int, clock_MHz: float, target: str = "xcu250", cable_m: float = 20.0
) -> list[Part]:
    """What a frame's way through takes, and all of it together as the last part.

    Parameters
    ----------
    stream : Stream
    cycles : int
        From the first beat of a frame to its result, measured.
    tail : int
        Of those, from its last beat.
    clock_MHz : float
        Clock of the board [MHz].
    target : str
        Device, of `targets.TARGETS`.
    cable_m : float
        From the detector to the board, and back to the coils [m].
    """
    frame = stream.n_pixels**2 * stream.pixel_bits // 8
    result = stream.result_bits // 8
    at = f"at {clock_MHz:g} MHz"
    in_rate, port = TARGETS[target].port_rate, TARGETS[target].port
    link, cables, board_in, inference, leaving = parts = [
        Part(
            "board's port, first pixel to last", _on_the_wire(frame, in_rate), DATASHEET,
            f"{frame} bytes, and {OVERHEAD} for each packet, at {in_rate / 1e9:g} Gbit/s, all that it can: {port}; "
            f"{1 / _on_the_wire(frame, in_rate):,.0f} frames/s at most; while the board takes them in",
        ),
        Part("cables", 2 * cable_m / 2e8, MODELLED, f"{cable_m:g} m each way at two thirds of the speed of light"),
        Part(
            "board: first pixel to last", (cycles - tail) / clock_MHz / 1e6, CYCLES,
            f"{cycles - tail} cycles, by simulation of the Verilog; {at}",
        ),
        Part("board: last pixel to result", tail / clock_MHz / 1e6, CYCLES, f"{tail} cycles, as before; {at}"),
        Part(
            "result to the scan generator", _on_the_wire(result, OUT_RATE), MODELLED,
            f"{result} bytes at {OUT_RATE / 1e9:g} Gbit/s, which is assumed",
        ),
    ]  # fmt: skip
    slower = max(link.seconds, board_in.seconds)
    whole = cables.seconds + slower + inference.seconds + leaving.seconds
    return [
        *parts,
        Part(
            "all, link and board's input at once",
            whole,
            MODELLED,
            "the sum; what receives the detector's packets and unpacks compressed pixels is not part of it",
        ),
    ]
