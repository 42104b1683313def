"""Whole runs into a real Tiled server and back, with the faults that must lose nothing."""

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import h5py
import hdf5plugin
import numpy as np
import pytest
from bluesky import RunEngine
from event_model import compose_stream_resource
from ophyd.status import Status

from bluesky_edgestem.catalog.errors import CatalogError, JournalError
from bluesky_edgestem.catalog.journal import Journal, encode, pending
from bluesky_edgestem.catalog.read import broker
from bluesky_edgestem.catalog.replay import replay
from bluesky_edgestem.catalog.search import find, search
from bluesky_edgestem.catalog.server import CatalogServer
from bluesky_edgestem.catalog.writer import CatalogWriter

pytestmark = pytest.mark.system

SIDE, GRID, BATCH, BATCHES = 32, 48, 6, 3
TOTAL = BATCH * BATCHES
Documents = list[tuple[str, dict[str, Any]]]


class Frames:
    """A detector that flies: bitshuffle-lz4 frames and the coils' readback into one SWMR file."""

    name, parent = "detector", None
    datasets = (
        ("detector", "/entry/data/data", (SIDE, SIDE), "<u2", (1, SIDE, SIDE)),
        ("detector_x", "/entry/instrument/NDAttributes/ScanX", (), "<f8", (64,)),
        ("detector_y", "/entry/instrument/NDAttributes/ScanY", (), "<f8", (64,)),
    )

    def __init__(self, path: Path) -> None:
        self.uri = f"file://localhost{path}"
        self.file = h5py.File(path, "w", libver="latest")
        self.written = self.sent = 0
        for _, dataset, shape, dtype, chunks in self.datasets:
            self.file.create_dataset(
                dataset,
                (0, *shape),
                dtype,
                maxshape=(None, *shape),
                chunks=chunks,
                **hdf5plugin.Bitshuffle(cname="lz4"),
            )
        self.file.swmr_mode = True
        self.resources = [
            compose_stream_resource(
                mimetype="application/x-hdf5",
                uri=self.uri,
                data_key=key,
                parameters={"dataset": dataset, "swmr": True, "chunk_shape": chunks},
            )
            for key, dataset, _, _, chunks in self.datasets
        ]

    def expose(self, *arrays: np.ndarray) -> None:
        self.written += len(arrays[0])
        for (_, dataset, *_), values in zip(self.datasets, arrays, strict=True):
            self.file[dataset].resize(self.written, axis=0)
            self.file[dataset][-len(values) :] = values
            self.file[dataset].flush()

    def describe_collect(self) -> dict[str, Any]:
        return {
            key: {
                "source": self.uri,
                "dtype": "array" if shape else "number",
                "shape": list(shape),
                "dtype_numpy": dtype,
                "external": "STREAM:",
            }
            for key, _, shape, dtype, _ in self.datasets
        }

    def get_index(self) -> int:
        return self.written

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, Any]]:
        for bundle in self.resources:
            if not self.sent:
                yield "stream_resource", bundle.stream_resource_doc
            yield "stream_datum", bundle.compose_stream_datum({"start": self.sent, "stop": self.written})
        self.sent = self.written

    def kickoff(self) -> Status:
        status = Status()
        status.set_finished()
        return status

    complete = kickoff

    def read_configuration(self) -> dict[str, Any]:
        return {}

    describe_configuration = read_configuration


class Row:
    """Gives what it was told as one reading."""

    parent = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.row: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        return {key: {"value": value, "timestamp": time.time()} for key, value in self.row.items()}

    def describe(self) -> dict[str, Any]:
        kinds = {int: ("integer", "<i8"), float: ("number", "<f8"), str: ("string", "<U0")}
        keys = {}
        for key, value in self.row.items():
            dtype, dtype_numpy = kinds.get(float if key == "wall_s" else type(value), ("array", "<f8"))
            shape = list(np.shape(value))
            keys[key] = {"source": "test", "dtype": dtype, "dtype_numpy": dtype_numpy, "shape": shape}
        return keys

    def read_configuration(self) -> dict[str, Any]:
        return {}

    describe_configuration = read_configuration


