"""Frames that went to another file than was asked for are an error, not a file of someone else's frames."""

from __future__ import annotations

from pathlib import PurePosixPath
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from bluesky_edgestem.devices.frame_files import FrameFiles


def files_of(latest: str, told: str, connected: bool = True) -> FrameFiles:
    """Files that asked for /data/asked.h5, of a plugin whose monitor says `latest` and which answers `told`."""
    full_name = SimpleNamespace(pvname="T:FullFileName_RBV", latest=latest, connected=connected, get=Mock())
    full_name.get.return_value = told
    files = FrameFiles(SimpleNamespace(full_name=full_name), "frames", "/data")  # type: ignore[arg-type]
    files._path, files._shape = PurePosixPath("/data/asked.h5"), (4, 4)
    return files


def test_the_file_that_was_asked_for():
    documents = list(files_of("/data/asked.h5", "never asked").documents(2))
    assert [name for name, _ in documents] == ["stream_resource"] * 3 + ["stream_datum"] * 3


def test_a_monitor_that_comes_late_is_not_believed():
    assert list(files_of("/data/before.h5", "/data//asked.h5").documents(1))


def test_another_file_is_an_error_that_names_both():
    with pytest.raises(RuntimeError, match=r"T:FullFileName_RBV is '/data/before.h5', but '/data/asked.h5' was asked"):
        list(files_of("/data/before.h5", "/data/before.h5").documents(1))


def test_a_plugin_that_is_gone_is_not_asked():
    assert list(files_of("", "never asked", connected=False).documents(1)), "what was measured is told of"
