"""How long one frame takes where there is no board: teacher and student on this CPU, and on a GPU if there is one.

The frame's pixels are on the host, and outputs are given there; one thread. The fixed-point model, by alkaid's
interpreter, is timed on many. For a machine that does nothing else: these are absolute times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from bluesky_edgestem.analysis.networks import DescriptorNetwork
from bluesky_edgestem.fpga import fixed_point, golden, shipped
from bluesky_edgestem.fpga import student as student_module
from bluesky_edgestem.fpga.golden import GoldenFrames
from bluesky_edgestem.fpga.student import OUTPUT_FRACTION, Student


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


def main(repeats: int) -> dict:
    """Times of single frames [µs], and frames per second of many in fixed point."""
    student = Student.load(shipped.FOLDER / student_module.NAME)
    optics = student.optics
    kept = GoldenFrames.load(shipped.FOLDER / golden.NAME).frames
    frames = kept[student.outputs(kept)[1] == 0][:1]
    many = np.random.default_rng(0).poisson(1.0, (5000, 48, 48)).astype(np.uint8)
    dense = fixed_point.DenseLayers.of(student)

    def teacher(device: str) -> float:
        network = DescriptorNetwork.pretrained(device=device)
        return median_us(lambda: network.predict(frames, optics), repeats)

    def single(device: str) -> float:
        outputs = by_torch(student, device)
        off = outputs(student.frontend(frames)[0]) - student.outputs(frames)[0][0] * 2.0**-OUTPUT_FRACTION
        assert np.abs(off).max() < 0.1, f"it is not the student: {off}"  # which rounds
        return median_us(lambda: outputs(student.frontend(frames)[0]), 4 * repeats)

    seconds = median_us(lambda: dense(student.features(student.frontend(many))[0]), 3) / 1e6
    on_gpu = "there was none"
    if torch.cuda.is_available():
        on_gpu = f"teacher {teacher('cuda'):g} µs, student {single('cuda'):g} µs on {torch.cuda.get_device_name()}"
    return {
        "hash": student.hash,
        "teacher_us": teacher("cpu"),
        "student_us": median_us(lambda: student.outputs(frames), 4 * repeats),
        "student_by_torch_us": single("cpu"),
        "gpu": on_gpu,
        "fixed_point_frames_per_s": round(len(many) / seconds),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Teacher and student on this CPU, and on a GPU if there is one.")
    parser.add_argument("--repeats", type=int, default=50, help="of the teacher (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        print(json.dumps(main(options.repeats)))