def loop(path: Path, after_batch: Callable[[int], None] = lambda batch: None, **md: Any) -> Any:
    """A run as the adaptive plan makes it, with numbers from a fixed seed."""
    rng = np.random.default_rng(1)
    detector = Frames(path)
    energetics, optimization = Row("energetics"), Row("optimization")

    def publish(stream: Row, **row: Any) -> Any:
        stream.row = row
        yield from bps.create(name=stream.name)
        yield from bps.read(stream)
        yield from bps.save()

    def close() -> Any:
        detector.file.close()
        yield from bps.null()

    @bpp.finalize_decorator(close)
    @bpp.run_decorator(md={"plan_name": "adaptive_map", "sample": "MoS2", "target_sd": 0.015, **md})
    def inner() -> Any:
        yield from bps.declare_stream(detector, name="primary", collect=True)
        yield from bps.kickoff(detector, wait=True)
        for batch in range(BATCHES):
            xy = rng.uniform(0, 100, (2, BATCH))
            detector.expose(rng.poisson(5, (BATCH, SIDE, SIDE)).astype("u2"), *xy)
            yield from bps.collect(detector, name="primary")
            for frame in range(batch * BATCH, (batch + 1) * BATCH):
                reason = "SCF did not converge" if frame == 4 else ""
                energy = float("nan") if reason else rng.normal()
                # A float by its data key, but whole at first: the table must take the fractions that follow.
                wall_s = frame / 8 if frame >= BATCH else frame
                yield from publish(energetics, frame_done=frame, energy=energy, wall_s=wall_s, reason=reason)
            maps = rng.normal(size=(2, GRID, GRID))
            yield from publish(optimization, batch=batch, energy_mean=maps[0], energy_sd=maps[1])
            after_batch(batch)

    return (yield from inner())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CatalogServer]:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "frames").mkdir()
    with CatalogServer(folder / "catalog", frames=[folder / "frames"]) as running:
        yield running


@pytest.fixture
def engine() -> RunEngine:
    return RunEngine({}, call_returns_result=False)


@pytest.fixture
def frames(server: CatalogServer, request: pytest.FixtureRequest) -> Path:
    return server.directory.parent / "frames" / f"{request.node.name.replace('/', '-')}.h5"


@pytest.fixture
def documents(engine: RunEngine) -> Documents:
    seen: Documents = []
    engine.subscribe(lambda name, doc: seen.append((name, doc)))
    return seen


def events(documents: Documents, key: str) -> list[dict[str, Any]]:
    return [doc["data"] for name, doc in documents if name == "event" and key in doc["data"]]


def assert_all_there(run: Any, documents: Documents, path: Path) -> None:
    """Every document of the run is in the catalog, and every number equal."""
    back = list(run.documents())
    counts = Counter(name for name, _ in back)
    assert (
        counts["event"] == len(events(documents, "energy")) + len(events(documents, "energy_mean")) == TOTAL + BATCHES
    )
    assert counts["descriptor"] == counts["stream_resource"] == counts["stream_datum"] == 3
    assert dict(back[0][1]) == json.loads(json.dumps(documents[0][1]))
    assert dict(back[-1][1]) == documents[-1][1]
    np.testing.assert_equal(events(back, "energy"), events(documents, "energy"))
    assert run["energetics"].read()["wall_s"].dtype == np.float64
    for key in ("energy_mean", "energy_sd"):
        sent = np.array([data[key] for data in events(documents, key)])
        np.testing.assert_array_equal(run["optimization"][key].read(), sent)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(run["primary"]["detector"].read(), file["/entry/data/data"][:])
        np.testing.assert_array_equal(run["primary"]["detector_y"].read(), file[Frames.datasets[2][1]][:])


