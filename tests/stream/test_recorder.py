"""A series on the wire becomes a file, whatever is wrong with it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.sim.simplon_detector import Detector
from bluesky_edgestem.sim.simplon_faults import damaged
from bluesky_edgestem.sim.simplon_frames import DrawnFrames
from bluesky_edgestem.stream import receiver as receiver_module
from bluesky_edgestem.stream import series_file
from bluesky_edgestem.stream.gate import Decoder
from bluesky_edgestem.stream.nexus import Context, missing_frames
from bluesky_edgestem.stream.receiver import Receiver
from bluesky_edgestem.stream.record import main, record
from bluesky_edgestem.stream.recorder import Recorder, Recording
from bluesky_edgestem.stream.series import Frame
from bluesky_edgestem.stream.series_file import SeriesFile

DATA = "/entry/data/data"
DETECTOR = "/entry/instrument/detector"


def check(wire, recording: Recording, missing: list[int], *, expected: int = 10) -> None:
    """The file holds every frame but the `missing`, by its number, and says so."""
    assert recording.frames == expected - len(missing)
    assert recording.expected == expected
    assert [number for run in recording.missing for number in run] == missing
    assert recording.complete == (not missing)
    with h5py.File(recording.path, "r") as file:
        data = file[DATA]
        assert data.shape == (expected, 12, 20)
        for number in range(expected):
            held = np.zeros((12, 20)) if number in missing else wire.image(number)
            np.testing.assert_array_equal(data[number], held, err_msg=f"frame {number}")
        assert missing_frames(file).tolist() == missing
        assert ("missing_frames" in file[DETECTOR]) == bool(missing)
        assert bool(file["entry"].attrs["complete"]) == recording.complete
        assert file[DETECTOR].attrs["ended"].decode() == recording.ended
        assert file[DETECTOR].attrs["refused_frames"] == recording.refused_count
        assert file[DETECTOR].attrs["duplicate_frames"] == recording.duplicates
        stop_time = file[f"{DETECTOR}/stop_time"][:]
        here = [number for number in range(expected) if number not in missing]
        np.testing.assert_allclose(stop_time[here], np.array(here) * 1e-3 + 5e-4, rtol=1e-6)
        assert np.isnan(stop_time[missing]).all()


@pytest.mark.parametrize("encoding", ["bslz4", "lz4", "none"])
def test_a_series_is_kept(wire, tmp_path: Path, encoding: str) -> None:
    if wire.protocol == "v1" and encoding == "lz4":
        encoding = "lz4-block"
    future = wire.record(tmp_path / "run.h5")
    wire.start()
    for number in range(10):
        wire.frame(number, chunk=wire.chunk(number, encoding))
    wire.end()
    recording = future.result(wire.patience)
    check(wire, recording, [])
    assert recording.ended == "end message"
    assert recording.refused_count == recording.duplicates == 0
    assert str(recording).startswith(f"series 1: 10 of 10 frames in {tmp_path}/run.h5; ended by end message")


def test_the_streams_own_blobs_are_the_files_chunks(wire, tmp_path: Path) -> None:
    future = wire.record(tmp_path / "run.h5")
    wire.start(frames=3)
    for number in range(3):
        wire.frame(number)
    wire.end()
    future.result(wire.patience)
    with h5py.File(tmp_path / "run.h5", "r") as file:
        for number in range(3):
            mask, blob = file[DATA].id.read_direct_chunk((number, 0, 0))
            assert (mask, blob) == (0, wire.chunk(number).data)


def test_encodings_may_change_within_a_series(wire, tmp_path: Path) -> None:
    future = wire.record(tmp_path / "run.h5")
    wire.start()
    others = ["bslz4", "none", "lz4-block" if wire.protocol == "v1" else "lz4"]
    for number in range(10):
        wire.frame(number, chunk=wire.chunk(number, others[number % 3]))
    wire.end()
    check(wire, future.result(wire.patience), [])


def test_a_column_major_image_is_kept_upright(make_wire: Callable, tmp_path: Path) -> None:
    wire = make_wire("v2")
    future = wire.record(tmp_path / "run.h5")
    wire.start(frames=2)
    wire.frame(0)
    turned = wire.chunk(1, "none")
    wire.frame(1, chunk=turned._replace(data=wire.image(1).tobytes(order="F"), column_major=True))
    wire.end()
    check(wire, future.result(wire.patience), [], expected=2)


def test_frames_land_by_their_number_and_twice_is_once(wire, tmp_path: Path) -> None:
    future = wire.record(tmp_path / "run.h5")
    wire.start()
    for number in (3, 1, 1, 9, 0, 2, 5, 3):
        wire.frame(number)
    wire.end()
    recording = future.result(wire.patience)
    check(wire, recording, [4, 6, 7, 8])
    assert recording.duplicates == 2
    assert "incomplete, missing 4, 6 to 8; 2 came twice" in str(recording)


def test_workers_share_a_stream_and_all_frames_land(wire, tmp_path: Path) -> None:
    future = wire.record(tmp_path / "run.h5", workers=3, grace=wire.patience)
    wire.start(frames=300)
    for number in range(300):
        wire.frame(number)
    wire.end()
    recording = future.result(wire.patience)
    check(wire, recording, [], expected=300)


def test_frames_before_their_header_are_kept(wire, tmp_path: Path) -> None:
    future = wire.record(tmp_path / "run.h5")
    wire.frame(0)
    wire.frame(1, chunk=damaged(wire.chunk(1)))
    wire.start(frames=3)
    wire.frame(2)
    wire.end()
    recording = future.result(wire.patience)
    check(wire, recording, [1], expected=3)
    assert [(refusal.series, refusal.number) for refusal in recording.refused] == [(1, 1)]


def test_no_end_message(wire, tmp_path: Path) -> None:
    future = wire.record(tmp_path / "run.h5", timeout=2.0)
    wire.start()
    for number in range(6):
        wire.frame(number)
    recording = future.result(wire.patience)
    check(wire, recording, [6, 7, 8, 9])
    assert recording.ended == "timeout: nothing came for 2 s, and no end message"


def test_no_end_message_but_every_frame(wire, tmp_path: Path) -> None:
    future = wire.record(tmp_path / "run.h5", timeout=2.0)
    wire.start()
    for number in range(10):
        wire.frame(number)
    recording = future.result(wire.patience)
    check(wire, recording, [])
    assert recording.ended.startswith("timeout")


@pytest.mark.parametrize("fault", ["corrupt", "wrong shape", "wrong type", "beyond the count", "garbage"])
def test_what_does_not_belong_is_refused_by_name(wire, tmp_path: Path, fault: str) -> None:
    future = wire.record(tmp_path / "run.h5")
    wire.start()
    for number in range(10):
        if number != 4:
            wire.frame(number)
        elif fault == "corrupt":
            wire.frame(4, chunk=damaged(wire.chunk(4)))
        elif fault == "wrong shape":
            wire.frame(4, chunk=series_chunk(wire.image(4)[:-1]))
        elif fault == "wrong type":
            wire.frame(4, chunk=series_chunk(wire.image(4).astype("uint32")))
        elif fault == "beyond the count":
            wire.frame(1_000_000_000, chunk=wire.chunk(4))
        else:
            wire.socket.send(os.urandom(50))
    wire.end()
    recording = future.result(wire.patience)
    check(wire, recording, [4])
    (refusal,) = recording.refused
    said = {
        "corrupt": "bitshuffled LZ4",
        "wrong shape": "frame is '20 x 11 uint16'; allowed is 20 x 12 uint16",
        "wrong type": "frame is '20 x 12 uint32'; allowed is 20 x 12 uint16",
        "beyond the count": "frame number is 1000000000; allowed is below 10",
        "garbage": "allowed is",
    }
    assert said[fault] in refusal.reason
    if fault != "garbage":
        assert refusal.series == 1 and refusal.number in (4, 1_000_000_000)


def series_chunk(image: np.ndarray):
    from bluesky_edgestem.stream.encoding import compress

    return compress(np.ascontiguousarray(image))


def test_a_header_whose_shape_lies(wire, tmp_path: Path) -> None:
    future = wire.record(tmp_path / "run.h5")
    wire.start(y_pixels_in_detector=24)
    for number in range(10):
        wire.frame(number)
    wire.end()
    recording = future.result(wire.patience)
    assert recording.frames == 0 and recording.refused_count == 10
    assert recording.missing == (range(10),)
    assert "frame is '20 x 12 uint16'; allowed is 20 x 24 uint16, as the series began" in str(recording)


def test_a_second_start_before_the_end(wire, tmp_path: Path) -> None:
    receiver = Receiver(wire.address, protocol=wire.protocol)
    try:
        recorder = Recorder(receiver, timeout=wire.patience, grace=2.0)
        results: list[Recording] = []

        def keep() -> None:
            results.extend(recorder.record(tmp_path / f"{k}.h5", start_timeout=wire.patience) for k in (1, 2))

        thread = threading.Thread(target=keep)
        thread.start()
        wire.start(1)
        for number in range(4):
            wire.frame(number, 1)
        wire.start(2)
        wire.frame(4, 1)  # late, from another worker
        for number in range(10):
            wire.frame(number, 2)
        wire.end(2)
        thread.join(wire.patience)
    finally:
        receiver.close()
    first, second = results
    check(wire, first, [5, 6, 7, 8, 9])
    assert first.ended == "the header of series 2, without an end message"
    check(wire, second, [])


def test_a_second_start_of_the_same_number_is_another_series(wire, tmp_path: Path) -> None:
    """A detector that was initialised counts from 1 again: its frames are not those of the series before."""
    receiver = Receiver(wire.address, protocol=wire.protocol)
    try:
        recorder = Recorder(receiver, timeout=wire.patience)
        results: list[Recording] = []

        def keep() -> None:
            results.extend(recorder.record(tmp_path / f"{k}.h5", start_timeout=wire.patience) for k in (1, 2))

        thread = threading.Thread(target=keep)
        thread.start()
        wire.start(1)
        for number in range(4):
            wire.frame(number, 1)
        wire.start(1)
        for number in range(10):
            wire.frame(number, 1, wire.chunk(100 + number))
        wire.end(1)
        thread.join(wire.patience)
    finally:
        receiver.close()
    first, second = results
    check(wire, first, [4, 5, 6, 7, 8, 9])
    assert first.ended == "a second start of series 1, without an end message"
    assert (second.frames, second.complete, second.duplicates) == (10, True, 0)
    with h5py.File(tmp_path / "2.h5", "r") as file:
        for number in range(10):
            np.testing.assert_array_equal(file["/entry/data/data"][number], wire.image(100 + number))


def test_a_header_without_detail_and_a_count_that_nobody_knows(make_wire: Callable, tmp_path: Path) -> None:
    wire = make_wire("v1")
    future = wire.record(tmp_path / "run.h5")
    wire.start(detail="none")
    for number in (0, 1, 3):
        wire.frame(number)
    wire.end()
    check(wire, future.result(wire.patience), [2], expected=4)


def test_two_thresholds(make_wire: Callable, tmp_path: Path) -> None:
    wire = make_wire("v2")
    names = wire.messages.channels = ("threshold_1", "threshold_2")
    future = wire.record(tmp_path / "run.h5")
    wire.start(frames=3)
    for number in range(3):
        chunks = [wire.chunk(number), wire.chunk(100 + number)]
        wire.socket.send_multipart(wire.messages.frame(1, number, chunks, 0, 0))
    wire.messages.channels = names[:1]
    wire.frame(2)
    wire.messages.channels = names
    wire.end()
    recording = future.result(wire.patience)
    assert recording.complete and "channels is ['threshold_1']" in recording.refused[0].reason
    with h5py.File(recording.path, "r") as file:
        assert list(file["entry/data"]) == list(file["entry/data_threshold_2"]) == ["data"]
        assert file["entry/data_threshold_2"].attrs["NX_class"] == "NXdata"
        for number in range(3):
            np.testing.assert_array_equal(file[DATA][number], wire.image(number))
            np.testing.assert_array_equal(file["entry/data_threshold_2/data"][number], wire.image(100 + number))


def test_a_series_without_a_frame(wire, tmp_path: Path) -> None:
    future = wire.record(tmp_path / "run.h5")
    wire.start()
    wire.end()
    recording = future.result(wire.patience)
    assert (recording.frames, recording.missing) == (0, (range(10),))
    assert not recording.path.exists()


def test_no_series(wire, tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match=r"no series began within 0.3 s; is the detector armed"):
        wire.record(tmp_path / "run.h5", start_timeout=0.3).result(wire.patience)


def test_frames_are_never_written_over(wire, tmp_path: Path) -> None:
    (tmp_path / "run.h5").write_text("precious")
    with pytest.raises(FileExistsError, match="give another name"):
        wire.record(tmp_path / "run.h5").result(wire.patience)
    assert (tmp_path / "run.h5").read_text() == "precious"


def test_a_folder_that_is_not_there_is_told_of_before_the_series(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"run.h5 cannot be made: .*missing is no folder that can be written to"):
        record("tcp://127.0.0.1:1", tmp_path / "missing" / "run.h5")


@pytest.mark.parametrize("time", ["-1", "nan", "inf", "soon"])
def test_a_time_that_is_none_is_refused(tmp_path: Path, time: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tcp://127.0.0.1:1", str(tmp_path / "run.h5"), f"--timeout={time}"])
    assert "is not a time to wait [s], a number above 0" in capsys.readouterr().err


@pytest.mark.parametrize(("address", "options"), [("nonsense", {}), ("tcp://127.0.0.1:1", {"protocol": "v3"})])
def test_a_wrong_address_or_protocol_says_what_is_allowed(tmp_path: Path, address: str, options: dict) -> None:
    with pytest.raises(ValueError, match="allowed is"):
        record(address, tmp_path / "run.h5", **options)


def test_a_stop_closes_the_series_as_it_is(wire, tmp_path: Path, await_written: Callable) -> None:
    stop = threading.Event()
    future = wire.record(tmp_path / "run.h5", stop=stop)
    wire.start()
    for number in range(3):
        wire.frame(number)
    await_written(3)
    stop.set()
    recording = future.result(wire.patience)
    check(wire, recording, list(range(3, 10)))
    assert recording.ended == "stop"


def test_each_frame_can_be_inspected_decoded(wire, tmp_path: Path) -> None:
    sums = np.zeros(50)

    def inspect(frame: Frame, images: tuple[np.ndarray, ...]) -> None:
        sums[frame.number] = images[0].sum()

    future = wire.record(tmp_path / "run.h5", workers=2, grace=wire.patience, reduce=Decoder(inspect))
    wire.start(frames=50)
    for number in range(50):
        wire.frame(number)
    wire.end()
    assert future.result(wire.patience).complete
    np.testing.assert_array_equal(sums, [wire.image(number).sum() for number in range(50)])


def test_what_a_reduction_raises_ends_the_series(wire, tmp_path: Path, await_written: Callable) -> None:
    def inspect(frame: Frame, images: tuple[np.ndarray, ...]) -> None:
        if frame.number == 3:
            raise RuntimeError("no such mask")

    future = wire.record(tmp_path / "run.h5", reduce=Decoder(inspect))
    wire.start()
    for number in range(3):
        wire.frame(number)
    await_written(3)
    wire.frame(3)  # ends the worker: nobody would take another
    with pytest.raises(RuntimeError, match="no such mask"):
        future.result(wire.patience)
    with h5py.File(tmp_path / "run.h5", "r") as file:
        assert missing_frames(file).tolist() == list(range(3, 10))
        assert file[DETECTOR].attrs["ended"] == b"no such mask"


def test_text_that_hdf5_cannot_hold(make_wire: Callable, tmp_path: Path) -> None:
    wire = make_wire("v1")
    future = wire.record(tmp_path / "run.h5")
    wire.start(frames=1, description="AR\0INA", sensor_material="\0")
    wire.frame(0)
    wire.end()
    assert future.result(wire.patience).complete
    with h5py.File(tmp_path / "run.h5", "r") as file:
        assert file[f"{DETECTOR}/description"].asstr()[()] == "ARINA"


def test_a_slow_disk_is_back_pressure(wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    write = SeriesFile.write

    def slowly(self: SeriesFile, frames: list[Frame]) -> None:
        time.sleep(0.03)
        write(self, frames)

    monkeypatch.setattr(SeriesFile, "write", slowly)
    receiver = Receiver(wire.address, protocol=wire.protocol, queue_batches=2)
    try:
        results: list[Recording] = []
        recorder = Recorder(receiver, timeout=wire.patience)
        thread = threading.Thread(target=lambda: results.append(recorder.record(tmp_path / "run.h5")))
        thread.start()
        wire.start(frames=2000)
        for number in range(2000):
            wire.frame(number)
        wire.end()
        thread.join(wire.patience)
    finally:
        receiver.close()
    (recording,) = results
    assert recording.complete and recording.frames == 2000
    assert recording.back_pressure.waited_s > 0.1
    assert recording.back_pressure.deepest == recording.back_pressure.capacity == 2
    assert "the stream waited" in str(recording)
    assert "back-pressure: frames come faster than they are written" in caplog.text
    with h5py.File(recording.path, "r") as file:
        assert file[DETECTOR].attrs["backpressure_s"] == recording.back_pressure.waited_s


def test_a_disk_that_fills_ends_the_series_by_name(
    wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, await_written: Callable
) -> None:
    write, sent = SeriesFile.write, threading.Event()

    def fills(self: SeriesFile, frames: list[Frame]) -> None:
        if self.written >= 4:
            assert sent.wait(wire.patience)  # once the series has ended nobody takes frames
            monkeypatch.setattr(series_file, "RESERVE", 1 << 62)
        write(self, frames)

    monkeypatch.setattr(SeriesFile, "write", fills)
    future = wire.record(tmp_path / "run.h5")
    wire.start()
    for number in range(4):
        wire.frame(number)
    await_written(4)
    for number in range(4, 10):
        wire.frame(number)
    sent.set()
    recording = future.result(wire.patience)
    assert recording.ended.startswith("disk full: the disk of ")
    check(wire, recording, list(range(4, 10)))


def test_the_file_is_nexus_with_calibration_and_positions(wire, tmp_path: Path) -> None:
    positions = np.column_stack([np.arange(10.0), np.full(10, 2.5)])
    context = Context(positions, Optics(energy_keV=80.0, semiangle_mrad=2.0, pixel_mrad=0.5), "MoS2")
    future = wire.record(tmp_path / "run.h5", context=context)
    wire.start()
    for number in range(10):
        wire.frame(number)
    wire.end()
    future.result(wire.patience)
    with h5py.File(tmp_path / "run.h5", "r") as file:
        entry, scan, detector = file["entry"], file["entry/scan"], file[DETECTOR]
        kinds = {name: entry[name].attrs["NX_class"] for name in ("data", "scan", "instrument", "sample", "source")}
        assert set(kinds.values()) == {"NXdata", "NXinstrument", "NXsample", "NXsource"} and kinds["scan"] == "NXdata"
        assert (file.attrs["default"], entry.attrs["default"], scan.attrs["signal"]) == ("entry", "scan", "data")
        assert list(entry["data"]) == ["data"], "py4DSTEM takes whatever is there for frames"
        assert entry["definition"].asstr()[()] == "NXmx"
        assert entry["sample/name"].asstr()[()] == "MoS2"
        assert list(scan.attrs["axes"]) == [".", "ky", "kx"]
        np.testing.assert_allclose(scan["kx"], (np.arange(20) - 9.5) * 0.5)
        assert scan["kx"].attrs["units"] == "mrad" and scan["x"].attrs["units"] == "nm"
        np.testing.assert_array_equal(file["entry/instrument/NDAttributes/ScanX"], positions[:, 0])
        np.testing.assert_array_equal(scan["y"], positions[:, 1])
        assert entry["instrument/beam/incident_energy"][()] == 80.0
        assert detector["data"] == scan["data"] == entry["data/data"]
        for name, value in (("x_pixel_size", 1e-4), ("count_time", 1e-3), ("frame_time", 1.1e-3)):
            assert detector[name][()] == value and detector[name].attrs["units"] in ("m", "s")
        assert detector["bit_depth_image"][()] == 16
        assert detector["description"].asstr()[()] == "test"
        assert detector["detectorSpecific/series"][()] == 1


def test_a_reader_sees_the_file_grow(wire, tmp_path: Path) -> None:
    future = wire.record(tmp_path / "run.h5")
    wire.start()
    for number in range(5):
        wire.frame(number)
    deadline = time.monotonic() + wire.patience
    while time.monotonic() < deadline:
        time.sleep(0.1)
        try:
            file = h5py.File(tmp_path / "run.h5", "r", swmr=True)
        except OSError:
            continue
        if len(file[DATA]) == 5:
            break
        file.close()
    np.testing.assert_array_equal(file[DATA][4], wire.image(4))
    for number in range(5, 10):
        wire.frame(number)
    while len(file[DATA]) < 10 and time.monotonic() < deadline:
        time.sleep(0.05)
        file[DATA].refresh()
    np.testing.assert_array_equal(file[DATA][9], wire.image(9))
    file.close()
    wire.end()
    assert future.result(wire.patience).complete


def test_frames_without_a_header_are_told_and_kept(wire, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    future = wire.record(tmp_path / "run.h5", grace=0.05)
    for number in range(4):
        wire.frame(number)
    deadline = time.monotonic() + wire.patience
    while "frames of series 1 come without its header" not in caplog.text:
        assert time.monotonic() < deadline, caplog.text
        time.sleep(0.01)
    wire.start()
    for number in range(4, 10):
        wire.frame(number)
    wire.end()
    check(wire, future.result(wire.patience), [])
    assert caplog.text.count("without its header") == 1


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_what_a_detector_drops_for_a_slow_disk_is_counted_and_named(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes nothing until the detector, whose memory holds one message, has lost a hundred frames."""
    images = [np.random.default_rng(k).integers(1, 1 << 16, (128, 128)).astype(np.uint16) for k in range(16)]
    detector = Detector(DrawnFrames(images), rate=0, protocol=protocol, lossy=True, buffer=1)
    monkeypatch.setattr(receiver_module, "HIGH_WATER_MARK", 1)
    write = SeriesFile.write

    def slowly(self: SeriesFile, frames: list[Frame]) -> None:
        deadline = time.monotonic() + 60
        while detector.dropped < 100 and time.monotonic() < deadline:
            time.sleep(0.01)
        write(self, frames)

    monkeypatch.setattr(SeriesFile, "write", slowly)
    receiver = Receiver(f"tcp://127.0.0.1:{detector.port}", protocol=protocol, queue_batches=2)
    try:
        detector.put("detector", "ntrigger", 4000)
        recording = Recorder(receiver, timeout=60.0, grace=0.2).record(
            tmp_path / "run.h5", waiting=detector.arm, start_timeout=60.0
        )
        assert detector.dropped >= 100
    finally:
        receiver.close()
        detector.close()
    missing = [number for run in recording.missing for number in run]
    assert len(missing) == detector.dropped == recording.expected - recording.frames
    assert recording.expected == 4000 and not recording.complete
    assert recording.ended == "end message" and recording.refused_count == recording.duplicates == 0
    assert f"{recording.frames} of 4000 frames" in str(recording) and "incomplete, missing " in str(recording)
    with h5py.File(recording.path, "r") as file:
        assert missing_frames(file).tolist() == missing
        assert not file["entry"].attrs["complete"]
        assert file[DETECTOR].attrs["backpressure_s"] == recording.back_pressure.waited_s
        lost = set(missing)
        for number in range(4000):
            held = np.zeros((128, 128)) if number in lost else images[number % 16]
            np.testing.assert_array_equal(file[DATA][number], held, err_msg=f"frame {number}")
