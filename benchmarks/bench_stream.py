"""How fast a DECTRIS detector's stream is received, reduced to sum and centre of mass, and written to HDF5.

The simulated detector, a process of its own, sends as fast as its frames are taken; receiver and simulator share the
machine's cores. The peer, libertem-live's sum and centre of mass (which writes nothing), takes the same series of the
same simulator in the same rounds; the faster of its executors counts, with its own sizes of partitions (512 frames) and
frame stacks (24), which others did not better. Times are from arming to the closed file, or to the peer's result. No
frame may be missing, and all sums are compared with those of the frames that were sent.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import event_model
import numpy as np
import zmq
from bluesky import RunEngine
from bluesky.utils import MsgGenerator

from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.analysis.reductions import Reducer, Reduction
from bluesky_edgestem.callbacks.imaging import Imaging
from bluesky_edgestem.devices.simplon.detector import SimplonDetector
from bluesky_edgestem.geometry import FieldOfView, ScanGrid
from bluesky_edgestem.plans.stubs import FLUSH_PERIOD
from bluesky_edgestem.sim.simplon_frames import draw
from bluesky_edgestem.sim.simplon_launch import SimplonProcess
from bluesky_edgestem.stream import blobs
from bluesky_edgestem.stream.encoding import compress
from bluesky_edgestem.stream.frames import Frames
from bluesky_edgestem.stream.nexus import Context
from bluesky_edgestem.stream.receiver import Receiver
from bluesky_edgestem.stream.recorder import Recorder
from bluesky_edgestem.stream.recording import Recording
from bluesky_edgestem.stream.series import Series
from bluesky_edgestem.stream.series_file import SeriesFile

ROOT = Path(__file__).parents[1]
PEER = ROOT / ".venv-libertem/bin/python"
PIXELS, BITS, DISTINCT, SEED = 192, 16, 64, 0
CASES = {
    # what the frames look like: source and electrons a frame
    "disks": ("disks", 1e3),
    "everywhere": ("random", float(PIXELS**2)),
}
SIZES = (96, 192, 256, 512)
LAG_RATE, WIDTH = 5000.0, 100
DATASETS = {
    "detector": "/entry/data/data",
    "detector_x": "/entry/instrument/NDAttributes/ScanX",
    "detector_y": "/entry/instrument/NDAttributes/ScanY",
}
MEMORY = """
import sys
from bluesky_edgestem.stream.record import main
status = main(sys.argv[1:])
with open("/proc/self/status") as file:
    print(*(line.split()[1] for line in file if line.startswith("VmHWM")))
