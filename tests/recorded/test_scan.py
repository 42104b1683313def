"""A recorded scan, whatever wrote it, is frames with the places they were taken at."""

from __future__ import annotations

import h5py
import httpx
import numpy as np
import pytest

from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.geometry import FieldOfView, ScanGrid
from bluesky_edgestem.recorded.rasters import raster_of
from bluesky_edgestem.recorded.scan import Given, open_file, open_run
from bluesky_edgestem.recorded.selected_frames import SelectedFrames
from bluesky_edgestem.stream.nexus import Context, describe


def test_a_file_is_frames_positions_and_their_raster(write, truth):
    with open_file(write(lost=[3, 40])) as scan:
        assert scan.numbers.tolist() == np.delete(np.arange(96), [3, 40]).tolist()
        assert (scan.frames[:, 0, 0] == scan.numbers + 1).all()
        assert scan.positions == pytest.approx(np.delete(truth.grid.positions, [3, 40], axis=0))
        assert scan.grid == truth.grid
        assert (scan.recorded, scan.scan.optics, scan.start) == (96, None, {})


def test_frames_are_told_by_their_numbers_where_there_are_no_positions(write):
    # 8 rows of 10 points and two frames on the way back.
    path = write(positions=None, lost=[0])
    with open_file(path, Given(shape=(8, 10), step=0.5, flyback=2)) as scan:
        there = [n for n in range(1, 96) if n % 12 < 10]
        assert scan.numbers.tolist() == there
        assert scan.positions[:2].tolist() == [[0.5, 0.0], [1.0, 0.0]]
        assert scan.positions[-1].tolist() == [4.5, 3.5]
        assert scan.grid == ScanGrid(FieldOfView(0.0, 0.0, 4.5, 3.5), 10, 8)


def test_a_raster_of_another_program(tmp_path):
    frames = np.arange(6 * 5 * 4 * 3, dtype=np.uint8).reshape(6, 5, 4, 3)
    with h5py.File(tmp_path / "cube.h5", "w") as file:
        file["/4DSTEM/datacube/data"] = frames
    with open_file(tmp_path / "cube.h5", Given(step=2.0)) as scan:
        assert scan.frames.shape == (30, 4, 3)
        assert np.array_equal(scan.frames[3:17], frames.reshape(30, 4, 3)[3:17])
        assert scan.grid == ScanGrid(FieldOfView(0.0, 0.0, 8.0, 10.0), 5, 6)
    with open_file(tmp_path / "cube.h5") as scan, pytest.raises(ValueError, match="give --step NM"):
        _ = scan.positions


def test_what_a_detectors_series_says_of_beam_and_positions_counts(write, truth):
    optics = Optics(energy_keV=200.0, semiangle_mrad=1.5, pixel_mrad=0.4, n_pixels=32)
    path = write(positions=None)
    with h5py.File(path, "r+") as file:
        file.create_group("entry/instrument")
        describe(file["entry"], Context(truth.grid.positions, optics), (32, 32))
    with open_file(path) as scan:
        assert scan.frames.shape == (96, 32, 32)
        assert scan.positions == pytest.approx(truth.grid.positions)
        told = scan.scan.optics
        assert (told.energy_keV, told.semiangle_mrad, told.n_pixels) == (200.0, 1.5, 32)
        assert told.pixel_mrad == pytest.approx(0.4)
    with open_file(path, Given(pixel_mrad=0.3)) as scan:
        assert (scan.scan.optics.pixel_mrad, scan.scan.optics.energy_keV) == (0.3, 200.0)


@pytest.mark.parametrize("shape", [(30, 4, 3), (6, 5, 4, 3)])
def test_selected_frames_are_indexed_like_an_array(shape):
    source = np.arange(np.prod(shape)).reshape(shape)
    numbers = np.delete(np.arange(30), [0, 7, 8, 21])
    frames, array = SelectedFrames(source, numbers), source.reshape(30, 4, 3)[numbers]
    mask = np.zeros(26, bool)
    mask[[2, 9]] = True
    for key in (slice(None), slice(3, 20, 4), slice(-5, None), [1, 2, 12, 25], np.array([9, 3]), mask, 4, -1):
        assert np.array_equal(frames[key], array[key]), key
    assert np.array_equal(frames[2:9, 1:, 0], array[2:9, 1:, 0])
    assert np.array_equal(frames[5, 2], array[5, 2])
    assert (len(frames), frames.shape, frames.ndim) == (26, (26, 4, 3), 3)
    assert frames[3:3].shape == (0, 4, 3)


