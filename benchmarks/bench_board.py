"""The inference board that ships: accuracy, all its forms anew and compared, and its student behind other detectors.

The first part is ``edgestem fpga build --student shipped``: 48 x 48 pixels of 16 bits, eight a clock. The second puts
the student behind 48 x 48 pixels of 8 bits, and frames of 96 x 96 and 192 x 192 pixels that are binned on the fly. The
third times single frames on this CPU, and the fixed-point model on many. `bench_board_clock` routes it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bluesky_edgestem.analysis.networks import DescriptorNetwork
from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.fpga import build, fixed_point, logic
from bluesky_edgestem.fpga.command_line import plan_of
from bluesky_edgestem.fpga.frontend import Frontend
from bluesky_edgestem.fpga.student import Student
from bluesky_edgestem.fpga.verilated import Simulation

#: Pixels along each side, pixels binned along each axis, bits of a pixel, pixels a clock, frames that are compared.
DETECTORS = ((48, 1, 8, 8, 10_000), (96, 2, 16, 16, 10_000), (192, 4, 16, 8, 1000), (192, 4, 16, 16, 1000))


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
    return {
        "latency_cycles": int(left.latency.max()),
        "interval_cycles": int(np.diff(left.taken).max()),
        "mismatches": int((left.words != other.outputs(sent)[0]).sum()),
        "frames": len(sent),
    }


def median_us(action, repeats: int) -> float:
    """Median time [µs] of a call, after ten."""
    times = []
    for i in range(repeats + 10):
        began = time.perf_counter()
        action()
        if i >= 10:
            times.append(time.perf_counter() - began)
    return float(f"{1e6 * statistics.median(times):.3g}")


def by_torch(student: Student, device: str):
    """The student in single precision: a function of bins (CORE²,) on the host that gives its outputs there."""
    import torch

    columns = torch.tensor(student.columns, dtype=torch.float32, device=device)
    factors = torch.tensor(2.0 ** (np.array(student.gains) - student.scale), dtype=torch.float32, device=device)
    layers, fraction = [], student.quotient_bits
    for layer in student.layers:
        weights = torch.tensor(layer.weights * 2.0**-layer.weight_fraction, dtype=torch.float32, device=device)
        bias = layer.bias * 2.0 ** -(fraction + layer.weight_fraction + 1)
        layers.append((weights, torch.tensor(bias, dtype=torch.float32, device=device), layer.signed))
        fraction = layer.fraction

    @torch.inference_mode()
    def outputs(bins: np.ndarray) -> np.ndarray:
        sums = torch.from_numpy(bins.astype(np.float32)).to(device) @ columns
        x = (sums[:-1] * factors / sums[-1].clamp(min=1.0)).clamp(-1.0, 1.0)
        for weights, bias, last in layers:
            x = x @ weights + bias
            x = x if last else x.clamp(0.0, 1.0)
        return x.cpu().numpy()

    return outputs


def single_frames(student: Student) -> dict:
    """Times of one frame on this CPU, one thread, and on a GPU where there is one; of many, in fixed point."""
    import torch

    torch.set_num_threads(1)
    teacher, optics = DescriptorNetwork.pretrained(), student.optics
    frames = np.random.default_rng(0).poisson(1.0, (5000, 48, 48)).astype(np.uint8)
    dense = fixed_point.DenseLayers.of(student)

    def many() -> None:
        dense(student.features(student.frontend(frames))[0])

    seconds = median_us(many, 3) / 1e6
    out = {
        "teacher_us": median_us(lambda: teacher.predict(frames[:1], optics), 50),
        "student_us": median_us(lambda: student.outputs(frames[:1]), 200),
        "fixed_point_frames_per_s": round(len(frames) / seconds),
    }
    on_cpu = by_torch(student, "cpu")
    out["student_by_torch_us"] = median_us(lambda: on_cpu(student.frontend(frames[:1])[0]), 200)
    out["gpu"] = "there was none"
    if torch.cuda.is_available():  # of the student; the teacher is made for CPUs
        on_gpu = by_torch(student, "cuda")
        taken = median_us(lambda: on_gpu(student.frontend(frames[:1])[0]), 200)
        out["gpu"] = f"{taken:g} µs on {torch.cuda.get_device_name()}"
    return out


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
        wanted = ("hash", "network", "accuracy", "beyond", "agreement", "cycles", "area", "missing")
        out: dict = {key: report[key] for key in wanted if key in report}
        out["mismatches"] = sum(row["words"] for row in report["agreement"].values())
        out["detectors"] = {}
        for n_pixels, bin_, pixel_bits, pixels_a_clock, frames in DETECTORS:
            name = f"{n_pixels} px, {pixels_a_clock} a clock"
            frontend = Frontend(n_pixels, bin_, pixel_bits, student.frontend.bin_bits)
            place_of = folder / name.replace(" ", "_")
            out["detectors"][name] = behind(student, frontend, pixels_a_clock, place_of, 100 if small else frames)
            print(name, out["detectors"][name], flush=True)
        out["mismatches"] += sum(row["mismatches"] for row in out["detectors"].values())
        out["cpu"] = single_frames(student)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The inference board that ships, scored and verified.")
    parser.add_argument("--small", action="store_true", help="few patterns and frames, to try the benchmark")
    print(json.dumps(main(parser.parse_args().small)))
