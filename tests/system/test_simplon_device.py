"""A DECTRIS detector flown over its own interface, against the simulated one: documents, frames, faults by name."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import h5py
import hdf5plugin  # noqa: F401 -- registers bitshuffle
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted
from ophyd.utils import LimitError

from bluesky_edgestem.devices.simplon import series
from bluesky_edgestem.devices.simplon.detector import SimplonDetector
from bluesky_edgestem.devices.simplon.rest import DetectorRefused
from bluesky_edgestem.devices.statuses import LostConnection, NamedStatus
from bluesky_edgestem.sim.simplon_frames import draw
from bluesky_edgestem.sim.simplon_launch import SimplonProcess
from bluesky_edgestem.stream.nexus import missing_frames
from bluesky_edgestem.stream.series_file import SeriesFile

pytestmark = pytest.mark.system

DATA = "/entry/data/data"
IMAGES = np.array(draw("disks", 64, 16, 64, 0, 1e4))
POSITIONS = np.random.default_rng(2).uniform(-50, 50, (40, 2))


WAIT = 30.0
"""Time [s] for what takes milliseconds on a machine that does nothing else."""


@pytest.fixture(scope="module", params=["v1", "v2"])
def either(request: pytest.FixtureRequest) -> Iterator[SimplonProcess]:
    """A detector whose triggers come by themselves once it is armed."""
    with SimplonProcess(pixels=64, rate=2000, protocol=request.param) as process:
        yield process


@pytest.fixture(scope="module")
def manual() -> Iterator[SimplonProcess]:
    """A detector that waits for the test's triggers."""
    with SimplonProcess(pixels=64, rate=2000, manual=True) as process:
        yield process


@pytest.fixture(params=["v1", "v2"])
def either_protocol(request: pytest.FixtureRequest) -> str:
    """Of a detector that a test makes itself."""
    return request.param


def device(process: SimplonProcess, directory: Path, **options: Any) -> SimplonDetector:
    return SimplonDetector(
        f"127.0.0.1:{process.api_port}", name="detector", stream=process.address, directory=str(directory), **options
    )


def plan(detector: SimplonDetector, flights: Sequence[Any]):
    """A run that takes each of `flights`."""

    @bpp.stage_decorator([detector])
    @bpp.run_decorator(md={"plan_name": "test"})
    def inner():
        yield from bps.declare_stream(detector, name="primary", collect=True)
        for flight in flights:
            yield from bps.prepare(detector, flight, wait=True)
            yield from bps.kickoff(detector, wait=True)
            done = yield from bps.complete(detector, group="flight", wait=False)
            try:
                while not done.done:
                    yield from bps.wait("flight", timeout=0.1, error_on_timeout=False)
                    yield from bps.collect(detector, name="primary")
                yield from bps.wait("flight")
            finally:
                detector.stop()
                yield from bps.collect(detector, name="primary")
                if detector.outcome.waits:
                    yield from bps.trigger_and_read([detector.outcome], name="series")

    return inner()


def run(detector: SimplonDetector, flights: Sequence[Any]) -> tuple[list[tuple[str, dict]], str]:
    """The documents of a run, and what it raised."""
    documents: list[tuple[str, dict]] = []
    engine = RunEngine()
    engine.subscribe(lambda name, document: documents.append((name, document)))
    error = ""
    try:
        engine(plan(detector, flights))
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    return documents, error


def of(documents: list[tuple[str, dict]], kind: str) -> list[dict]:
    return [document for name, document in documents if name == kind]


def outcomes(documents: list[tuple[str, dict]]) -> list[dict]:
    return [{k.removeprefix("detector_outcome_"): v for k, v in d["data"].items()} for d in of(documents, "event")]


def files(documents: list[tuple[str, dict]]) -> list[Path]:
    return [
        Path(d["uri"].removeprefix("file://localhost"))
        for d in of(documents, "stream_resource")
        if d["data_key"] == "detector"
    ]


def ready(process: SimplonProcess) -> bool:
    return process.get("detector/status/state") == "idle"


