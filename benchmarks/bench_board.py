"""The inference board that ships: accuracy, all its forms anew and compared, and its student behind other detectors.

The first part is ``edgestem fpga build --student shipped``: 48 x 48 pixels of 16 bits, eight a clock. The second puts
the student behind 48 x 48 pixels of 8 bits, and frames of 96 x 96 and 192 x 192 pixels that are binned on the fly.
`bench_board_clock` routes it, `bench_board_cpu` times it where there is no board.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.fpga import build, logic
from bluesky_edgestem.fpga.command_line import plan_of
from bluesky_edgestem.fpga.frontend import Frontend
from bluesky_edgestem.fpga.student import Student
from bluesky_edgestem.fpga.verification import Mismatches
from bluesky_edgestem.fpga.verilated import Simulation

#: Pixels along each side, pixels binned along each axis, bits of a pixel, pixels a clock, frames that are compared.
DETECTORS = ((48, 1, 8, 8, 10_000), (96, 2, 16, 16, 10_000), (192, 4, 16, 8, 1000), (192, 4, 16, 16, 10_000))


def behind(student: Student, frontend: Frontend, pixels_a_clock: int, folder: Path, frames: int) -> dict:
    """Cycles and mismatches of the student behind another detector."""
    n_pixels = frontend.n_pixels
    other = replace(student, frontend=frontend, optics=Optics(80.0, 2.0, 64 / n_pixels, n_pixels))
    simulation = Simulation(folder, logic.write(other, folder, pixels_a_clock))
    rng = np.random.default_rng(0)
    sent = np.concatenate(
        [rng.poisson(rate, (frames // 2 - frames // 100, n_pixels, n_pixels)) for rate in (0.1, 5.0)]
        + [rng.integers(0, 2**frontend.pixel_bits, (frames // 50, n_pixels, n_pixels))]
    ).astype(np.uint8 if frontend.pixel_bits == 8 else np.uint16)
    left = simulation.send(list(sent.reshape(len(sent), -1)))
    words, status = other.outputs(sent)
    said = np.column_stack([words, np.arange(len(sent)), status])
    return {
        "latency_cycles": int(left.latency.max()),
        "interval_cycles": int(np.diff(left.taken).max()),
        "mismatches": Mismatches.between(said, np.column_stack([left.words, left.number, left.status])).words,
        "frames": len(sent),
    }


def main(small: bool) -> dict:
    """All figures."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        few = ["--patterns", "1000", "--frames", "200", "--scored", "4"] if small else []
        # The whole one stays: its report is to be shipped.
        board = folder / "board" if small else Path("build/bench_board")
        shutil.rmtree(board, ignore_errors=True)
        asked = ["--student", "shipped", *few, "--no-route", "--workers", "2", "--out", str(board)]
        report = build.build(plan_of(asked))
        student = Student.load(board / "student.weights")
        wanted = ("hash", "network", "accuracy", "beyond", "agreement", "cycles", "area", "versions", "missing")
        out: dict = {key: report[key] for key in wanted if key in report}
        out["budget_us"] = {part["name"]: float(f"{1e6 * part['seconds']:.3g}") for part in report["budget"]}
        out["mismatches"] = sum(row["words"] for row in report["agreement"].values())
        out["detectors"] = {}
        for n_pixels, bin_, pixel_bits, pixels_a_clock, frames in DETECTORS:
            name = f"{n_pixels} px, {pixels_a_clock} a clock"
            frontend = Frontend(n_pixels, bin_, pixel_bits, student.frontend.bin_bits)
            place_of = folder / name.replace(" ", "_")
            out["detectors"][name] = behind(student, frontend, pixels_a_clock, place_of, 100 if small else frames)
            print(name, out["detectors"][name], flush=True)
        out["mismatches"] += sum(row["mismatches"] for row in out["detectors"].values())
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The inference board that ships, scored and verified.")
    parser.add_argument("--small", action="store_true", help="few patterns and frames, to try the benchmark")
    print(json.dumps(main(parser.parse_args().small)))
