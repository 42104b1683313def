"""Streams of a detector in the catalog: a file that Tiled serves while it grows, live images that come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import h5py
import hdf5plugin  # noqa: F401 -- registers bitshuffle
import numpy as np
import pytest
from bluesky import RunEngine

from bluesky_edgestem.catalog.server import CatalogServer
from bluesky_edgestem.catalog.writer import CatalogWriter
from bluesky_edgestem.devices.simplon.detector import SimplonDetector
from bluesky_edgestem.sim.simplon_frames import draw
from bluesky_edgestem.sim.simplon_launch import SimplonProcess

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

IMAGES = np.array(draw("disks", 64, 16, 64, 0, 1e4))
POSITIONS = np.random.default_rng(4).uniform(-50, 50, (30, 2))
WAIT = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CatalogServer]:
    folder = tmp_path_factory.mktemp("streams")
    (folder / "frames").mkdir()
    with CatalogServer(folder / "catalog", frames=[folder / "frames"]) as running:
        yield running


@pytest.fixture
def frames(server: CatalogServer) -> Path:
    return server.directory.parent / "frames"


def test_a_file_is_served_while_it_grows(server: CatalogServer, frames: Path, tmp_path: Path) -> None:
    client = server.client()
    seen: list[tuple[int, bool]] = []
    failed: list[BaseException] = []
    with (
        SimplonProcess(pixels=64, rate=2000, manual=True) as process,
        CatalogWriter(client, tmp_path, interval=0.2) as writer,
    ):
        detector = SimplonDetector(
            f"127.0.0.1:{process.api_port}",
            name="detector",
            stream=process.address,
            directory=str(frames),
            positions=True,
        )

        def until(done: Any) -> None:
            deadline = time.monotonic() + WAIT
            while not done():
                assert time.monotonic() < deadline, "it takes too long"
                time.sleep(0.05)

        def pulse_and_look() -> None:
            """Ten pulses at a time, and what the server has of the series that is still under way."""
            try:
                until(lambda: process.get("detector/status/state") == "ready")
                for end in (10, 20):
                    process.put("simulator/pulse", 10)
                    until(lambda end=end: told and told[-1] == end)
                    assert writer.flush(WAIT)
                    run = client.values().last()
                    stored = run["primary"]["detector"]
                    np.testing.assert_array_equal(stored[:], IMAGES[:end])
                    np.testing.assert_array_equal(run["primary"]["detector_x"][:], POSITIONS[:end, 0])
                    seen.append((stored.shape[0], detector.flying))
            except BaseException as error:
                failed.append(error)
            finally:
                process.put("simulator/pulse", 30)

        @bpp.stage_decorator([detector])
        @bpp.run_decorator()
        def plan() -> Any:
            yield from bps.declare_stream(detector, name="primary", collect=True)
            yield from bps.prepare(detector, POSITIONS, wait=True)
            yield from bps.kickoff(detector, wait=True)
            yield from bps.collect_while_completing([detector], [detector], flush_period=0.1, stream_name="primary")

        told: list[int] = []
        engine = RunEngine({}, call_returns_result=False)
        engine.subscribe(writer)
        engine.subscribe(lambda name, doc: told.append(doc["indices"]["stop"]), "stream_datum")
        looking = threading.Thread(target=pulse_and_look)
        looking.start()
        (uid,) = engine(plan())
        looking.join()
        assert writer.flush(WAIT) and writer.missing == {}
    assert failed == []
    assert seen == [(10, True), (20, True)]
    np.testing.assert_array_equal(client[uid]["primary"]["detector"][:], IMAGES[:30])
    with h5py.File(next(frames.glob("*.h5"))) as file:
        assert file["entry"].attrs["complete"]


def test_live_images_come_back_from_the_catalog(
    server: CatalogServer, ioc: Any, client_class: type, frames: Path, tmp_path: Path
) -> None:
    scans = client_class(str(Path(__file__).parent / "imaging_runs.py"), ioc.client_env)
    try:
        folder = frames / "imaged"
        folder.mkdir()
        documents, error, recorded, images, _ = scans.call("raster", ioc.prefix, str(folder), 30, 20, timeout=WAIT)
    finally:
        scans.close()
    assert error == ""
    with CatalogWriter(server.client(), tmp_path) as writer:
        for name, doc in documents:
            writer(name, doc)
        assert writer.flush(WAIT) and writer.missing == {}
    run = server.client()[documents[0][1]["uid"]]
    stored = {key: np.ravel(run["imaging"][key].read()) for key in ("frame", "x", "y", "sum", "com_x", "disk", "ring")}
    came = stored["frame"] >= 0
    assert stored["frame"][came].tolist() == list(range(600))
    assert stored["sum"][came].tolist() == recorded.sum((1, 2), dtype=float).tolist()
    for key in ("sum", "com_x", "disk", "ring"):
        assert stored[key][came].tolist() == images.values[key].tolist(), "in the order of a raster without gaps"
    assert np.column_stack([stored["x"], stored["y"]])[came] == pytest.approx(images.positions, abs=1e-6)
    for key in ("divergence", "curl"):
        (stored_map,) = run["imaging_maps"][key].read()
        np.testing.assert_array_equal(stored_map, images.image(key))
    np.testing.assert_array_equal(run["primary"]["detector"][:], recorded)
    assert run["imaging"].metadata["data_keys"]["com_x"]["units"] == "mrad"