sys.exit(status)
"""


class Reducing:
    """A `gate.Reduce` that keeps sums and moments of every frame, and when it had them [s]."""

    def __init__(self, shape: tuple[int, int], frames: int) -> None:
        self._reducer = Reducer(shape)
        self.total = np.zeros(frames, np.uint64)
        self.moments = np.zeros((frames, 2), np.uint64)
        self.when = np.full(frames, np.nan)

    def __call__(self, series: Series, frames: Frames) -> list[str]:
        """Reduce; see `gate.Reduce`."""
        found = Reduction.zeros(len(frames), self._reducer.masks)
        reasons = blobs.reduce(frames, self._reducer, found)
        numbers = frames.numbers
        self.total[numbers], self.moments[numbers] = found.total, found.moments
        self.when[numbers] = time.monotonic()
        return reasons


def simulator(case: str, protocol: str, pixels: int = PIXELS, **options: object) -> SimplonProcess:
    """The simulated detector, as fast as its frames are taken."""
    source, dose = CASES[case]
    settings = {"rate": 0, "distinct": DISTINCT, "bits": BITS, "seed": SEED, **options}
    return SimplonProcess(source=source, dose=dose, pixels=pixels, protocol=protocol, **settings)


def images(case: str, pixels: int = PIXELS) -> np.ndarray:
    """The frames (distinct, ny, nx) uint16 that this detector sends in turn."""
    source, dose = CASES[case]
    return np.array(draw(source, pixels, BITS, DISTINCT, SEED, dose))


class Maps:
    """Live maps of a series: `Imaging`, told of its frames as a run tells it, and how many frames it shows when.

    What the RunEngine adds, which hands documents on, is not in it.
    """

    def __init__(self, frames: int) -> None:
        grid = ScanGrid(FieldOfView(0.0, 0.0, 100.0, 100.0), WIDTH, frames // WIDTH)
        optics = Optics(n_pixels=PIXELS)
        self.context = Context(grid.positions, optics)
        self.seen: list[tuple[float, int]] = []
        self._imaging = Imaging()
        self._run = event_model.compose_run(
            metadata={
                "shape": [grid.ny, grid.nx],
                "field_of_view": asdict(grid.field),
                "optics": asdict(optics),
            }
        )
        keys = {name: {"source": "", "dtype": "array", "shape": [], "external": "STREAM:"} for name in DATASETS}
        self._descriptor = self._run.compose_descriptor(name="primary", data_keys=keys).descriptor_doc
        self._data: list[event_model.ComposeStreamDatum] = []
        self._told = 0
        self._imaging("start", dict(self._run.start_doc))
        self._imaging("descriptor", dict(self._descriptor))
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()

    def tell(self, file: SeriesFile) -> None:
        """Announce what can be read by now."""
        for name, dataset in DATASETS.items() if not self._data else ():
            resource, datum = event_model.compose_stream_resource(
                mimetype="application/x-hdf5",
                uri=f"file://localhost{file.path}",
                data_key=name,
                parameters={"dataset": dataset, "swmr": True, "chunk_shape": [1]},
                start=self._run.start_doc,
            )
            self._imaging("stream_resource", dict(resource))
            self._data.append(datum)
        if file.acknowledged == self._told:
            return
        indices = event_model.StreamRange(start=self._told, stop=file.acknowledged)
        numbers = event_model.StreamRange(start=self._told + 1, stop=file.acknowledged + 1)
        for datum in self._data:
            self._imaging("stream_datum", dict(datum(indices, seq_nums=numbers, descriptor=self._descriptor)))
        self._told = file.acknowledged

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self.seen.append((time.monotonic(), self._imaging.images().frames))

    def close(self) -> None:
        """Look for the last time."""
        self._imaging.finished().result(30)
        self._over.set()
        self._watch.join()
        self.seen.append((time.monotonic(), self._imaging.images().frames))


def record(
    detector: SimplonProcess,
    protocol: str,
    reduce: Reducing,
    workers: int = 1,
    progress: Callable[[SeriesFile], object] | None = None,
    begin: Callable[[], object] | None = None,
    context: Context | None = None,
    ended: Callable[[], object] | None = None,
) -> tuple[Recording, float]:
    """Arm, and keep the series; the recording, and the time from arming to the closed file [s]."""
    receiver = Receiver(detector.address, protocol=protocol, workers=workers, reduce=reduce)
    with TemporaryDirectory() as folder:
        time.sleep(0.1)  # the sockets connect
        began = time.perf_counter()
        detector.put("detector/command/arm")
        if begin is not None:
            begin()
        recording = Recorder(receiver).record(
            Path(folder) / "run.h5", progress=progress, start_timeout=20, context=context
        )
        seconds = time.perf_counter() - began
        if ended is not None:
            ended()
        receiver.close()
    if not recording.complete or recording.refused_count or recording.duplicates:
        raise RuntimeError(f"frames were lost: {recording}")
    return recording, seconds


def check(reduce: Reducing, sent: np.ndarray) -> None:
    """Raise where a sum or moment is not exactly that of the frame that was sent."""
    turn = np.arange(len(reduce.total)) % len(sent)
    y, x = np.indices(sent.shape[1:], np.uint64)
    wide = sent.astype(np.uint64)
    for found, expected in (
        (reduce.total, wide.sum((1, 2))),
        (reduce.moments[:, 0], (wide * x).sum((1, 2))),
        (reduce.moments[:, 1], (wide * y).sum((1, 2))),
    ):
        if not np.array_equal(found, expected[turn]):
            raise RuntimeError("what was reduced differs from what was sent")


def ours(detector: SimplonProcess, protocol: str, sent: np.ndarray, frames: int, workers: int) -> tuple[float, float]:
    """Frames a second that were received, reduced and written; time that the stream waited for the writer [s]."""
    detector.put("detector/config/ntrigger", frames)
    reduce = Reducing((sent.shape[1], sent.shape[2]), frames)
    recording, seconds = record(detector, protocol, reduce, workers)
    check(reduce, sent)
    return frames / seconds, recording.back_pressure.waited_s


def taken(detector: SimplonProcess, frames: int) -> float:
    """Frames a second that are taken off the network and thrown away: the simulator's own limit here."""
    detector.put("detector/config/ntrigger", frames)
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.set_hwm(1000)
        socket.connect(detector.address)
        time.sleep(0.1)
        began = time.perf_counter()
        detector.put("detector/command/arm")
        for _ in range(frames + 2):  # header and end
            if not socket.poll(20_000):
                raise RuntimeError("the simulator stopped sending")
            socket.recv_multipart()
        return frames / (time.perf_counter() - began)