def test_a_run_comes_back_whole(
    server: CatalogServer, engine: RunEngine, documents: Documents, frames: Path, tmp_path: Path
) -> None:
    client = server.client()
    seen: list[tuple[Any, ...]] = []
    longest = 0.0

    with CatalogWriter(client, tmp_path / "journals") as writer:

        def timed(name: str, doc: dict[str, Any]) -> None:
            nonlocal longest
            begun = time.perf_counter()
            writer(name, doc)
            longest = max(longest, time.perf_counter() - begun)

        def look(batch: int) -> None:
            # The run as a reader sees it while it goes on and its file is still being written.
            assert writer.flush()
            run = client.values().last()
            shape = run["primary"]["detector"].shape
            seen.append(
                (shape, run["primary"]["detector"][shape[0] - 2 :].shape, run["optimization"]["energy_mean"].shape)
            )
            assert len(run["energetics"].read()["energy"]) == shape[0]
            assert len(pending(tmp_path / "journals")) == 1

        engine.subscribe(timed)
        (uid,) = engine(loop(frames, look))
        assert writer.flush()
        assert writer.missing == {}

    assert seen == [((n * BATCH, SIDE, SIDE), (2, SIDE, SIDE), (n, GRID, GRID)) for n in range(1, BATCHES + 1)]
    assert_all_there(client[uid], documents, frames)
    assert pending(tmp_path / "journals") == []
    assert longest < 0.5


def test_a_slice_of_the_frames_fetches_only_that(
    server: CatalogServer, engine: RunEngine, frames: Path, tmp_path: Path
) -> None:
    client = server.client()
    with CatalogWriter(client, tmp_path) as writer:
        engine.subscribe(writer)
        (uid,) = engine(loop(frames))
    detector = client[uid]["primary"]["detector"]
    fetched = []
    send = client.context.http_client.send

    def counted(request: Any, **options: Any) -> Any:
        response = send(request, **options)
        fetched.append(int(response.headers["content-length"]))
        return response

    client.context.http_client.send = counted
    two = detector[3:5]

    assert sum(fetched) < 2 * SIDE * SIDE * 2 + 1000
    with h5py.File(frames) as file:
        np.testing.assert_array_equal(two, file["/entry/data/data"][3:5])


def test_databroker_reads_the_run_and_leaves_other_clients_alone(
    server: CatalogServer, engine: RunEngine, documents: Documents, frames: Path, tmp_path: Path
) -> None:
    client = server.client()
    with CatalogWriter(client, tmp_path) as writer:
        engine.subscribe(writer)
        (uid,) = engine(loop(frames, purpose="databroker"))

    db = broker(client)
    energetics = db[uid].table("energetics")

    np.testing.assert_equal(energetics["energy"].to_numpy(), [data["energy"] for data in events(documents, "energy")])
    assert [header.start["uid"] for header in db(purpose="databroker")] == [uid]
    assert len(db[uid].table("primary")) == 0  # what is in files is not in events
    assert len(db[uid].table("primary", fields=["detector_x"], fill=True)) == TOTAL
    with h5py.File(frames) as file:
        np.testing.assert_array_equal(np.array(list(db[uid].data("detector"))), file["/entry/data/data"][:])
    assert client[uid]["primary"]["detector"].shape == (TOTAL, SIDE, SIDE)
    assert server.client()[uid]["primary"]["detector"].shape == (TOTAL, SIDE, SIDE)


