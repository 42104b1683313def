"""A detector's process, a receiver's process, and what becomes of the file when something ends."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

from bluesky_edgestem.sim.simplon_frames import draw
from bluesky_edgestem.sim.simplon_launch import SimplonProcess
from bluesky_edgestem.stream.mend import mend
from bluesky_edgestem.stream.nexus import missing_frames

pytestmark = pytest.mark.system

DATA = "/entry/data/data"
DETECTOR = "/entry/instrument/detector"
IMAGES = np.array(draw("disks", 64, 16, 64, 0, 1e4))


@contextmanager
def recorder(address: str, path: Path, *options: str, **kwargs: object) -> Iterator[subprocess.Popen[str]]:
    """``edgestem stream record`` in a process of its own; it waits for a series, but not beyond the test."""
    command = [sys.executable, "-m", "bluesky_edgestem.stream.record", address, str(path), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs) as process:
        try:
            yield process
        finally:
            process.kill()


def run(path: Path, *options: str, **simulated: object) -> tuple[int, str]:
    """Record one series of a simulated detector; exit status and what the recorder said."""
    protocol = str(simulated.get("protocol", "v1"))
    with (
        SimplonProcess(pixels=64, **simulated) as detector,
        recorder(detector.address, path, "--protocol", protocol, *options) as process,
    ):
        detector.put("detector/command/arm")  # the detector keeps its messages until somebody is there
        said = process.communicate(timeout=120)[0]
    return process.returncode, said


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_a_series_at_a_high_rate(tmp_path: Path, protocol: str) -> None:
    status, said = run(tmp_path / "run.h5", frames=5000, rate=0, protocol=protocol)
    assert status == 0, said
    assert "5000 of 5000 frames" in said and "ended by end message" in said
    with h5py.File(tmp_path / "run.h5", "r") as file:
        np.testing.assert_array_equal(file[DATA][:128], np.concatenate([IMAGES, IMAGES]))
        np.testing.assert_array_equal(file[DATA][4999], IMAGES[4999 % 64])


def test_a_recorder_says_when_it_is_connected(tmp_path: Path) -> None:
    with (
        SimplonProcess(pixels=64, frames=10) as detector,
        recorder(detector.address, tmp_path / "run.h5", "--workers", "2") as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == f"waiting for a series at {detector.address}\n"
        detector.put("detector/command/arm")
        said = process.communicate(timeout=120)[0]
    assert said.startswith("series 1: 10 of 10 frames"), said


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_every_fault_at_once(tmp_path: Path, protocol: str) -> None:
    faults = {"drop": [3, 4], "duplicate": [10, 11], "corrupt": [20], "wrong_shape": [30], "delay": "40:0.5"}
    options = ["--timeout", "3", "--workers", "2"]
    status, said = run(
        tmp_path / "run.h5", *options, frames=100, rate=2000, cut=90, no_end=True, protocol=protocol, **faults
    )
    missing = [3, 4, 20, 30, *range(90, 100)]
    assert status == 3, said
    assert "86 of 100 frames" in said and "timeout: nothing came for 3 s" in said
    assert "missing 3 to 4, 20, 30, 90 to 99" in said
    assert "2 came twice" in said and "2 refused" in said
    with h5py.File(tmp_path / "run.h5", "r") as file:
        assert missing_frames(file).tolist() == missing
        assert not file["entry"].attrs["complete"]
        for number in range(100):
            held = np.zeros((64, 64)) if number in missing else IMAGES[number % 64]
            np.testing.assert_array_equal(file[DATA][number], held)


def test_a_killed_receiver_leaves_every_frame_that_a_reader_saw(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with (
        SimplonProcess(pixels=64, frames=100_000, rate=3000) as detector,
        recorder(detector.address, path) as process,
    ):
        detector.put("detector/command/arm")
        seen, deadline = 0, time.monotonic() + 30
        while seen < 2000 and time.monotonic() < deadline:
            time.sleep(0.2)
            try:
                with h5py.File(path, "r", swmr=True) as file:
                    now = len(file[DATA])
                    if not now:
                        continue
                    np.testing.assert_array_equal(file[DATA][now - 1], IMAGES[(now - 1) % 64])
                    seen = now
            except (OSError, KeyError):
                continue
        process.kill()
        process.wait(10)
    assert seen >= 2000
    with h5py.File(path, "r", swmr=True) as file:
        left = len(file[DATA])
        assert left >= seen
        np.testing.assert_array_equal(file[DATA][left - 1], IMAGES[(left - 1) % 64])
    frames, expected = mend(path)
    assert frames >= seen and expected == 100_000
    with h5py.File(path, "r") as file:
        whole = file[DATA][:seen]
        np.testing.assert_array_equal(whole, IMAGES[np.arange(seen) % 64])
        assert not file["entry"].attrs["complete"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_closes_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run.h5"
    with (
        SimplonProcess(pixels=64, frames=100_000, rate=2000) as detector,
        recorder(detector.address, path) as process,
    ):
        detector.put("detector/command/arm")
        deadline = time.monotonic() + 30
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)
        process.send_signal(getattr(signal, name))
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 3, said
    assert "ended by stop" in said
    with h5py.File(path, "r") as file:
        assert file[DETECTOR].attrs["ended"] == b"stop"
        assert len(file[DATA]) == 100_000
        assert 100 < 100_000 - len(missing_frames(file)) < 100_000


def test_an_abort_by_rest_ends_the_series_and_the_next_is_whole(tmp_path: Path) -> None:
    with SimplonProcess(pixels=64, frames=50_000, rate=1000) as detector:
        for series, path in enumerate((tmp_path / "1.h5", tmp_path / "2.h5"), 1):
            with recorder(detector.address, path) as process:
                assert detector.put("detector/command/arm") == {"sequence id": series}
                if series == 1:
                    deadline = time.monotonic() + 60
                    while not path.exists() and time.monotonic() < deadline:
                        time.sleep(0.05)
                    assert detector.put("detector/command/abort") == {"sequence id": 1}
                    assert detector.get("detector/status/state") == "idle"
                said = process.communicate(timeout=120)[0]
            assert process.returncode == (3 if series == 1 else 0), said
            assert "ended by end message" in said
            detector.put("detector/config/ntrigger", 500)


def full_disk(folder: Path, size: str) -> bool:
    """Mount a file system of `size` on `folder`; False where that is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return subprocess.run(mount, capture_output=True).returncode == 0