class Peer:
    """libertem-live in its own environment, warmed up."""

    def __init__(self, executor: str) -> None:
        self._process = subprocess.Popen(
            [str(PEER), str(ROOT / "tests/peers/time_series.py"), executor],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.versions: dict[str, str] = self._answer()

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"libertem-live ended with status {self._process.wait()}; scripts/peers makes it anew")
        return json.loads(line)

    def rate(self, detector: SimplonProcess, sent: np.ndarray, frames: int) -> float:
        """Frames a second that it received and reduced."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{detector.api_port} {detector.port} {frames}\n")
        self._process.stdin.flush()
        answer = self._answer()
        sums = sent.sum((1, 2), dtype=np.int64)[np.arange(frames) % len(sent)]
        if answer["counts"] != sums.sum():
            raise RuntimeError(f"libertem-live counted {answer['counts']} electrons of {sums.sum()}")
        return frames / answer["seconds"]

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def plural(workers: int) -> str:
    """1 worker, 2 workers."""
    return f"{workers} worker{'s' * (workers > 1)}"


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most [frames/s]."""
    return {
        "median": round(statistics.median(values)),
        "min": round(min(values)),
        "max": round(max(values)),
    }


def beside_the_peer(case: str, frames: int, rounds: int, executors: Sequence[str]) -> dict:
    """Frames a second of ours and of libertem-live, round by round, so that another load falls on all alike."""
    sent = images(case)
    chunk = [len(compress(image).data) for image in sent]
    rates: dict[str, list[float]] = {}
    waited = 0.0
    peers = {name: Peer(name) for name in executors}
    try:
        with simulator(case, "v1") as v1, simulator(case, "v2") as v2:
            for peer in peers.values():
                peer.rate(v1, sent, 200)
            for n in range(rounds + 1):
                both = (("v1", v1), ("v2", v2))
                for name, detector in both if n % 2 else both[::-1]:  # what warms up or fills caches is for both alike
                    for workers in (1, 2):
                        rate, wait = ours(detector, name, sent, frames if n else 500, workers)
                        if n:
                            rates.setdefault(f"{name} recorded, {plural(workers)}", []).append(rate)
                            waited += wait
                    if n:
                        rates.setdefault(f"{name} thrown away", []).append(taken(detector, frames))
                for name, peer in peers.items() if n else ():
                    rates.setdefault(f"libertem-live, {name}", []).append(peer.rate(v1, sent, frames))
        versions = [peer.versions for peer in peers.values()]
    finally:
        for peer in peers.values():
            peer.close()
    figures = {name: spread(values) for name, values in rates.items()}

    def best(prefix: str) -> list[float]:
        chosen = max(
            (name for name in rates if name.startswith(prefix)), key=lambda name: statistics.median(rates[name])
        )
        return rates[chosen]

    peer, v1_best, v2_best = best("libertem-live"), best("v1 recorded"), best("v2 recorded")
    return {
        "frames": frames,
        "counts a pixel, 50 brightest": round(float(np.sort(sent.mean(0).ravel())[-50:].mean()), 1),
        "pixels with counts": round(float((sent > 0).mean()), 4),
        "bytes a frame": round(statistics.mean(chunk)),
        "frames a second": figures,
        "v1": round(statistics.median(v1_best)),
        "v2": round(statistics.median(v2_best)),
        "peer": round(statistics.median(peer)),
        "v1 over peer": round(statistics.median(a / b for a, b in zip(v1_best, peer, strict=True)), 2),
        "v2 over peer": round(statistics.median(a / b for a, b in zip(v2_best, peer, strict=True)), 2),
        "v2 over v1": round(statistics.median(a / b for a, b in zip(v2_best, v1_best, strict=True)), 2),
        "lost": 0,  # anything else has raised
        "waited for the writer [s]": round(waited, 2),
        "peer versions": versions[0],
    }


