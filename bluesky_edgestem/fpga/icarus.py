"""The Verilog by a second simulator, Icarus Verilog: a few frames, to notice what one of the two gets wrong."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np

from .logic import Stream
from .programs import run, tool
from .student import OUTPUTS


def simulate(folder: Path, stream: Stream, frames: np.ndarray) -> np.ndarray:
    """Output words, number and status (n, 11) int64 of frames (n, n_pixels, n_pixels); fewer where it gives fewer.

    Raises
    ------
    ToolMissing
        Icarus Verilog is not installed.
    RuntimeError
        It cannot compile or run the board, or bits of a result are unknown, which Verilator cannot tell.
    """
    compiler, runner = tool("iverilog"), tool("vvp")
    bench = "icarus_bench.sv"
    beat_bits = stream.pixels_a_clock * stream.pixel_bits
    dtype = np.dtype(f"<u{stream.pixel_bits // 8}")
    place = folder / "icarus"
    place.mkdir(exist_ok=True)
    (place / bench).write_text(files("bluesky_edgestem.fpga").joinpath("rtl", bench).read_text())
    with (place / "packets.hex").open("w") as file:
        for frame in np.ascontiguousarray(frames, dtype):
            beats = frame.reshape(-1, stream.pixels_a_clock).view(np.uint8).reshape(stream.beats, -1)
            for i, beat in enumerate(beats):
                value = int.from_bytes(beat.tobytes(), "little") | (i == stream.beats - 1) << beat_bits
                file.write(f"{value:x}\n")
    (place / "weights.hex").write_text((folder / "weights.hex").read_text())
    sizes = {"BEAT_BITS": beat_bits, "RESULT_BITS": stream.result_bits, "BEATS": stream.beats, "FRAMES": len(frames)}
    parameters = [f"-Picarus_bench.{name}={value}" for name, value in sizes.items()]
    folder = folder.absolute()
    sources = sorted(folder.glob("*.sv"))
    run(
        [compiler, "-g2012", "-s", "icarus_bench", "-o", "bench.vvp", *parameters, bench, *sources],
        place,
        "iverilog.log",
    )
    results = []
    for line in run([runner, "bench.vvp"], place, "vvp.log").splitlines():
        if not line.startswith("RESULT "):
            continue
        digits = line.split()[1]
        if not set(digits) <= set("0123456789abcdef"):
            raise RuntimeError(f"by Icarus Verilog result {len(results)} has unknown bits: {digits}")
        words = np.frombuffer(bytes.fromhex(digits)[::-1], "<i2", len(OUTPUTS))
        rest = int(digits, 16) >> (16 * len(OUTPUTS))
        results.append([*words.tolist(), rest & 0xFFFFFFFF, rest >> 32 & 3])
    return np.array(results, np.int64).reshape(-1, len(OUTPUTS) + 2)
