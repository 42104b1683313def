"""The clock of the board that ships, placed and routed on another device, whose tools are free: a proxy."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from bluesky_edgestem.fpga import area, logic, shipped, student
from bluesky_edgestem.fpga.student import Student


def main(small: bool) -> dict:
    """The clock [MHz], and of which student."""
    made = Student.load(shipped.FOLDER / student.NAME)
    with TemporaryDirectory() as folder:
        logic.write(made, Path(folder), 8)
        clock = {} if small else {"routed_clock_MHz": area.routed_clock(Path(folder))}
    return {"hash": made.hash} | clock


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The routed clock of the board that ships, on a Lattice ECP5.")
    parser.add_argument("--small", action="store_true", help="do not route, to try the benchmark")
    print(json.dumps(main(parser.parse_args().small)))
