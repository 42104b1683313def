"""The clock of the board that ships, placed and routed on another device, whose tools are free: a proxy.

It is the best of a few placements, as one who makes a bitstream takes it; all are told.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from bluesky_edgestem.fpga import area, logic, shipped, student
from bluesky_edgestem.fpga.student import Student

SEEDS = (1, 2, 3)


def main(small: bool) -> dict:
    """The clock [MHz], those of all placements, and of which student."""
    made = Student.load(shipped.FOLDER / student.NAME)
    with TemporaryDirectory() as folder:
        logic.write(made, Path(folder), 8)
        placements = [] if small else area.routed_clocks(Path(folder), SEEDS)
    return {"hash": made.hash} | (
        {"routed_clock_MHz": max(placements), "placements_MHz": placements} if placements else {}
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The routed clock of the board that ships, on a Lattice ECP5.")
    parser.add_argument("--small", action="store_true", help="do not route, to try the benchmark")
    print(json.dumps(main(parser.parse_args().small)))
