"""Frames a second through the inference board's soft-IOC: detector, IOC and client in processes of their own.

A simulated DECTRIS detector streams at a rate that is hard to reach; the board computes with the fixed-point numbers of
a network of the default size, whose weights are random: they do not change the time. Results that do not reach the
client are counted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.fpga import fixed_point, golden, student
from bluesky_edgestem.fpga.frontend import CORE, Frontend
from bluesky_edgestem.fpga.golden import GoldenFrames
from bluesky_edgestem.fpga.student import OUTPUT_BITS, OUTPUT_FRACTION, OUTPUTS, Layer, Student
from bluesky_edgestem.fpga.widths import Widths
from bluesky_edgestem.sim.launch import MicroscopeProcess
from bluesky_edgestem.sim.simplon_launch import SimplonProcess

#: Pixels along each side, pixels binned along each axis, frames a second that are offered.
DETECTORS = ((48, 1, 20_000), (96, 2, 10_000), (192, 4, 5_000))


def write_build(folder: Path, n_pixels: int, bin_: int) -> None:
    """The folder of a build: a network of the default size, and golden frames."""
    rng, widths = np.random.default_rng(0), Widths()
    sizes = [widths.filters, *widths.hidden, len(OUTPUTS)]
    layers = tuple(
        Layer(
            rng.integers(-15, 16, (a, b)).astype(np.int32), 1 | rng.integers(-1000, 1000, b), 3,
            *((OUTPUT_BITS, OUTPUT_FRACTION, True) if k == len(widths.hidden) else (6, 6, False)),
        )
        for k, (a, b) in enumerate(itertools.pairwise(sizes))
    )  # fmt: skip
    filters = rng.integers(-3, 4, (CORE**2, widths.filters)).astype(np.int32)
    frontend = Frontend(n_pixels, bin_, 16)
    optics = Optics(80.0, 2.0, 64 / n_pixels, n_pixels)
    made = Student(
        frontend, optics, ("MoS2", "WS2"), filters, frontend.outer.astype(np.int32), 0, (0,) * widths.filters,
        widths.quotient_bits, layers,
    )  # fmt: skip
    frames = rng.poisson(1.0, (10, n_pixels, n_pixels)).astype(np.uint16)
    made.save(folder / student.NAME)
    fixed_point.DenseLayers.of(made).save(folder / fixed_point.NAME)
    GoldenFrames(made.hash, frames, *made.outputs(frames)).save(folder / golden.NAME)


def through_ioc(build: Path, n_pixels: int, rate: float, seconds: float) -> dict:
    """What comes out of `seconds` of a stream; to be called in a process that has no channel yet."""
    wanted = int(rate * seconds)
    with (
        SimplonProcess(pixels=n_pixels, rate=rate, frames=wanted, buffer=100_000) as detector,
        MicroscopeProcess(
            board=build, separate_board=True, stream=detector.address, source="disks", pixels=n_pixels
        ) as microscope,
    ):
        os.environ.update(microscope.client_env)
        from bluesky_edgestem.devices.board import InferenceBoard

        board = InferenceBoard(f"{microscope.prefix}Board:", name="board")
        board.stage().wait(30)
        board.expect(1, 0, 1e4)
        detector.put("detector/config/trigger_mode", "exts")
        began = time.perf_counter()
        detector.put("detector/command/arm")
        while board.results_out.get() < wanted and time.perf_counter() - began < 20 * seconds:
            time.sleep(0.01)
        taken = time.perf_counter() - began
        time.sleep(1.0)
        _, came = board.results(range(wanted))
        out = {
            "frames_per_s": round(int(board.results_out.get()) / taken),
            "offered_per_s": rate,
            "frames": wanted,
            "lost_to_client": int((~came).sum()),
        }
        board.unstage().wait(10)
        board.destroy()
    return out


def main(small: bool) -> dict:
    """All figures."""
    out = {}
    for n_pixels, bin_, rate in DETECTORS:
        with TemporaryDirectory() as place, multiprocessing.get_context("spawn").Pool(1) as alone:
            write_build(Path(place), n_pixels, bin_)
            out[f"{n_pixels} px"] = alone.apply(through_ioc, (Path(place), n_pixels, rate, 1.0 if small else 5.0))
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Frames a second through the inference board's soft-IOC.")
    parser.add_argument("--small", action="store_true", help="a fifth of the frames, to try the benchmark")
    print(json.dumps(main(parser.parse_args().small)))