def test_masked_pixels_are_recorded_as_zero_not_as_saturated(tmp_path: Path, either_protocol: str) -> None:
    with SimplonProcess(pixels=64, masked=30, protocol=either_protocol) as process:
        assert process.get("detector/config/mask_to_zero") is False
        documents, error = run(device(process, tmp_path), [10])
    assert error == ""
    config = of(documents, "descriptor")[0]["configuration"]["detector"]["data"]
    assert config["detector_cam_mask_to_zero"] is True
    with h5py.File(files(documents)[0]) as file:
        frames = file[DATA][:]
    different = frames != IMAGES[:10]
    assert 0 < different.any(0).sum() <= 30
    assert (frames[different] == 0).all()


def test_documents_of_two_flights(either: SimplonProcess, tmp_path: Path) -> None:
    detector = device(either, tmp_path, positions=True, data_key="detector")
    documents, error = run(detector, [POSITIONS[:25], POSITIONS[25:]])
    assert error == ""
    assert [name for name, _ in documents][:2] == ["start", "descriptor"]
    descriptor = documents[1][1]
    keys = descriptor["data_keys"]
    assert list(keys) == ["detector", "detector_x", "detector_y"]
    assert keys["detector"] == {
        "source": either.address,
        "dtype": "array",
        "dtype_numpy": "<u2",
        "shape": [64, 64],
        "units": "electrons",
        "external": "STREAM:",
        "object_name": "detector",
    }
    for axis in "xy":
        key = keys[f"detector_{axis}"]
        assert (key["dtype_numpy"], key["shape"], key["units"], key["external"]) == ("<f8", [], "nm", "STREAM:")
    config = descriptor["configuration"]["detector"]
    assert config["data"]["detector_cam_trigger_mode"] == "exts"
    assert config["data"]["detector_cam_threshold_energy"] == 40e3
    assert config["data_keys"]["detector_cam_count_time"]["units"] == "s"
    assert config["data_keys"]["detector_cam_frame_time"]["lower_ctrl_limit"] == 8e-6
    assert "detector_cam_photon_energy" not in config["data"], "this detector has none"

    resources = of(documents, "stream_resource")
    assert [d["data_key"] for d in resources] == ["detector", "detector_x", "detector_y"] * 2
    assert [d["parameters"] for d in resources[:3]] == [
        {"dataset": DATA, "swmr": True, "chunk_shape": [1, 64, 64]},
        {"dataset": "/entry/instrument/NDAttributes/ScanX", "swmr": True, "chunk_shape": [256]},
        {"dataset": "/entry/instrument/NDAttributes/ScanY", "swmr": True, "chunk_shape": [256]},
    ]
    assert {d["mimetype"] for d in resources} == {"application/x-hdf5"}
    for resource, n in zip(resources, [25] * 3 + [15] * 3, strict=True):
        data = [d for d in of(documents, "stream_datum") if d["stream_resource"] == resource["uid"]]
        indices = [(d["indices"]["start"], d["indices"]["stop"]) for d in data]
        assert indices[0][0] == 0 and indices[-1][1] == n
        assert [a[1] for a in indices[:-1]] == [b[0] for b in indices[1:]], "neither a gap nor a frame twice"
        assert {d["descriptor"] for d in data} == {descriptor["uid"]}
    for path, start, stop in zip(files(documents), (0, 25), (25, 40), strict=True):
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file[DATA][:], IMAGES[: stop - start])
            assert file[DATA].dtype == np.uint16
            for k, axis in enumerate("XY"):
                scanned = file[f"/entry/instrument/NDAttributes/Scan{axis}"][:]
                np.testing.assert_array_equal(scanned, POSITIONS[start:stop, k])
    assert [(o["frames"], o["missing"], o["ended"]) for o in outcomes(documents)] == [
        (25, "", "end message"),
        (15, "", "end message"),
    ]
    stop = documents[-1][1]
    assert (stop["exit_status"], stop["num_events"]) == ("success", {"primary": 40, "series": 2})
    assert ready(either)


