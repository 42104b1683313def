"""Sum and centre of mass of decompressed frames, in GB/s, beside the memory's read bandwidth in the same minute.

At least 0.6 of the bandwidth is asked for. The bandwidth is that of a compiled loop that reads the same frames, as
64-bit words, with as many threads. The peers are LiberTEM's `CoMUDF` in its own environment, and numpy: the frames
times two ramps and ones, as a matrix product in float32, block by block so that it works in the cache (about 1e-7 of
its result is rounding; ours has none). Frames are sparse counts, far more of them than any cache holds. The kernels are
repeated in turn, so that what else the machine does hits all alike; figures are medians, the ratio is that of pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numba import njit
from threadpoolctl import threadpool_limits

from bluesky_edgestem.analysis.reductions import Reducer
from bluesky_edgestem.analysis.sparse_masks import Annulus

PIXELS = (96, 192, 256, 512)
CORES = (1, 2)
ASKED = 0.6
SLOWER = 3
"""Repeats of the peers, which take far longer; so many tell."""
ROOT = Path(__file__).parents[1]
PEER = ROOT / ".venv-libertem/bin/python"


@njit(nogil=True)
def read_words(words: np.ndarray) -> np.uint64:
    """Read all of `words` (n,) uint64."""
    seen = np.uint64(0)
    for i in range(words.size):
        seen ^= words[i]
    return seen


def shared(work: Callable[[slice], object], n: int, cores: int, pool: ThreadPoolExecutor) -> Callable[[], None]:
    """`work` on `n` things, shared by threads."""
    parts = [slice(a, b) for a, b in pairwise(np.linspace(0, n, cores + 1).astype(int).tolist())]

    def run() -> None:
        for done in [pool.submit(work, part) for part in parts]:
            done.result()

    return run


def numpy_com(frames: np.ndarray, block: int = 16) -> np.ndarray:
    """Sums and moments (n, 3) float32 by matrix products."""
    n, ny, nx = frames.shape
    y, x = np.mgrid[:ny, :nx].astype(np.float32)
    masks = np.stack([np.ones_like(x), x, y], -1).reshape(-1, 3)
    out = np.empty((n, 3), np.float32)
    for begin in range(0, n, block):
        part = frames[begin : begin + block]
        np.dot(part.reshape(len(part), -1).astype(np.float32), masks, out=out[begin : begin + len(part)])
    return out


def make_frames(pixels: int, dtype: str, nbytes: int) -> np.ndarray:
    """Counts of a few electrons a pixel in disks, next to none between; repeated, not shared in memory."""
    y, x = np.mgrid[:pixels, :pixels] - (pixels - 1) / 2
    rate = np.full((pixels, pixels), 0.02)
    for k in range(7):
        angle, radius = k * np.pi / 3, 0.0 if k == 6 else 0.3 * pixels
        rate += 3.0 * (np.hypot(x - radius * np.cos(angle), y - radius * np.sin(angle)) < 0.06 * pixels)
    some = np.random.default_rng(pixels).poisson(rate, (32, pixels, pixels)).astype(dtype)
    return np.tile(some, (max(1, nbytes // some.nbytes), 1, 1))


class LiberTEM:
    """LiberTEM's centre of mass of frames (n, ny, nx), n a multiple of 32, in a process of its own."""

    def __init__(self, frames: np.ndarray, cores: int) -> None:
        environment = dict(os.environ) | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with TemporaryDirectory() as folder:
            np.save(Path(folder) / "frames.npy", frames)
            self._process = subprocess.Popen(
                [str(PEER), str(ROOT / "tests/peers/time_com.py"), f"{folder}/frames.npy", str(cores)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            self.version: str = self._answer()["libertem"]

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"LiberTEM ended with status {self._process.wait()}; scripts/peers makes it anew")
        return json.loads(line)

    def run(self) -> list[float]:
        """Reduce the frames; their mean centre of mass (y, x) [pixels]."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()["mean"]

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def measure(frames: np.ndarray, cores: int, repeats: int, with_peers: bool) -> dict[str, float]:
    """GB/s of each, and the ratio of ours to the memory."""
    words = frames.reshape(-1).view(np.uint64)
    shape = (frames.shape[1], frames.shape[2])
    masks = {"bright_field": Annulus(0.0, 4.0).mask(shape, 0.5), "dark_field": Annulus(4.0, 1e3).mask(shape, 0.5)}
    com, images = Reducer(shape, threads=cores), Reducer(shape, masks, threads=cores)
    fewer = frames[: max(2, len(frames) // 128) * 32]  # a quarter: it is read anew, and slowly
    peer = LiberTEM(fewer, cores) if with_peers else None
    with ThreadPoolExecutor(cores) as pool, threadpool_limits(1):
        candidates: dict[str, tuple[Callable[[], object], int]] = {
            "memory": (shared(lambda part: read_words(words[part]), len(words), cores, pool), frames.nbytes),
            "com": (lambda: com.reduce(frames), frames.nbytes),
            "com_and_two_detectors": (lambda: images.reduce(frames), frames.nbytes),
        }
        if peer is not None:
            numpy = shared(lambda part: numpy_com(frames[part]), len(frames), cores, pool)
            candidates |= {"numpy": (numpy, frames.nbytes), "libertem": (peer.run, fewer.nbytes)}
            expected = com.reduce(fewer).centre_of_mass((0.0, 0.0)).mean(0)[::-1]
            if not np.allclose(peer.run(), expected, rtol=1e-4):  # it works in float32
                raise RuntimeError(f"LiberTEM's mean centre of mass is {peer.run()}, ours {expected}")
        rates: dict[str, list[float]] = {name: [] for name in candidates}
        for repeat in range(repeats + 1):
            for name, (run, nbytes) in candidates.items():
                if name in ("numpy", "libertem") and repeat > SLOWER:
                    continue
                started = time.perf_counter()
                run()
                if repeat:  # the first one compiles
                    rates[name].append(nbytes / (time.perf_counter() - started) / 1e9)
    out = {f"{name}_GB_s": round(statistics.median(found), 2) for name, found in rates.items()}
    out["frames_per_s"] = round(out["com_GB_s"] * 1e9 / frames[0].nbytes)
    out["com_of_memory"] = round(
        statistics.median(a / b for a, b in zip(rates["com"], rates["memory"], strict=True)), 3
    )
    if peer is not None:
        peer.close()
        for name in ("numpy", "libertem"):
            out[f"com_of_{name}"] = round(out["com_GB_s"] / max(rates[name]), 1)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15, help="of each measurement (default: %(default)s)")
    parser.add_argument("--megabytes", type=int, default=600, help="of frames (default: %(default)s)")
    options = parser.parse_args()
    subprocess.run([ROOT / "scripts/peers"], check=True, stdout=sys.stderr)
    result: dict = {"asked_of_memory": ASKED, "repeats": options.repeats, "uint16": {}, "other_pixels": {}}
    for pixels in PIXELS:
        frames = make_frames(pixels, "uint16", options.megabytes << 20)
        for cores in CORES:
            found = measure(frames, cores, options.repeats, True)
            result["uint16"].setdefault(f"{pixels} px", {})[f"{cores} cores"] = found
            print(f"{pixels} px uint16, {cores} cores: {found}", flush=True)
    for dtype in ("uint8", "uint32"):
        frames = make_frames(192, dtype, options.megabytes << 20)
        found = measure(frames, 1, options.repeats, False)
        result["other_pixels"][f"192 px {dtype}, 1 cores"] = found
        print(f"192 px {dtype}, 1 core: {found}", flush=True)
    ratios = [c["com_of_memory"] for size in result["uint16"].values() for c in size.values()]
    result["worst_of_memory"] = min(ratios)
    for peer in ("numpy", "libertem"):
        result[f"worst_of_{peer}"] = min(
            c[f"com_of_{peer}"] for size in result["uint16"].values() for c in size.values()
        )
    print(json.dumps(result))
