"""The detector's file, read while it is written."""

from __future__ import annotations

import subprocess
import sys

import h5py
import numpy as np
import pytest

from bluesky_edgestem.sim.hdf5_writer import FrameFile, cause


def test_a_reader_sees_each_frame_as_it_is_written(tmp_path):
    path = tmp_path / "frames.h5"
    file = FrameFile(path, (4, 6), np.dtype("u2"))
    with h5py.File(path, "r", swmr=True) as reader:
        frames, x = reader["/entry/data/data"], reader["/entry/instrument/NDAttributes/ScanX"]
        for n in range(3):
            file.append(np.full((4, 6), n, np.uint16), 1.5 * n, -n)
            for dataset in (frames, x):
                dataset.refresh()
            assert len(frames) == len(x) == n + 1
            assert (frames[n] == n).all() and x[n] == 1.5 * n
    file.close()
    with h5py.File(path) as reader:
        assert reader["/entry/data/data"].chunks == (1, 4, 6)
        y = reader["/entry/instrument/NDAttributes/ScanY"]
        assert y[:].tolist() == [0, -1, -2] and y.attrs["units"] == "nm"


@pytest.mark.parametrize(("compression", "filters"), [("None", []), ("zlib", [1]), ("BSLZ4", [32008])])
def test_compressions(tmp_path, compression, filters):
    path = tmp_path / "frames.h5"
    file = FrameFile(path, (4, 4), np.dtype("u2"), compression)
    file.append(np.arange(16, dtype=np.uint16).reshape(4, 4), 0, 0)
    file.close()
    with h5py.File(path) as reader:
        plist = reader["/entry/data/data"].id.get_create_plist()
        assert [plist.get_filter(i)[0] for i in range(plist.get_nfilters())] == filters
        assert reader["/entry/data/data"][0].ravel().tolist() == list(range(16))


def test_a_file_is_never_overwritten(tmp_path):
    (tmp_path / "frames.h5").write_text("precious")
    with pytest.raises(FileExistsError):
        FrameFile(tmp_path / "frames.h5", (4, 4), np.dtype("u2"))
    assert (tmp_path / "frames.h5").read_text() == "precious"


def test_a_full_disk_keeps_what_was_flushed_and_says_so(tmp_path):
    """In a process of its own: the limit holds for a whole process, and cannot be raised again."""
    script = f"""
import os, resource, sys
from pathlib import Path
import numpy as np
from bluesky_edgestem.sim.hdf5_writer import FrameFile, cause
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
file = FrameFile(Path({str(tmp_path)!r}) / "frames.h5", (64, 64), np.dtype("u2"), "None")
n = 0
try:
    while n < 1000:
        file.append(np.full((64, 64), n, np.uint16), n, n)
        n += 1
except (OSError, RuntimeError) as error:
    file.abandon()
    print(n, cause(error))
    sys.stdout.flush()
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    n, _, why = done.stdout.strip().partition(" ")
    assert why == "File too large"
    with h5py.File(tmp_path / "frames.h5", "r", swmr=True) as reader:
        frames = reader["/entry/data/data"]
        assert len(frames) >= int(n) > 5
        assert [int(frames[i].mean()) for i in range(int(n))] == list(range(int(n)))


def test_a_cause_without_hdf5_is_the_systems():
    assert cause(FileNotFoundError(2, "No such file or directory")) == "No such file or directory"
    assert cause(RuntimeError("plain")) == "plain"