@pytest.mark.parametrize(
    ("mode", "nimages", "ntrigger"),
    [
        ("exts", 1, 20),
        ("exte", 1, 20),
        ("extg", 1, 20),
        ("eies", 1, 21),
        ("ints", 20, 1),
        ("inte", 1, 20),
    ],
)
def test_each_trigger_mode(either: SimplonProcess, tmp_path: Path, mode: str, nimages: int, ntrigger: int) -> None:
    documents, error = run(device(either, tmp_path, trigger_mode=mode), [20])
    assert error == ""
    assert list(of(documents, "descriptor")[0]["data_keys"]) == ["detector"]
    assert [either.get(f"detector/config/{name}") for name in ("nimages", "ntrigger")] == [nimages, ntrigger]
    assert documents[-1][1]["num_events"]["primary"] == 20
    assert [(o["expected"], o["frames"], o["ended"]) for o in outcomes(documents)] == [(20, 20, "end message")]
    with h5py.File(files(documents)[0]) as file:
        np.testing.assert_array_equal(file[DATA][:], IMAGES[:20])
        assert file["entry/instrument/detector/detectorSpecific/trigger_mode"].asstr()[()] in (mode, "")  # v2 has none


def test_a_pulse_that_ends_one_frame_and_begins_the_next(manual: SimplonProcess, tmp_path: Path) -> None:
    detector = device(manual, tmp_path, trigger_mode="eies")
    with pytest.raises(ValueError, match=r"the last position has no pulse after it.*allowed is exts \| exte \| extg"):
        detector.follow(lambda _: None, NamedStatus("flight"))
    detector.stage().wait(WAIT)
    detector.prepare(10).wait(WAIT)
    detector.kickoff().wait(WAIT)
    manual.put("simulator/pulse", 10)
    deadline = time.monotonic() + WAIT
    while detector.get_index() < 9 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (detector.get_index(), detector.complete().done) == (9, False), "ten pulses are nine frames"
    manual.put("simulator/pulse", 1)
    detector.complete().wait(WAIT)
    assert detector.get_index() == 10
    detector.unstage().wait(WAIT)


