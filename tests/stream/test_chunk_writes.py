"""Chunks are written by compiled code as h5py writes them, and refused in its words."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from bluesky_edgestem.stream import chunk_writes
from bluesky_edgestem.stream.chunk_writes import write_chunks

IMAGES = np.arange(6 * 4 * 5, dtype=np.uint16).reshape(6, 4, 5)


@pytest.fixture(params=["compiled", "h5py"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are written in either way."""
    if request.param == "h5py":
        monkeypatch.setattr(chunk_writes, "HDF5", None)


def write(dataset: h5py.Dataset, numbers: list[int], mask: int = 0) -> None:
    data = np.frombuffer(b"".join(IMAGES[number].tobytes() for number in range(6)), np.uint8)
    begins = np.array(numbers) * IMAGES[0].nbytes
    write_chunks(dataset, np.array(numbers), data, begins, begins + IMAGES[0].nbytes, mask)


def test_hdf5_can_be_reached() -> None:
    """Where it cannot, nothing fails, and everything is slow."""
    assert chunk_writes.HDF5 is not None and all(chunk_writes.HDF5)


@pytest.mark.parametrize("mask", [0, 1])
def test_chunks_lie_where_they_belong(tmp_path: Path, either_way: None, mask: int) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", (6, 4, 5), "u2", chunks=(1, 4, 5), compression="gzip" if mask else None)
        write(dataset, [4, 0, 5], mask)
        write(dataset, [])
        for number in range(6):
            held = IMAGES[number] if number in (0, 4, 5) else np.zeros((4, 5))
            np.testing.assert_array_equal(dataset[number], held)
        assert dataset.id.read_direct_chunk((4, 0, 0)) == (mask, IMAGES[4].tobytes())


def test_what_hdf5_refuses_is_an_error_and_what_came_before_is_written(tmp_path: Path, either_way: None) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", (3, 4, 5), "u2", chunks=(1, 4, 5))
        with pytest.raises((OSError, RuntimeError, ValueError)):
            write(dataset, [2, 1, 5, 0])
        np.testing.assert_array_equal(dataset[:], [np.zeros((4, 5)), IMAGES[1], IMAGES[2]])