def scaling(frames: int, rounds: int) -> dict:
    """Frames a second by size and workers; the best of `rounds`."""
    found = {}
    for pixels in SIZES:
        sent = images("disks", pixels)
        here = max(frames * PIXELS // pixels // 100, 1) * 100
        with simulator("disks", "v1", pixels) as detector:
            ours(detector, "v1", sent, 300, 1)
            rates = {w: [ours(detector, "v1", sent, here, w)[0] for _ in range(rounds)] for w in (1, 2)}
        row = {plural(w): round(max(rates[w])) for w in rates}
        found[f"{pixels} pixels"] = row | {
            "GB/s of pixels": round(max(map(max, rates.values())) * sent[0].nbytes / 1e9, 2)
        }
        print(pixels, row, flush=True)
    return found


def memory(frames: int) -> float:
    """Peak memory [MB] of ``edgestem stream record`` over a series."""
    with TemporaryDirectory() as folder, simulator("disks", "v1", frames=frames) as detector:
        command = [sys.executable, "-c", MEMORY, detector.address, str(Path(folder) / "run.h5")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()  # it waits for the series
            detector.put("detector/command/arm")
            said = process.communicate(timeout=200)[0].splitlines()
    if process.returncode or f"{frames} of {frames} frames" not in said[0]:
        raise RuntimeError(f"frames were lost: {said}")
    return round(int(said[-1]) / 1e3, 1)


def lag(frames: int, protocol: str) -> dict:
    """How long after its exposure a frame is reduced, can be read from the file, and is in the maps [s], at a set rate.

    The detector's clock starts at the trigger pulse, which reaches it after it is noted here: the lag is overstated by
    the time of one HTTP request.
    """
    frames -= frames % WIDTH
    maps = Maps(frames)
    with simulator("disks", protocol, rate=LAG_RATE, manual=True) as detector:
        for name, value in (("trigger_mode", "exts"), ("ntrigger", 1), ("nimages", frames)):
            detector.put(f"detector/config/{name}", value)
        reduce = Reducing((PIXELS, PIXELS), frames)
        seen: list[tuple[float, int]] = []
        pulsed: list[float] = []
        files: list[SeriesFile] = []

        def begin() -> None:
            pulsed.append(time.monotonic())
            detector.put("simulator/pulse", 1)

        def progress(file: SeriesFile) -> None:
            seen.append((time.monotonic(), file.acknowledged))
            maps.tell(file)
            files[:] = [file]

        def ended() -> None:
            seen.append((time.monotonic(), frames))  # closed
            maps.tell(files[0])
            maps.close()

        record(detector, protocol, reduce, progress=progress, begin=begin, context=maps.context, ended=ended)
    exposed = pulsed[0] + np.arange(frames) / LAG_RATE
    late = {
        "reduced": reduce.when - exposed,
        "readable": since(seen, frames) - exposed,
        "in the maps": since(maps.seen, frames) - exposed,
    }
    return {
        "frames": frames,
        **{
            name: {"median_s": round(float(np.median(v)), 3), "max_s": round(float(v.max()), 3)}
            for name, v in late.items()
        },
    }


def lag_in_a_run(frames: int, protocol: str) -> dict[str, float]:
    """How long after its exposure a frame is in the maps of a run [s]: detector, RunEngine, `Imaging` in one process.

    The run is flown as the plans fly it. The detector's clock starts at the trigger, see `lag`.
    """
    frames -= frames % WIDTH
    grid = ScanGrid(FieldOfView(0.0, 0.0, 100.0, 100.0), WIDTH, frames // WIDTH)
    metadata = {
        "shape": [grid.ny, grid.nx],
        "field_of_view": asdict(grid.field),
        "optics": asdict(Optics(n_pixels=PIXELS)),
    }
    seen: list[tuple[float, int]] = []
    triggered: list[float] = []
    over = threading.Event()
    imaging, engine = Imaging(), RunEngine({})
    engine.subscribe(imaging)

    def look() -> None:
        while not over.wait(0.01):
            seen.append((time.monotonic(), imaging.images().frames))

    with simulator("disks", protocol, rate=LAG_RATE, manual=True) as simulated, TemporaryDirectory() as folder:
        detector = SimplonDetector(
            f"127.0.0.1:{simulated.api_port}",
            name="detector",
            stream=simulated.address,
            protocol=protocol,
            directory=folder,
            trigger_mode="ints",
            positions=True,
        )
        command = detector.rest.command

        def noted(name: str, *args: Any) -> dict[str, Any]:
            if name == "trigger":
                triggered.append(time.monotonic())
            return command(name, *args)

        detector.rest.command = noted  # type: ignore[method-assign]

        @bpp.stage_decorator([detector])
        @bpp.run_decorator(md=metadata)
        def flight() -> MsgGenerator[None]:
            yield from bps.declare_stream(detector, name="primary", collect=True)
            yield from bps.prepare(detector, grid.positions, wait=True)
            yield from bps.kickoff(detector, wait=True)
            complete = yield from bps.complete(detector, group="flight", wait=False)
            while not complete.done:
                yield from bps.wait("flight", timeout=FLUSH_PERIOD, error_on_timeout=False)
                yield from bps.collect(detector, name="primary")
            yield from bps.collect(detector, name="primary")

        watch = threading.Thread(target=look, daemon=True)
        watch.start()
        engine(flight())
        imaging.finished().result(30)
        over.set()
        watch.join()
        seen.append((time.monotonic(), imaging.images().frames))
    late = since(seen, frames) - (triggered[0] + np.arange(frames) / LAG_RATE)
    return {"median_s": round(float(np.median(late)), 3), "max_s": round(float(late.max()), 3)}


def since(seen: list[tuple[float, int]], frames: int) -> np.ndarray:
    """When each frame was seen first (frames,) [s], from how many were seen when."""
    times = np.full(frames, np.nan)
    before = 0
    for when, count in seen:
        times[before:count] = when
        before = max(before, count)
    return times


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Rates of the detector's stream, beside libertem-live.")
    parser.add_argument("--frames", type=int, default=60_000, help="in a timed series, a second of it (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(%(default)s)")
    parser.add_argument("--long", type=int, default=100_000, help="frames of the series for memory (%(default)s)")
    options = parser.parse_args()
    subprocess.run([ROOT / "scripts/peers"], check=True, stdout=sys.stderr)
    Reducer((8, 8)).reduce(np.zeros((1, 8, 8), np.uint16))  # compiles

    started = time.perf_counter()

    def timed(name: str, figures: dict) -> dict:
        print(f"{time.perf_counter() - started:.0f} s: {name}: {figures}", flush=True)
        return figures

    result = timed("disks", beside_the_peer("disks", options.frames, options.rounds, ("inline", "pipelined")))
    dense = timed(
        "everywhere", beside_the_peer("everywhere", max(options.frames // 400, 5) * 100, 1, ("inline", "pipelined"))
    )
    result |= {
        "counts in every pixel": {k: dense[k] for k in ("bytes a frame", "v1", "v2", "peer", "v1 over peer")},
        "scaling": timed("scaling", scaling(options.frames // 2, 2)),
        "peak memory, MB": timed("memory", {f"{n} frames": memory(n) for n in (options.long // 10, options.long)}),
        f"lag at {LAG_RATE:.0f} frames a second": timed(
            "lag",
            {
                p: {**lag(options.frames, p), "in the maps of a run": lag_in_a_run(options.frames, p)}
                for p in ("v1", "v2")
            },
        ),
    }
    print(json.dumps(result))
