"""A microscope of coils and beam over EPICS, and a DECTRIS detector over its own interface, flown by `raster_map`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 -- registers bitshuffle
import numpy as np
import pytest

from bluesky_edgestem.geometry import FieldOfView, ScanGrid
from bluesky_edgestem.sim.launch import MicroscopeProcess
from bluesky_edgestem.sim.simplon_frames import draw
from bluesky_edgestem.sim.simplon_launch import SimplonProcess
from bluesky_edgestem.stream.nexus import missing_frames

pytestmark = pytest.mark.system

IMAGES = np.array(draw("disks", 64, 16, 64, 0, 1e4))
GRID = ScanGrid(FieldOfView(-20.0, -10.0, 40.0, 30.0), 8, 5).positions


@pytest.fixture(scope="module")
def scanner(ioc: MicroscopeProcess, client_class: type) -> Iterator:
    """Calls the functions of simplon_runs.py."""
    client = client_class(str(Path(__file__).parent / "simplon_runs.py"), ioc.client_env)
    yield client
    client.close()


def path_of(documents: list) -> Path:
    return Path(next(d["uri"] for n, d in documents if n == "stream_resource").removeprefix("file://localhost"))


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_a_raster(ioc, scanner, tmp_path: Path, protocol: str) -> None:
    with SimplonProcess(pixels=64, rate=500, protocol=protocol, drop=[7]) as detector:
        host = f"127.0.0.1:{detector.api_port}"
        call = ("raster", ioc.prefix, host, detector.address, str(tmp_path), 8, 5)
        documents, error, _, blanked = scanner.call(*call, 5e-4, 0.1)
        assert (error, blanked) == ("", True)
        keys = next(d for n, d in documents if n == "descriptor")["data_keys"]
        assert list(keys) == ["detector", "detector_x", "detector_y"]
        config = next(d for n, d in documents if n == "descriptor")["configuration"]["microscope"]["data"]
        assert config["microscope_detector_cam_count_time"] == 5e-4
        assert config["microscope_detector_cam_trigger_mode"] == "exts"
        stop = documents[-1][1]
        assert (stop["exit_status"], stop["num_events"]) == ("success", {"primary": 40, "series": 1})
        event = next(d for n, d in documents if n == "event")["data"]
        assert event["microscope_detector_outcome_missing"] == "7"
        with h5py.File(path_of(documents)) as file:
            frames = file["/entry/data/data"][:]
            attributes = file["/entry/instrument/NDAttributes"]
            np.testing.assert_array_equal(np.column_stack([attributes["ScanX"][:], attributes["ScanY"][:]]), GRID)
        expected = IMAGES[:40].copy()
        expected[7] = 0
        np.testing.assert_array_equal(frames, expected)


def test_a_detector_that_vanishes_ends_the_map_and_blanks(ioc, scanner, tmp_path: Path) -> None:
    with SimplonProcess(pixels=64, rate=10) as detector:
        host = f"127.0.0.1:{detector.api_port}"
        scanner.start("raster", ioc.prefix, host, detector.address, str(tmp_path), 8, 50, 0.05)
        scanner.told(20)
        detector.process.kill()
        killed = time.time()
        documents, error, ended, blanked = scanner.result(20)
        assert ended - killed < 20
        assert "lost the detector" in error and host in error and blanked
        assert documents[-1][1]["exit_status"] == "fail"


def test_a_dwell_time_outside_the_limits_arms_nothing(ioc, scanner, tmp_path: Path) -> None:
    with SimplonProcess(pixels=64, rate=500) as detector:
        host = f"127.0.0.1:{detector.api_port}"
        call = ("raster", ioc.prefix, host, detector.address, str(tmp_path), 8, 5)
        documents, error, _, blanked = scanner.call(*call, 5000.0)
        assert "count_time cannot be 5000.0 s; the detector allows from 5e-08 up to 3600 s" in error and blanked
        assert not [name for name, _ in documents if name.startswith("stream")]
        assert detector.get("detector/status/state") == "idle"
        assert scanner.call(*call)[1] == "", "and the next map works"


@pytest.mark.parametrize(("fault", "missing"), [({"drop": [7]}, "7"), ({"cut": 25}, "25 to 39")])
def test_a_map_that_lacks_more_than_it_may_fails_and_names_it(
    ioc, scanner, tmp_path: Path, fault: dict, missing: str
) -> None:
    with SimplonProcess(pixels=64, rate=500, **fault) as detector:
        host = f"127.0.0.1:{detector.api_port}"
        documents, error, _, blanked = scanner.call("raster", ioc.prefix, host, detector.address, str(tmp_path), 8, 5)
    count = len(fault.get("drop", range(25, 40)))
    assert f"{count} of the 40 frames of series 1 are missing: {missing}" in error and blanked
    stop = documents[-1][1]
    assert stop["exit_status"] == "fail" and f"missing: {missing}" in stop["reason"]
    event = next(d for n, d in documents if n == "event")["data"]
    assert event["microscope_detector_outcome_missing"] == missing
    with h5py.File(path_of(documents)) as file:
        assert len(missing_frames(file)) == count and file["/entry/data/data"].shape[0] == 40


@pytest.mark.parametrize("armed", ["while paused", "afterwards"])
@pytest.mark.parametrize("then", ["resume", "abort"])
def test_a_map_that_is_paused_while_the_detector_arms(ioc, scanner, tmp_path: Path, then: str, armed: str) -> None:
    with SimplonProcess(pixels=64, rate=500, manual=True) as detector:
        host = f"127.0.0.1:{detector.api_port}"
        call = ("paused_while_arming", ioc.prefix, host, detector.address, str(tmp_path), 8, 5, then, armed)
        documents, in_pause, at_end = scanner.call(*call, timeout=180)
        assert in_pause == ("Blanked", "ready" if armed == "while paused" else "idle", False)
        assert at_end == ("Blanked", "idle", then == "resume"), "what is armed after the abort is disarmed"
        stop = documents[-1][1]
        assert stop["exit_status"] == ("success" if then == "resume" else "abort")
        if then == "resume":
            assert stop["num_events"]["primary"] == 40
            with h5py.File(path_of(documents)) as file:
                np.testing.assert_array_equal(file["/entry/data/data"][:], IMAGES[:40])


def columns(documents: list, stream: str) -> dict[str, np.ndarray]:
    """Columns of a derived stream, all rows of the run."""
    uid = next(doc["uid"] for name, doc in documents if name == "descriptor" and doc["name"] == stream)
    pages = [doc["data"] for name, doc in documents if name == "event_page" and doc["descriptor"] == uid]
    return {key: np.concatenate([np.asarray(page[key]) for page in pages]) for key in pages[0]}


def test_a_closed_loop_whose_frames_fill_a_file_a_batch(ioc, scanner, tmp_path: Path) -> None:
    with SimplonProcess(pixels=64, rate=500) as detector:
        host = f"127.0.0.1:{detector.api_port}"
        settings = {"target_sd": 1e-6, "initial": 12, "batch": 8, "max_positions": 28}
        call = ("loop", ioc.prefix, host, detector.address, str(tmp_path), settings)
        documents, error = scanner.call(*call, timeout=240)
    assert error == ""
    stop = documents[-1][1]
    assert stop["exit_status"] == "success"
    assert stop["num_events"] == {
        "primary": 28,
        "series": 3,
        "descriptors": 28,
        "energetics": 28,
        "optimization": 3,
    }
    found = columns(documents, "descriptors")
    assert found["frame"].tolist() == list(range(28))
    paths = [
        Path(doc["uri"].removeprefix("file://localhost"))
        for name, doc in documents
        if name == "stream_resource" and doc["data_key"] == "detector"
    ]
    assert len(set(paths)) == 3
    for path, start, stop in zip(paths, (0, 12, 20), (12, 20, 28), strict=True):
        with h5py.File(path) as file:
            frames = file["/entry/data/data"][:]
            attributes = file["/entry/instrument/NDAttributes"]
            for axis in "XY":
                assert found[axis.lower()][start:stop].tolist() == attributes[f"Scan{axis}"][:].tolist()
        np.testing.assert_array_equal(frames, IMAGES[: stop - start])
        # Which frame a descriptor is of stands in its strain.
        assert found["exx"][start:stop].tolist() == (frames.sum((1, 2)) * 1e-6).tolist()
    energies = columns(documents, "energetics")
    assert sorted(energies["frame"].tolist()) == list(range(28)) and np.isfinite(energies["energy"]).all()
    assert columns(documents, "optimization")["batch"].tolist() == [1, 2, 3]