def test_search_by_any_metadata(server: CatalogServer, engine: RunEngine, tmp_path: Path) -> None:
    client = server.client()

    def empty(**md: Any) -> Any:
        yield from bps.open_run({"series": "search", **md})
        yield from bps.close_run(exit_status=md.get("ends", "success"))

    with CatalogWriter(client, tmp_path) as writer:
        engine.subscribe(writer)
        (a,) = engine(empty(plan_name="adaptive_map", sample="MoS2", sd=0.015, beam={"energy_keV": 80}, flag=True))
        (b,) = engine(
            empty(sample="WS2", sd=1, beam={"energy_keV": 200.0}, note="the grain-boundary, left", flag=False)
        )
        last = {"beam": {"energy_keV": 300}, "material": ["MoS2", "WS2"], "beam shift": 3}
        (c,) = engine(empty(sample="WS2", sd="high", ends="fail", **last))

    def found(*terms: str) -> list[str]:
        return [run.uid for run in search(client, "series=search", *terms)]

    assert found() == [c, b, a]
    assert found("sample=MoS2") == [a]
    assert found("sample!=MoS2") == [c, b]
    assert found("sd<0.02") == [a]
    assert found("sd>0.001") == [b, a]  # and not "high"
    assert found("sd>=h") == [c]
    assert found("sd=1.0") == [b]
    assert found("beam.energy_keV>=200") == [c, b]
    assert found("beam.energy_keV=200", "sample=WS2") == [b]
    assert found("flag=false") == [b]
    assert found("beam shift=3") == [c]
    assert found("material=MoS2") == []
    assert found("material~MoS2") == found("material~WS2") == [c]
    assert found("sample~S2") == [c, b, a]
    assert found("note~grain-boundary") == [b]
    assert found("grain-boundary") == [b]
    assert found("boundary left") == [b]
    assert found("boundaries") == []
    assert found("stop.exit_status=fail") == [c]
    assert [run.metadata["start"]["uid"] for run in find(client, "series=search", "sample=WS2").values()] == [c, b]
    first = search(client, "series=search", "sample=MoS2", limit=1)[0]
    assert (first.plan, first.sample, first.positions, first.exit_status) == ("adaptive_map", "MoS2", 0, "success")
    assert len(search(client, "series=search", limit=2)) == 2


def test_a_server_killed_in_mid_run_loses_nothing(engine: RunEngine, documents: Documents, tmp_path: Path) -> None:
    frames, journals = tmp_path / "frames.h5", tmp_path / "catalog" / "journals"

    def kill(batch: int) -> None:
        if batch == 1:
            assert writer.flush()
            os.kill(server.pid, signal.SIGKILL)

    server = CatalogServer(tmp_path / "catalog", frames=[tmp_path]).start()
    try:
        writer = CatalogWriter(server.client(), journals)
        engine.subscribe(writer)
        (uid,) = engine(loop(frames, kill))
        assert not writer.flush(timeout=20)
        assert list(writer.missing) == [uid]
        assert "is gone" in writer.missing[uid]
        writer.close()
    finally:
        server.stop()
    assert [path.stem for path in pending(journals)] == [uid]

    with CatalogServer(tmp_path / "catalog") as again:  # the frames' folder is remembered
        client = again.client()
        half = client[uid]
        assert "stop" not in half.metadata
        assert half["primary"]["detector"].shape[0] == 2 * BATCH

        assert [(done.uid, done.outcome) for done in replay(journals, client)] == [(uid, "written")]

        assert_all_there(client[uid], documents, frames)
        assert pending(journals) == []
        assert replay(journals, client) == []

        # The journal of a run that the catalog has: nothing to do.
        copy = Journal(journals, uid)
        for name, doc in documents:
            copy.append(encode(name, doc), sync=False)
        assert [done.outcome for done in replay(journals, client)] == ["under way"]
        copy.close()
        assert [done.outcome for done in replay(journals, client)] == ["already there"]
        assert_all_there(client[uid], documents, frames)
        assert frames.exists()


