"""The file of a killed receiver becomes an ordinary one."""

from __future__ import annotations

import errno
import fcntl
import struct
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

from bluesky_edgestem.stream.encoding import compress
from bluesky_edgestem.stream.frames import Frames
from bluesky_edgestem.stream.mend import lookup3, main, mend
from bluesky_edgestem.stream.nexus import Context, missing_frames
from bluesky_edgestem.stream.series import Frame, Series
from bluesky_edgestem.stream.series_file import SeriesFile


def test_the_checksum_is_hdf5s(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w", libver="latest") as file:
        file["x"] = np.arange(100)
    head = (tmp_path / "file.h5").read_bytes()[:48]
    assert struct.unpack("<I", head[44:])[0] == lookup3(head[:44])
    assert lookup3(b"Four score and seven years ago") == 0x17770551  # as in lookup3.c


def left_behind(tmp_path: Path, frames: list[int], expected: int | None) -> Path:
    """The file as the death of its writer would leave it: copied between two flushes."""
    image = np.arange(64, dtype=np.uint16).reshape(8, 8)
    series = Series(3, (8, 8), np.dtype("uint16"), expected)
    file = SeriesFile(tmp_path / "open.h5", series, compress(image), Context())
    file.write(
        Frames.of([Frame(3, number, (compress(image + number),), 0.1 * number, 0.1 * number, 0.0) for number in frames])
    )
    file.flush()
    (tmp_path / "left.h5").write_bytes((tmp_path / "open.h5").read_bytes())
    file.finish([], max(frames) + 1)
    return tmp_path / "left.h5"


@pytest.mark.parametrize(
    ("frames", "expected", "missing"),
    [([0, 1, 2], 3, []), ([0, 2, 3], 6, [1, 4, 5]), ([1, 2], None, [0]), ([0, 1], None, [])],
)
def test_it_opens_for_any_reader_and_says_what_is_missing(
    tmp_path: Path, frames: list[int], expected: int | None, missing: list[int]
) -> None:
    path = left_behind(tmp_path, frames, expected)
    with pytest.raises(OSError, match="already open for write"):
        h5py.File(path, "r")
    total = expected or max(frames) + 1
    assert mend(path) == (len(frames), total)
    with h5py.File(path, "r") as file:
        assert missing_frames(file).tolist() == missing
        assert bool(file["entry"].attrs["complete"]) == (not missing)
        assert b"death" in file["/entry/instrument/detector"].attrs["ended"]
        for number in frames:
            assert file["/entry/data/data"][number, 0, 0] == number
    assert mend(path)[0] == len(frames), "a second time changes nothing"


@pytest.mark.parametrize("names", [["other"], ["entry/data/data"]])
def test_another_programs_file_is_as_it_was(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "other.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for name in names:
            file[name] = np.arange(4)
        file.swmr_mode = True
        file.flush()
        left = path.read_bytes()  # as the death of its writer would leave it
    path.write_bytes(left)
    with pytest.raises(ValueError, match="it is no file of a recorded series"):
        mend(path)
    assert path.read_bytes() == left


def test_what_is_no_such_file_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.h5").write_text("no HDF5" * 20)
    assert main([str(tmp_path / "text.h5")]) == 1
    assert "is no HDF5 file that was open for others to read" in capsys.readouterr().err
    assert (tmp_path / "text.h5").read_text() == "no HDF5" * 20
    assert main([str(tmp_path / "none.h5")]) == 1


def test_a_file_that_is_still_written_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = np.arange(64, dtype=np.uint16).reshape(8, 8)
    file = SeriesFile(tmp_path / "open.h5", Series(3, (8, 8), np.dtype("uint16"), 2), compress(image), Context())
    file.write(Frames.of([Frame(3, 0, (compress(image),), 0.0, 0.1, 0.1)]))
    file.flush()
    before = (tmp_path / "open.h5").read_bytes()
    assert main([str(tmp_path / "open.h5")]) == 1
    assert "is open in another program: end its recording" in capsys.readouterr().err
    assert (tmp_path / "open.h5").read_bytes() == before
    file.write(Frames.of([Frame(3, 1, (compress(image),), 0.1, 0.2, 0.1)]))
    file.finish([], 2)
    assert mend(tmp_path / "open.h5") == (2, 2)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    path = left_behind(tmp_path, [0, 2], 3)
    assert mend(path) == (2, 3)
    with h5py.File(path, "r") as file:
        assert missing_frames(file).tolist() == [1]
