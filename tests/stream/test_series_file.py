"""What a series' file holds, in whichever order its frames come."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

from bluesky_edgestem.stream import nexus, series_file
from bluesky_edgestem.stream.encoding import compress
from bluesky_edgestem.stream.frames import Frames
from bluesky_edgestem.stream.mend import mend
from bluesky_edgestem.stream.nexus import Context, missing_frames
from bluesky_edgestem.stream.series import Frame, Series
from bluesky_edgestem.stream.series_file import GAP, SeriesFile


@pytest.fixture(autouse=True)
def only_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are flushed when a test says so, however slow the machine is."""
    monkeypatch.setattr(series_file, "FLUSH", float("inf"))


TIMES = ("start_time", "stop_time", "real_time")


def frame(number: int) -> Frame:
    """Frame `number`: its times and its image tell which it is."""
    image = np.full((8, 8), number % 1000, np.uint16)
    return Frame(1, number, (compress(image),), number + 0.25, number + 0.5, number + 0.75)


def test_times_stay_with_their_frames_however_they_come(tmp_path: Path) -> None:
    far = 5 + GAP
    series = Series(1, (8, 8), np.dtype("uint16"), None)
    file = SeriesFile(tmp_path / "run.h5", series, frame(0).chunks[0], Context())
    file.write(Frames.of([frame(4), frame(0)]))
    file.flush()
    file.write(Frames.of([frame(3), frame(1)]))  # on either side of what is there, and between
    file.write(Frames.of([frame(2 * far), frame(far)]))
    assert file.acknowledged == 2
    file.flush()
    assert file.acknowledged == file.written == 6
    file.write(Frames.of([frame(far + 1)]))
    file.finish([range(2, 3), range(5, far), range(far + 2, 2 * far)], 2 * far + 1, ended="end message")
    numbers = np.array([0, 1, 3, 4, far, far + 1, 2 * far])
    with h5py.File(tmp_path / "run.h5", "r") as kept:
        for k, name in enumerate(TIMES):
            expected = np.full(2 * far + 1, np.nan)
            expected[numbers] = numbers + 0.25 * (k + 1)
            np.testing.assert_array_equal(kept[f"/entry/instrument/detector/{name}"][:], expected)
        np.testing.assert_array_equal(kept["/entry/data/data"][:, 0, 0][numbers], numbers % 1000)


def test_a_reader_finds_as_many_times_as_frames(tmp_path: Path) -> None:
    series = Series(1, (8, 8), np.dtype("uint16"), None)
    file = SeriesFile(tmp_path / "run.h5", series, frame(0).chunks[0], Context())
    file.write(Frames.of([frame(0), frame(2)]))
    file.flush()
    with h5py.File(tmp_path / "run.h5", "r", swmr=True) as kept:
        detector = kept["/entry/instrument/detector"]
        assert len(detector["data"]) == 3
        for name in TIMES:
            assert len(detector[name]) == 3
            assert np.isnan(detector[name][1])
    file.finish([range(1, 2)], 3, ended="end message")


READ = """
import sys, h5py, hdf5plugin
file = h5py.File(sys.argv[1], "r", swmr=True)
data = file["/entry/data/data"]
print(len(data), flush=True)
sys.stdin.readline()
data.refresh()
times = file["/entry/instrument/detector/stop_time"]
times.refresh()
print(*data[:, 0, 0], *times[:])
"""


def test_a_reader_in_another_process_does_not_keep_what_is_missing_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    file = SeriesFile(path, Series(1, (8, 8), np.dtype("uint16"), 6), frame(0).chunks[0], Context())
    file.write(Frames.of([frame(1), frame(3)]))
    file.flush()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", READ, str(path)], **pipes) as reader:
        assert reader.stdout.readline() == "4\n"
        file.finish([range(1), range(2, 3), range(4, 6)], 6, ended="end message")
        with h5py.File(path, "r") as kept:
            assert missing_frames(kept).tolist() == [0, 2, 4, 5]
        said = reader.communicate("go on\n", timeout=60)[0]
    assert said == "0 1 0 3 0 0 nan 1.5 nan 3.5 nan nan\n", "the reader, which had it open all the time, reads on"


def test_what_could_not_be_listed_is_said_and_mended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "run.h5"
    file = SeriesFile(path, Series(1, (8, 8), np.dtype("uint16"), 4), frame(0).chunks[0], Context())
    file.write(Frames.of([frame(1)]))
    file.flush()
    with h5py.File(path, "r", swmr=True):  # in one process HDF5 opens no file both for reading and for writing
        file.finish([range(1), range(2, 4)], 4, ended="end message")
    assert "does not list its missing frames" in caplog.text
    for _ in range(2):
        assert mend(path) == (1, 4)
        with h5py.File(path, "r") as kept:
            assert missing_frames(kept).tolist() == [0, 2, 3]
            assert kept["/entry/instrument/detector"].attrs["ended"] == b"end message"
            assert not kept["entry"].attrs["complete"]


def test_frames_far_apart_cost_no_times_between_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand frames 4096 apart take three chunks of times each, and arrays of one frame on the way there."""
    path, apart = tmp_path / "run.h5", 4096
    file = SeriesFile(path, Series(1, (8, 8), np.dtype("uint16"), None), frame(0).chunks[0], Context())
    file.write(Frames.of([frame(k * apart) for k in range(1000)]))
    stored, largest = h5py.Dataset.__setitem__, 0

    def observed(self: h5py.Dataset, where: slice, values: np.ndarray) -> None:
        nonlocal largest
        largest = max(largest, len(values))
        stored(self, where, values)

    monkeypatch.setattr(h5py.Dataset, "__setitem__", observed)
    file.flush()
    assert largest == 1
    monkeypatch.undo()
    file.finish([range(k * apart + 1, (k + 1) * apart) for k in range(999)], 999 * apart + 1, ended="end message")
    with h5py.File(path, "r") as kept:
        for name in TIMES:
            assert kept[f"/entry/instrument/detector/{name}"].id.get_storage_size() == 1000 * 512 * 8


def test_too_many_missing_frames_are_told_by_their_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nexus, "LISTED", 5)
    path = tmp_path / "run.h5"
    file = SeriesFile(path, Series(1, (8, 8), np.dtype("uint16"), 2**31), frame(0).chunks[0], Context())
    file.write(Frames.of([frame(k) for k in (0, 2, 10, 12)] + [frame(2**31 - 1)]))
    missing = [range(1, 2), range(3, 10), range(11, 12), range(13, 2**31 - 1)]
    file.finish(missing, 2**31, ended="end message")
    with h5py.File(path, "r") as kept:
        detector = kept["/entry/instrument/detector"]
        assert missing_frames(kept).tolist() == [1, 11]
        assert detector["missing_frames"].attrs["and_all_in"] == "missing_runs"
        assert "and_all_from" not in detector["missing_frames"].attrs
        assert detector["missing_runs"][:].tolist() == [[3, 9], [13, 2**31 - 2]]
        assert not kept["entry"].attrs["complete"]
        np.testing.assert_array_equal(kept["/entry/data/data"][2**31 - 1], np.full((8, 8), (2**31 - 1) % 1000))
