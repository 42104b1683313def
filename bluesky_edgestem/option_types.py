"""Numbers and addresses on the command line: what reads them, and says what is allowed."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable


def whole(least: int = 0, most: int | None = None) -> Callable[[str], int]:
    """What reads a whole number from `least` to `most`."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= (int(text) if most is None else most):
            bounds = f"of {least} or more" if most is None else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {bounds}")
        return int(text)

    return read


def positive(what: str) -> Callable[[str], float]:
    """What reads a finite number above 0 and calls it `what`, for example "a length [nm]"."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}, a number above 0")
        return value

    return read


def not_negative(text: str) -> float:
    """A finite number of 0 or above."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or above")
    return value


def scheduler_address(text: str) -> str:
    """Where a Dask scheduler is, or "local" for workers on this machine."""
    if text != "local" and not re.fullmatch(r"(tcp|tls|ucx)://[^\s/:]+:\d{1,5}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no address of a Dask scheduler; give tcp://HOST:PORT, or local")
    return text


def beam_energy(text: str) -> float:
    """The energy of a beam [keV]."""
    energy = positive("an energy [keV]")(text)
    if not 20 <= energy <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no energy of an electron microscope: 20 to 1000 keV are allowed")
    return energy


def stream_address(text: str) -> str:
    """Where frames are streamed."""
    matched = re.fullmatch(r"tcp://(?:\[[0-9a-fA-F:.]+\]|[^\s/:\[\]*]+):(\d{1,5})", text)
    if not matched or not 0 < int(matched[1]) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no address of a stream; give tcp://HOST:PORT")
    return text