def test_a_run_whose_process_died_is_replayed_as_aborted(
    server: CatalogServer, engine: RunEngine, documents: Documents, frames: Path, tmp_path: Path
) -> None:
    (uid,) = engine(loop(frames))
    lost = Journal(tmp_path, uid)
    for name, doc in documents[:-1]:
        lost.append(encode(name, doc), sync=False)
    lost.append(b'["stop", {"exit_st', sync=True)
    lost.close()
    (tmp_path / "damaged.jsonl").write_text("no journal\n")

    outcomes = {done.uid: done for done in replay(tmp_path, server.client())}

    assert outcomes[uid].outcome == "written"
    assert outcomes["damaged"].outcome == "failed"
    assert "Line 1 of the journal" in outcomes["damaged"].reason
    assert [path.stem for path in pending(tmp_path)] == ["damaged"]
    run = server.client()[uid]
    assert run.metadata["stop"]["exit_status"] == "abort"
    assert run.metadata["stop"]["num_events"] == {"primary": TOTAL, "energetics": TOTAL, "optimization": BATCHES}
    assert len(run["energetics"].read()["energy"]) == TOTAL


def test_a_server_that_hangs_does_not_hold_the_run(
    server: CatalogServer, engine: RunEngine, documents: Documents, frames: Path, tmp_path: Path
) -> None:
    client = server.client()
    with CatalogWriter(client, tmp_path) as writer:
        engine.subscribe(writer)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            (uid,) = engine(loop(frames))
            assert time.monotonic() - begun < 5
            assert not writer.flush(timeout=0.5)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert writer.flush()
    assert_all_there(client[uid], documents, frames)


def test_a_server_that_is_down_at_the_start_is_an_error(tmp_path: Path, server: CatalogServer) -> None:
    client = server.client()
    context = client.context
    context.api_uri = "http://127.0.0.1:9/api/v1/"
    with pytest.raises(CatalogError, match=r"No Tiled server answers at http://127\.0\.0\.1:9"):
        CatalogWriter(client, tmp_path)
    assert pending(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder with room for 64 KiB and the system's word for it: a real full disk where that can be had."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") and subprocess.run(mount, capture_output=True).returncode == 0:
        yield folder, "No space left on device"
        subprocess.run(["umount", "-l", str(folder)], check=True)
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
        yield folder, "File too large"
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_for_the_journal_stops_the_run(
    server: CatalogServer,
    engine: RunEngine,
    documents: Documents,
    frames: Path,
    small_disk: tuple[Path, str],
) -> None:
    folder, word = small_disk
    client = server.client()
    with CatalogWriter(client, folder) as writer:
        engine.subscribe(writer)
        with pytest.raises(JournalError, match=rf"cannot be written to {folder}.*\({word}\), so the run is stopped"):
            engine(loop(frames))
        assert writer.flush()

    assert documents[-1][0] == "stop"
    assert documents[-1][1]["exit_status"] == "fail"
    uid = documents[0][1]["uid"]
    # The catalog lies on another disk and has everything, so no journal is left behind.
    assert client[uid].metadata["stop"] == documents[-1][1]
    assert len(client[uid]["energetics"].read()["energy"]) == BATCH
    assert pending(folder) == []


def test_metadata_that_cannot_be_recorded_stops_the_run_before_it_begins(
    server: CatalogServer, engine: RunEngine, tmp_path: Path
) -> None:
    moved = []

    def plan() -> Any:
        yield from bps.open_run({"holder": object()})
        moved.append(True)
        yield from bps.close_run()

    with CatalogWriter(server.client(), tmp_path) as writer:
        engine.subscribe(writer)
        with pytest.raises(JournalError, match="'holder' = <object"):
            engine(plan())
        assert writer.flush()
    assert not moved
    assert pending(tmp_path) == []


def test_a_writer_subscribed_too_late_says_so(server: CatalogServer, engine: RunEngine, tmp_path: Path) -> None:
    def plan() -> Any:
        yield from bps.open_run()
        engine.subscribe(writer)
        yield from bps.close_run()

    with CatalogWriter(server.client(), tmp_path) as writer, pytest.raises(JournalError, match="before the run begins"):
        engine(plan())