def test_triggers_that_the_detector_refuses_end_the_run(
    manual: SimplonProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = device(manual, tmp_path, trigger_mode="inte")
    command = detector.rest.command
    given: list[Any] = []

    def refusing(name: str, timeout: float | None = 2.0, value: float | None = None) -> dict[str, Any]:
        if name == "trigger":
            given.append(value)
            if len(given) > 3:
                raise DetectorRefused("no more")
        return command(name, timeout, value)

    monkeypatch.setattr(detector.rest, "command", refusing)
    detector.exposure.set(3e-3).wait(WAIT)
    documents, error = run(detector, [10])
    assert error.endswith(": no more") and documents[-1][1]["exit_status"] == "fail"
    assert given == [3e-3] * 4, "each trigger says how long to expose"
    assert outcomes(documents)[0]["missing"] == "3 to 9"
    assert ready(manual)


def test_a_mode_that_the_detector_does_not_have(tmp_path: Path) -> None:
    with SimplonProcess(pixels=64, api_version="1.6.0") as older:
        status = device(older, tmp_path, trigger_mode="eies").stage()
        with pytest.raises(
            LimitError, match=r"trigger_mode cannot be 'eies'; the detector allows exte \| exts \| inte"
        ):
            status.wait(WAIT)


def test_a_stop_while_it_waits_for_triggers(manual: SimplonProcess, tmp_path: Path) -> None:
    detector = device(manual, tmp_path)
    detector.stage().wait(WAIT)
    detector.prepare(10).wait(WAIT)
    detector.kickoff().wait(WAIT)
    done = detector.complete()
    assert manual.get("detector/status/state") == "ready" and not done.done
    detector.stop()
    done.wait(WAIT)
    assert done.success and detector.get_index() == 0 and list(detector.collect_asset_docs()) == []
    assert ready(manual)
    detector.unstage().wait(WAIT)
    fly_by_pulses(manual, tmp_path)


def pulse_once_armed(process: SimplonProcess, count: int) -> threading.Thread:
    """Pulses on the trigger input as soon as it waits for them: earlier ones would be lost."""

    def pulse() -> None:
        deadline = time.monotonic() + WAIT
        while process.get("detector/status/state") != "ready" and time.monotonic() < deadline:
            time.sleep(0.02)
        process.put("simulator/pulse", count)

    thread = threading.Thread(target=pulse)
    thread.start()
    return thread


def fly_by_pulses(manual: SimplonProcess, tmp_path: Path) -> None:
    """The detector is ready for a series like any other."""
    pulses = pulse_once_armed(manual, 10)
    documents, error = run(device(manual, tmp_path), [10])
    pulses.join()
    assert error == ""
    with h5py.File(files(documents)[0]) as file:
        np.testing.assert_array_equal(file[DATA][:], IMAGES[:10])


def test_an_abort_of_the_run_while_frames_come(manual: SimplonProcess, tmp_path: Path) -> None:
    detector = device(manual, tmp_path)
    documents: list[tuple[str, dict]] = []
    engine = RunEngine(context_managers=[])
    engine.subscribe(lambda name, document: documents.append((name, document)))

    def abort() -> None:
        pulse_once_armed(manual, 7).join()
        deadline = time.monotonic() + WAIT
        while detector.get_index() < 7 and time.monotonic() < deadline:
            time.sleep(0.05)
        engine.abort("enough")

    thread = threading.Thread(target=abort)
    thread.start()
    with pytest.raises(RunEngineInterrupted):
        engine(plan(detector, [10]))
    thread.join()
    stop = documents[-1][1]
    assert stop["exit_status"] == "abort"
    assert stop["num_events"]["primary"] == 7, "what was exposed is in the run"
    assert outcomes(documents)[0]["missing"] == "7 to 9"
    assert ready(manual)
    fly_by_pulses(manual, tmp_path)


def test_a_stop_while_the_file_is_written(
    manual: SimplonProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, free = SeriesFile.write, threading.Event()

    def held(self: SeriesFile, frames: Sequence) -> None:
        free.wait(WAIT)
        write(self, frames)

    monkeypatch.setattr(SeriesFile, "write", held)
    detector = device(manual, tmp_path)
    detector.stage().wait(WAIT)
    detector.prepare(200).wait(WAIT)
    detector.kickoff().wait(WAIT)
    manual.put("simulator/pulse", 200)
    deadline = time.monotonic() + WAIT
    while not ready(manual) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert detector.flying and detector.get_index() == 0
    threading.Timer(0.3, free.set).start()
    detector.stop()
    assert detector.get_index() == 200, "the detector had sent them all"
    detector.unstage().wait(WAIT)
    monkeypatch.undo()
    fly_by_pulses(manual, tmp_path)


def test_a_detector_that_vanishes_ends_the_run(tmp_path: Path) -> None:
    with SimplonProcess(pixels=64, rate=100) as process:
        detector = device(process, tmp_path)
        killed: list[float] = []

        def kill() -> None:
            while detector.get_index() < 20:
                time.sleep(0.02)
            os.kill(process.process.pid, signal.SIGKILL)
            killed.append(time.monotonic())

        threading.Thread(target=kill, daemon=True).start()
        documents, error = run(detector, [100_000])
        assert time.monotonic() - killed[0] < WAIT
        assert "lost the detector" in error and f"http://127.0.0.1:{process.api_port}" in error
        stop = documents[-1][1]
        assert stop["exit_status"] == "fail" and "lost the detector" in stop["reason"]
        told = stop["num_events"]["primary"]
        assert told >= 20
        with h5py.File(files(documents)[0]) as file:
            np.testing.assert_array_equal(file[DATA][:told], IMAGES[np.arange(told) % 64])
            assert not file["entry"].attrs["complete"]
        status = detector.stage()
        with pytest.raises(LostConnection, match="lost the detector"):
            status.wait(WAIT)


def test_a_detector_that_hangs_ends_the_run(tmp_path: Path) -> None:
    with SimplonProcess(pixels=64, rate=100) as process:
        detector = device(process, tmp_path)
        hung: list[float] = []

        def hang() -> None:
            while detector.get_index() < 20:
                time.sleep(0.02)
            process.process.send_signal(signal.SIGSTOP)
            hung.append(time.monotonic())

        threading.Thread(target=hang, daemon=True).start()
        status = None
        try:
            detector.stage().wait(WAIT)
            detector.prepare(100_000).wait(WAIT)
            detector.kickoff().wait(WAIT)
            status = detector.complete()
            with pytest.raises(LostConnection, match=f"127.0.0.1:{process.api_port}.*no answer within 2 s"):
                status.wait(WAIT)
            assert time.monotonic() - hung[0] < WAIT
        finally:
            process.process.send_signal(signal.SIGCONT)
        detector.unstage().wait(WAIT)
        assert run(detector, [5])[1] == "", "it came back, armed: it is disarmed, and flies"


def test_values_outside_the_limits_are_refused_before_anything_is_armed(manual: SimplonProcess, tmp_path: Path) -> None:
    detector = device(manual, tmp_path)
    url = f"http://127.0.0.1:{manual.api_port}/detector/config"
    before = manual.get("detector/config/count_time")
    for value in (0.0, 4000.0, float("nan")):
        with pytest.raises(LimitError, match="the detector allows from 5e-08 up to 3600 s"):
            detector.exposure.set(value)
    with pytest.raises(LimitError) as told:
        detector.cam.threshold_energy.set(2e5)
    assert str(told.value) == (
        f"{url}/threshold/1/energy cannot be 200000.0 eV; the detector allows from 10000 up to 150000 eV"
    )
    with pytest.raises(LimitError, match=r"cannot be 'sometimes'; the detector allows none \| basic \| all"):
        detector.cam.header_detail.set("sometimes")
    assert manual.get("detector/config/count_time") == before
    detector.exposure.set(2e-3).wait(WAIT)
    assert (detector.exposure.get(), detector.exposure.limits) == (2e-3, (5e-8, 3600.0))
    assert detector.cam.frame_time.get() >= 2e-3
    documents, error = run(detector, [3_000_000_000])
    assert "ntrigger cannot be 3000000000; the detector allows from 1 up to 2e+09" in error
    assert documents[-1][1]["exit_status"] == "fail"
    assert of(documents, "stream_resource") == [] and ready(manual)


def test_what_is_no_flight_is_refused(manual: SimplonProcess, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"trigger_mode is 'extx'; allowed is exts \| exte \| extg \| eies \| ints \| inte"
    ):
        device(manual, tmp_path, trigger_mode="extx")
    with pytest.raises(ValueError, match="host is 'a b:c'; allowed is HOST, HOST:PORT"):
        SimplonDetector("a b:c", name="detector")
    detector = device(manual, tmp_path)
    with pytest.raises(RuntimeError, match="not staged"):
        detector.kickoff()
    detector.stage().wait(WAIT)
    for wrong in (0, -1, 1.5, [[0, 0]]):
        with pytest.raises(ValueError, match="allowed is a number of frames above 0"):
            detector.prepare(wrong)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="nothing to take"):
        detector.kickoff()
    with pytest.raises(
        DetectorRefused, match=r"PUT http.*trigger_mode with 'never' was refused with 400: .*allowed is"
    ):
        detector.rest.put("detector/config/trigger_mode", "never")
    detector.unstage().wait(WAIT)
    nowhere = device(manual, tmp_path / "nowhere").stage()
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        nowhere.wait(WAIT)


def test_lost_frames_are_named(tmp_path: Path) -> None:
    with SimplonProcess(pixels=64, rate=2000, drop=[3, 4, 19], corrupt=[8]) as process:
        documents, error = run(device(process, tmp_path, max_missing=0.25), [20])
        assert error == ""
        assert documents[-1][1]["num_events"]["primary"] == 20, "a gap, not a shift"
        (outcome,) = outcomes(documents)
        assert (outcome["expected"], outcome["frames"]) == (20, 16)
        assert (outcome["missing"], outcome["refused"]) == ("3 to 4, 8, 19", 1)
        with h5py.File(files(documents)[0]) as file:
            assert missing_frames(file).tolist() == [3, 4, 8, 19]
            for number, frame in enumerate(file[DATA][:]):
                held = np.zeros((64, 64)) if number in (3, 4, 8, 19) else IMAGES[number]
                np.testing.assert_array_equal(frame, held)

        documents, error = run(device(process, tmp_path), [20])
        assert "4 of the 20 frames of series 2 are missing: 3 to 4, 8, 19" in error
        stop = documents[-1][1]
        assert stop["exit_status"] == "fail" and "3 to 4, 8, 19" in stop["reason"]
        assert outcomes(documents)[0]["missing"] == "3 to 4, 8, 19"
        assert ready(process)


def test_a_series_without_an_end_and_one_that_is_cut(tmp_path: Path) -> None:
    with SimplonProcess(pixels=64, rate=2000, no_end=True, cut=30) as process:
        detector = device(process, tmp_path)
        documents, error = run(detector, [20])
        assert error == "" and outcomes(documents)[0]["missing"] == ""
        documents, error = run(detector, [50])
        assert "20 of the 50 frames of series 2 are missing: 30 to 49, and no end message came" in error
        assert documents[-1][1]["num_events"]["primary"] == 30
        assert "missing: 30 to 49" in documents[-1][1]["reason"]
        (outcome,) = outcomes(documents)
        assert (outcome["expected"], outcome["frames"], outcome["missing"]) == (50, 30, "30 to 49")
        with h5py.File(files(documents)[0]) as file:
            assert missing_frames(file).tolist() == list(range(30, 50)) and not file["entry"].attrs["complete"]
        assert ready(process)


def test_frames_that_come_late_twice_or_in_another_shape(either_protocol: str, tmp_path: Path) -> None:
    faults = {"delay": "5:0.5", "duplicate": [7, 8], "wrong_shape": [11]}
    with SimplonProcess(pixels=64, rate=2000, protocol=either_protocol, **faults) as process:
        documents, error = run(device(process, tmp_path, max_missing=0.1), [20])
        assert error == ""
        assert documents[-1][1]["num_events"]["primary"] == 20
        (outcome,) = outcomes(documents)
        assert (outcome["frames"], outcome["missing"]) == (19, "11")
        assert (outcome["duplicates"], outcome["refused"]) == (2, 1)
        with h5py.File(files(documents)[0]) as file:
            assert missing_frames(file).tolist() == [11]
            times = file["entry/instrument/detector/start_time"][:]
            assert np.flatnonzero(np.isnan(times)).tolist() == [11]
            for number, frame in enumerate(file[DATA][:]):
                np.testing.assert_array_equal(frame, np.zeros((64, 64)) if number == 11 else IMAGES[number])
        assert ready(process)


def test_a_header_that_announces_another_shape_ends_the_run(either_protocol: str, tmp_path: Path) -> None:
    with SimplonProcess(pixels=64, rate=2000, protocol=either_protocol, wrong_header=True) as process:
        documents, error = run(device(process, tmp_path), [20])
        assert "20 of the 20 frames of series 1 are missing: 0 to 19; the first of 20 refused: frame is " in error
        assert "'64 x 64 uint16'; allowed is 64 x 128 uint16, as the series began" in error
        assert documents[-1][1]["exit_status"] == "fail" and not files(documents)
        (outcome,) = outcomes(documents)
        assert (outcome["frames"], outcome["refused"], outcome["missing"]) == (0, 20, "0 to 19")
        assert ready(process)


def test_what_an_earlier_client_left_is_not_ours(tmp_path: Path) -> None:
    with SimplonProcess(pixels=64, rate=0) as process:
        process.put("detector/config/trigger_mode", "inte")
        process.put("detector/command/arm")  # and left armed
        detector = device(process, tmp_path)
        detector.stage().wait(WAIT)
        assert ready(process)
        process.put("detector/config/ntrigger", 50)
        process.put("detector/command/arm")  # by somebody else, with this device already at the stream
        deadline = time.monotonic() + WAIT
        while not ready(process) and time.monotonic() < deadline:
            time.sleep(0.02)
        detector.prepare(10).wait(WAIT)
        detector.kickoff().wait(WAIT)
        detector.complete().wait(WAIT)
        assert detector.get_index() == 10
        detector.unstage().wait(WAIT)
        assert detector.outcome.series.get() == 3
        (path,) = tmp_path.iterdir()
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file[DATA][:], IMAGES[:10])


def test_a_stream_at_another_address_is_found_out(
    manual: SimplonProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(series, "HEADER", 0.5)
    detector = device(manual, tmp_path)
    detector.stream = "tcp://127.0.0.1:9"
    documents, error = run(detector, [10])
    assert "but nothing of it came from tcp://127.0.0.1:9; is that the address of its stream" in error
    assert documents[-1][1]["exit_status"] == "fail" and ready(manual)
    monkeypatch.undo()
    fly_by_pulses(manual, tmp_path)