def test_a_raster_is_recognised_and_nothing_else():
    grid = ScanGrid(FieldOfView(3.0, -2.0, 9.0, 4.0), 10, 9)
    rng = np.random.default_rng(2)
    assert raster_of(grid.positions) == grid
    shaken = raster_of(rng.permutation(grid.positions + rng.normal(0, 0.01, (90, 2)))[:80])
    assert shaken is not None and shaken.shape == grid.shape
    assert shaken.field.width == pytest.approx(9.0, abs=0.05)
    assert raster_of(rng.uniform(0, 10, (90, 2))) is None
    assert raster_of(grid.positions[:10]) is None  # one line
    assert raster_of(np.repeat(grid.positions, 2, axis=0)) is None
    assert raster_of(np.full((9, 2), np.nan)) is None


def test_what_is_no_scan_is_refused_with_the_reason(write, tmp_path):
    def refused(path, given=None):
        with open_file(path, given) as scan:
            return scan.positions

    with pytest.raises(ValueError, match=r"96 frames of .* have no positions; say on which raster .*--shape NY NX"):
        refused(write(positions=None))
    with pytest.raises(ValueError, match="has no frames"):
        refused(write(frames=0, positions=np.zeros((0, 2))))
    with pytest.raises(ValueError, match="has no frames: none of the 4 came"):
        refused(write(frames=4, lost=range(4), positions=np.zeros((4, 2))))
    with pytest.raises(ValueError, match=r"frames are float32 and hold no counts: .* export the counts as integers"):
        refused(write(dtype=np.float32, offset=0.5))
    with pytest.raises(ValueError, match="frames are complex64"):
        refused(write(dtype=np.complex64))
    with pytest.raises(ValueError, match="96 frames and 90 positions"):
        refused(write(positions=np.zeros((90, 2))))
    with pytest.raises(ValueError, match="more than the 8 x 10 of the raster: correct --shape"):
        refused(write(), Given(shape=(8, 10), step=1.0))
    with pytest.raises(ValueError, match="give its --shape NY NX, too"):
        refused(write(), Given(step=1.0))
    with pytest.raises(ValueError, match="at least 2 x 2 points, got 1 x 96"):
        refused(write(), Given(shape=(1, 96), step=1.0))
    with pytest.raises(ValueError, match="no dataset /entry/other; there are /entry/data/data: say which by --dataset"):
        refused(write(), Given(dataset="/entry/other"))
    with pytest.raises(ValueError, match=r"has the shape \(96,\); a scan is"):
        refused(write(), Given(dataset="/entry/instrument/NDAttributes/ScanX"))
    with pytest.raises(ValueError, match="give both"):
        refused(write(), Given(pixel_mrad=0.3))
    with pytest.raises(FileNotFoundError, match="there is no file"):
        refused(tmp_path / "absent.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(OSError, match="is no HDF5 file: export the frames as HDF5"):
        refused(tmp_path / "text.h5")
    with pytest.raises(OSError, match="is a folder: name an HDF5 file in it"):
        refused(tmp_path)
    with h5py.File(tmp_path / "image.h5", "w") as file:
        file["image"] = np.zeros((50, 40))
    with pytest.raises(ValueError, match=r"no frames, \(frames, ny, nx\) or .*; it holds /image \(50, 40\)"):
        refused(tmp_path / "image.h5")
    (tmp_path / "cut.h5").write_bytes(write().read_bytes()[:2000])
    with pytest.raises(OSError, match=r"cannot be opened as HDF5 .*`edgestem stream mend"):
        refused(tmp_path / "cut.h5")
    with pytest.raises(ValueError, match=r"none of the 96 positions of .* is a number"):
        refused(write(positions=np.full((96, 2), np.nan)))
    with h5py.File(tmp_path / "four.h5", "w") as file:
        file["a"] = np.zeros((4, 6, 32, 32), np.uint8)
    with pytest.raises(ValueError, match="has 4 rows of 6 frames, not 6 of 4: correct --shape"):
        refused(tmp_path / "four.h5", Given(shape=(6, 4), step=1.0))
    for shape in ((4, 5), None):
        with open_file(tmp_path / "four.h5", Given(shape=shape, flyback=1)) as scan:
            assert scan.frames.shape == (20, 32, 32) and scan.numbers[5] == 6
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"] = np.zeros((3, 4, 5), np.uint8), np.zeros((3, 8, 5), np.uint8)
    with pytest.raises(ValueError, match="more than one series of frames; there are /a, /b"):
        refused(tmp_path / "two.h5")
    with open_file(tmp_path / "two.h5", Given(dataset="b", shape=(2, 2), step=1.0)) as scan:
        assert scan.frames.shape == (3, 8, 5)


def test_a_frame_whose_position_is_no_number_is_on_no_map(write, truth):
    positions = truth.grid.positions.copy()
    positions[7, 1] = np.nan
    with open_file(write(positions=positions)) as scan:
        assert 7 not in scan.numbers and len(scan.frames) == 95 and scan.recorded == 96
        assert scan.grid is not None and scan.grid.shape == truth.grid.shape


class Node(dict):
    """Part of a catalog."""

    def __init__(self, metadata=None, **inside):
        super().__init__(inside)
        self.metadata = metadata or {}


class Gone:
    """Frames whose file is not there any more."""

    shape, dtype = (4, 32, 32), np.dtype(np.uint16)

    def __getitem__(self, part):
        raise httpx.HTTPError("500 Internal Server Error")


def test_a_run_whose_frames_cannot_be_told_or_read_says_so():
    def stream(*keys):
        described = {k: {"external": "STREAM:", "shape": [32, 32]} for k in keys}
        return Node({"data_keys": described}, **dict.fromkeys(keys, Gone()))

    def refused(given=None, **streams):
        run = Node({"start": {"uid": "0123456789"}}, **streams)
        with open_run(Node(**{"0123456789": run}), "0123456789", given):
            pass

    with pytest.raises(OSError, match=r"frames of run 01234567 cannot be read .*may have been moved or deleted"):
        refused(primary=stream("detector"))
    with pytest.raises(
        ValueError, match="run 01234567 has more than one series of frames: a, b; say which by --dataset"
    ):
        refused(primary=stream("a"), second=stream("b"))
    with pytest.raises(ValueError, match="run 01234567 has no frames called 'c'"):
        refused(Given(dataset="c"), primary=stream("a"))
    with pytest.raises(ValueError, match="run 01234567 has no frames"):
        refused(primary=Node({"data_keys": {"x": {"shape": []}}}))
    with pytest.raises(ValueError, match="no run 'abc' in this catalog"), open_run(Node(), "abc"):
        pass


@pytest.mark.parametrize(("dtype", "gain"), [(np.uint16, 2), (np.int32, 7), (np.float32, 3)])
def test_frames_that_are_counts_times_a_gain_are_refused(tmp_path, dtype, gain):
    """Read as counts, they would say that noise is the root of the gain less than it is."""
    counts = np.random.default_rng(0).poisson(0.2, (12, 32, 32))
    given = Given(shape=(3, 4), step=1.0)
    for name, frames in (("counts", counts), ("scaled", gain * counts)):
        frames = frames.astype(dtype)
        if np.dtype(dtype).kind == "u":
            frames[:, 3, 3] = np.iinfo(dtype).max  # as detectors mask a pixel
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["data"] = frames
    with open_file(tmp_path / "counts.h5", given) as scan:
        assert len(scan.frames) == 12
    refused = f"all pixels are multiples of {gain}, .* divide the frames by the gain"
    with pytest.raises(ValueError, match=refused), open_file(tmp_path / "scaled.h5", given):
        pass
