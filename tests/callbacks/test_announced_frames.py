"""A file of frames is opened as soon as its writer lets readers in."""

import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from bluesky_edgestem.callbacks.announced_frames import CompleteFrames


def complete(path: Path) -> CompleteFrames:
    return CompleteFrames(path, True, ("data",), 0, 3, 0)


def test_a_file_that_its_writer_adds_to_for_a_moment_is_opened_after_it(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        file["data"] = np.arange(3)
    # As the recorder does in the same process at the end of a series that lacks frames.
    writer = h5py.File(tmp_path / "a.h5", "r+", libver="latest", locking=False)
    with pytest.raises(OSError, match="locking flag values don't match"):
        h5py.File(tmp_path / "a.h5", "r", swmr=True)
    threading.Timer(0.3, writer.close).start()
    with complete(tmp_path / "a.h5").opened() as file:
        assert file["data"][:].tolist() == [0, 1, 2]


def test_a_file_that_is_not_there_is_told_at_once(tmp_path):
    began = time.monotonic()
    with pytest.raises(FileNotFoundError):
        complete(tmp_path / "b.h5").opened()
    assert time.monotonic() - began < 1