def test_a_full_disk(tmp_path: Path) -> None:
    """A real one where the test may mount it; else a limit on the file's size, which HDF5 meets in the same way."""
    folder = tmp_path / "small"
    mounted = full_disk(folder, "8m")
    path = folder / "run.h5"

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))

    try:
        with (
            SimplonProcess(pixels=64, frames=100_000, rate=0) as detector,
            recorder(detector.address, path, preexec_fn=None if mounted else limit) as process,
        ):
            detector.put("detector/command/arm")
            said = process.communicate(timeout=120)[0]
        if mounted:
            assert process.returncode == 3, said
            assert "ended by disk full: the disk of" in said
        else:
            assert process.returncode == 1, said
            mend(path)
        with h5py.File(path, "r") as file:
            missing = missing_frames(file)
            frames = 100_000 - len(missing)
            assert 100 < frames < 50_000
            assert missing[0] == frames
            np.testing.assert_array_equal(file[DATA][frames - 1], IMAGES[(frames - 1) % 64])
            assert not file["entry"].attrs["complete"]
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_error_that_hdf5_meets_ends_with_its_words(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    with (
        SimplonProcess(pixels=64, frames=20_000, rate=3000) as detector,
        recorder(detector.address, path, preexec_fn=limit) as process,
    ):
        detector.put("detector/command/arm")
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 1, said
    assert "edgestem: " in said and "Traceback" not in said
    assert mend(path)[0] > 100
    with h5py.File(path, "r") as file:
        np.testing.assert_array_equal(file[DATA][99], IMAGES[99 % 64])


LIMITED = """
import os, resource, signal, sys
from bluesky_edgestem.stream import series_file
from bluesky_edgestem.stream.record import main

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
series_file.FLUSH = 1e9
kept, where = series_file.SeriesFile, sys.argv.pop(1)
flush, method, lazy = kept.flush, getattr(kept, where), where == "finish"

def limited(self, *args, **kwargs):
    if self.written >= 500:
        kept.flush = flush
        size = os.path.getsize(self.path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return method(self, *args, **kwargs)

if lazy:
    kept.flush = lambda self: None
setattr(kept, where, limited)
sys.exit(main(sys.argv[1:]))
"""
"""The recorder, whose file cannot grow from its first flush on that has 500 frames to write, or from its end on."""


@pytest.mark.parametrize("where", ["flush", "finish"])
def test_a_disk_error_at_an_idle_moment_or_at_the_end(tmp_path: Path, where: str) -> None:
    path = tmp_path / "run.h5"
    with SimplonProcess(pixels=64, frames=500, rate=0, no_end=where == "flush") as detector:
        command = [sys.executable, "-c", LIMITED, where, detector.address, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                detector.put("detector/command/arm")
                said = process.communicate(timeout=120)[0]
            finally:
                process.kill()
    assert process.returncode == 1, said
    assert said.count("edgestem: ") == 1 and "run.h5 cannot be written (" in said and "Traceback" not in said
    frames, expected = mend(path)
    assert 0 <= frames <= 500 and expected == 500


def test_a_recorded_series_can_be_replayed(tmp_path: Path) -> None:
    assert run(tmp_path / "first.h5", frames=200, rate=0)[0] == 0
    status, said = run(tmp_path / "second.h5", file=tmp_path / "first.h5", rate=0, protocol="v2")
    assert status == 0 and "200 of 200 frames" in said
    with h5py.File(tmp_path / "first.h5", "r") as first, h5py.File(tmp_path / "second.h5", "r") as second:
        np.testing.assert_array_equal(first[DATA], second[DATA])


def test_memory_stays_constant(tmp_path: Path) -> None:
    """Peak memory of the receiver after 40,000 frames is that after 4,000, within 20 MB."""
    peaks = []
    for frames in (4000, 40_000):
        code = (
            "import sys, resource; from bluesky_edgestem.stream.record import main; status = main(sys.argv[1:]); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(status)"
        )
        with SimplonProcess(pixels=32, frames=frames, rate=0) as detector:
            command = [sys.executable, "-c", code, detector.address, str(tmp_path / f"{frames}.h5")]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                detector.put("detector/command/arm")
                said = process.communicate(timeout=120)[0]
        assert process.returncode == 0, said
        peaks.append(int(said.splitlines()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 20, peaks
