"""The simulated DECTRIS detector: its REST interface, its triggers, its faults, its frames."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cbor2
import h5py
import hdf5plugin
import numpy as np
import pytest
import zmq

from bluesky_edgestem.sim import simplon_outbox
from bluesky_edgestem.sim.simplon import main, make_detector, parser
from bluesky_edgestem.sim.simplon_config import Refused
from bluesky_edgestem.sim.simplon_detector import Detector
from bluesky_edgestem.sim.simplon_faults import Faults
from bluesky_edgestem.sim.simplon_frames import DrawnFrames, FileFrames, draw
from bluesky_edgestem.sim.simplon_messages import MessagesV2, unique
from bluesky_edgestem.sim.simplon_rest import RestServer
from bluesky_edgestem.stream.encoding import compress, decompress
from bluesky_edgestem.stream.messages import Messages
from bluesky_edgestem.stream.protocol_v1 import ProtocolV1
from bluesky_edgestem.stream.protocol_v2 import ProtocolV2
from bluesky_edgestem.stream.series import End, Event, Frame, ProtocolError, Series

IMAGES = [np.full((8, 10), k, np.uint16) for k in range(5)]


class Listener:
    """Decodes what a detector sends."""

    def __init__(self, detector: Detector) -> None:
        self.decoder = (ProtocolV1 if detector.protocol == "v1" else ProtocolV2)()
        self.socket = zmq.Context.instance().socket(zmq.PULL)
        self.socket.connect(f"tcp://127.0.0.1:{detector.port}")

    def events(self, until: type = End, timeout: float = 5.0) -> list[Event]:
        """All up to the first of the type `until`, or until nothing comes."""
        found: list[Event] = []
        while self.socket.poll(timeout * 1000):
            found += self.decoder.events(self.socket.recv_multipart())
            if any(isinstance(event, until) for event in found):
                break
        return found

    def numbers(self, **options: Any) -> list[int]:
        """Frames that came."""
        return [event.number for event in self.events(**options) if isinstance(event, Frame)]


@pytest.fixture
def make() -> Iterator[Callable[..., tuple[Detector, Listener]]]:
    """Makes a detector and a listener to it."""
    made: list[tuple[Detector, Listener]] = []

    def new(frames: DrawnFrames | None = None, **options: Any) -> tuple[Detector, Listener]:
        detector = Detector(frames or DrawnFrames(IMAGES), **{"rate": 0, **options})
        made.append((detector, Listener(detector)))
        return made[-1]

    yield new
    for detector, listener in made:
        detector.close()
        listener.socket.close(0)


@pytest.mark.parametrize("protocol", ["v1", "v2"])
@pytest.mark.parametrize(("mode", "expected"), [("exte", 3), ("exts", 6), ("extg", 6), ("eies", 2)])
def test_external_triggers(make: Callable, protocol: str, mode: str, expected: int) -> None:
    detector, listener = make(protocol=protocol)
    for name, value in (("trigger_mode", mode), ("nimages", 2), ("ntrigger", 3)):
        detector.put("detector", name, value)
    assert detector.arm() == 1
    start, *frames, end = listener.events()
    assert isinstance(start, Series) and start.frames == expected and start.shape == (8, 10)
    assert [frame.number for frame in frames if isinstance(frame, Frame)] == list(range(expected))
    assert end == End(1)
    for frame in frames:
        assert isinstance(frame, Frame)
        np.testing.assert_array_equal(decompress(frame.chunks[0]), IMAGES[frame.number % 5])


@pytest.mark.parametrize("protocol", ["v1", "v2"])
@pytest.mark.parametrize("to_zero", [False, True])
def test_masked_pixels_hold_the_largest_number_or_zero(make: Callable, protocol: str, to_zero: bool) -> None:
    masked = np.zeros(IMAGES[0].shape, bool)
    masked[2, 3] = masked[7, 0] = True
    detector, listener = make(DrawnFrames(IMAGES, masked=masked), protocol=protocol)
    detector.put("detector", "mask_to_zero", to_zero)
    detector.put("detector", "ntrigger", 3)
    detector.arm()
    _, *frames, _ = listener.events()
    assert len(frames) == 3
    for frame, image in zip(frames, IMAGES, strict=False):
        assert isinstance(frame, Frame)
        held = 0 if to_zero else np.iinfo(image.dtype).max
        np.testing.assert_array_equal(decompress(frame.chunks[0]), np.where(masked, held, image))


@pytest.mark.parametrize(("mode", "each"), [("inte", 1), ("ints", 2)])
def test_software_triggers(make: Callable, mode: str, each: int) -> None:
    detector, listener = make()
    for name, value in (("trigger_mode", mode), ("nimages", 2), ("ntrigger", 2)):
        detector.put("detector", name, value)
    detector.arm()
    assert listener.numbers(timeout=0.2) == []
    detector.trigger()
    assert listener.numbers(timeout=0.2) == list(range(each))
    assert detector.state == "ready"
    detector.trigger()
    assert listener.numbers() == list(range(each, 2 * each))
    with pytest.raises(Refused, match="arm it before triggering"):
        detector.trigger()


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_a_software_trigger_may_say_how_long_to_expose(make: Callable, protocol: str) -> None:
    detector, listener = make(protocol=protocol)
    for name, value in (("trigger_mode", "inte"), ("ntrigger", 4), ("count_time", 2e-3)):
        detector.put("detector", name, value)
    detector.arm()
    began = time.monotonic()
    for exposure in (0.25, None, 3e-3):
        detector.trigger(exposure)
    assert time.monotonic() - began >= 0.25, "it answers once it has exposed"
    for wrong in (0, -1, "long", 1e9):
        with pytest.raises(Refused, match="the exposure is "):
            detector.trigger(wrong)
    detector.trigger(1)
    _, *frames, _ = listener.events()
    assert [frame.real for frame in frames if isinstance(frame, Frame)] == pytest.approx([0.25, 2e-3, 3e-3, 1])


def test_a_time_is_nothing_to_a_trigger_of_many_frames(make: Callable) -> None:
    detector, listener = make()
    for name, value in (("trigger_mode", "ints"), ("nimages", 2), ("count_time", 2e-3)):
        detector.put("detector", name, value)
    detector.put("detector", "ntrigger", 1)
    detector.arm()
    detector.trigger(0.5)
    assert [frame.real for frame in listener.events() if isinstance(frame, Frame)] == pytest.approx([2e-3] * 2)


def test_external_triggers_by_hand(make: Callable) -> None:
    detector, listener = make(automatic=False)
    detector.put("detector", "ntrigger", 3)
    detector.pulse()  # before it is armed: nothing
    detector.arm()
    assert listener.numbers(timeout=0.2) == []
    detector.pulse(2)
    assert listener.numbers(timeout=0.2) == [0, 1]
    detector.pulse()
    assert listener.numbers() == [2]


@pytest.mark.parametrize("names", [["one"], ["one", "two"]])
def test_a_message_of_stream_v2_is_what_a_general_encoder_makes_of_it(names: list[str]) -> None:
    messages = MessagesV2(names)
    for series, number, encoding, order in [(1, 0, "bslz4", ">"), (1, 300, "none", "<"), (2, 300, "lz4", "<")] * 2:
        images = [np.full((8, 10), number + k, f"{order}u2") for k in range(len(names))]
        chunks = [compress(image, encoding) for image in images]
        (message,) = messages.frame(series, number, chunks, number + 0.5, number + 0.75)
        assert message.startswith(cbor2.dumps(cbor2.CBORTag(55799, 0))[:-1])
        content = dict(cbor2.loads(message[3:]))
        data = content.pop("data")
        assert content == {
            "type": "image",
            "series_id": series,
            "series_unique_id": unique(series),
            "image_id": number,
            "start_time": [round((number + 0.5) * 5e7), 50_000_000],
            "stop_time": [round((number + 0.75) * 5e7), 50_000_000],
            "real_time": [12_500_000, 50_000_000],
        }
        tag = 65 if order == ">" else 69
        for name, chunk in zip(names, chunks, strict=True):
            held = chunk.data if encoding == "none" else cbor2.CBORTag(56500, [encoding, 2, chunk.data])
            expected = cbor2.CBORTag(40, [[8, 10], cbor2.CBORTag(tag, held)])
            assert cbor2.dumps(data[name]) == cbor2.dumps(expected)
        assert list(data) == names


@pytest.mark.parametrize("how", ["compiled", "pyzmq"])
def test_what_finds_no_room_is_sent_later(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "pyzmq":
        monkeypatch.setattr(simplon_outbox, "LIBZMQ", None)
    sent = [[b"%d" % k, bytes(k), b""] for k in range(100)]
    messages = Messages.of(sent)
    with zmq.Context() as context, context.socket(zmq.PUSH) as push, context.socket(zmq.PULL) as pull:
        for socket in (push, pull):
            socket.set_hwm(10)
            socket.setsockopt(zmq.LINGER, 0)
        push.bind("inproc://room")
        assert simplon_outbox.send(push, messages) == 0
        pull.connect("inproc://room")
        done, came = 0, []
        while done < len(sent):
            assert push.poll(60_000, zmq.POLLOUT)
            before, done = done, simplon_outbox.send(push, messages, done)
            assert before < done <= before + 20, "inproc has the room of both sides"
            while pull.poll(0):
                came.append(pull.recv_multipart())
        assert came == sent


@pytest.mark.parametrize("how", ["disarm", "abort", "cancel"])
def test_it_can_be_ended_at_any_moment_and_is_ready_for_the_next(make: Callable, how: str) -> None:
    detector, listener = make(rate=200)
    detector.put("detector", "ntrigger", 1000)
    for series in (1, 2):
        assert detector.arm() == series
        with pytest.raises(Refused, match="disarm it first"):
            detector.arm()
        with pytest.raises(Refused, match="disarm it first"):
            detector.put("detector", "nimages", 2)
        time.sleep(0.1)
        assert getattr(detector, how)() == series
        assert detector.state == "idle"
        events = listener.events()
        assert events[-1] == End(series)
        assert 5 < len(events) < 100
    detector.put("detector", "ntrigger", 2)
    detector.arm()
    assert listener.numbers() == [0, 1]


@pytest.mark.parametrize("protocol", ["v1", "v2"])
@pytest.mark.parametrize("compression", ["bslz4", "lz4", "none"])
def test_compressions(make: Callable, protocol: str, compression: str) -> None:
    detector, listener = make(protocol=protocol)
    detector.put("detector", "compression", compression)
    detector.arm()
    _, *frames, _ = listener.events()
    assert len(frames) == 5
    for frame in frames:
        np.testing.assert_array_equal(decompress(frame.chunks[0]), IMAGES[frame.number])
        assert frame.chunks[0].encoding.startswith(compression)


def test_the_rate_is_kept(make: Callable) -> None:
    detector, listener = make(rate=500)
    detector.put("detector", "ntrigger", 250)
    began = time.monotonic()
    detector.arm()
    assert len(listener.numbers()) == 250
    assert time.monotonic() - began == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(
    ("faults", "numbers"),
    [
        (Faults(drop=frozenset({1, 3})), [0, 2, 4]),
        (Faults(duplicate=frozenset({2})), [0, 1, 2, 2, 3, 4]),
        (Faults(cut=3), [0, 1, 2]),
        (Faults(delay={1: 0.2}), [0, 1, 2, 3, 4]),
        (Faults(no_end=True), [0, 1, 2, 3, 4]),
    ],
)
def test_faults_of_the_series(make: Callable, faults: Faults, numbers: list[int]) -> None:
    detector, listener = make(faults=faults)
    began = time.monotonic()
    detector.arm()
    events = listener.events(timeout=0.5)
    assert [event.number for event in events if isinstance(event, Frame)] == numbers
    assert isinstance(events[-1], End) != faults.no_end
    assert time.monotonic() - began >= faults.delay.get(1, 0)


@pytest.mark.parametrize("fault", ["corrupt", "wrong_shape"])
def test_faults_of_a_frame(make: Callable, fault: str) -> None:
    detector, listener = make(faults=Faults(**{fault: frozenset({0})}))
    detector.arm()
    with pytest.raises(ProtocolError):
        for event in listener.events(until=Frame):
            if isinstance(event, Frame):
                decompress(event.chunks[0])


def test_a_header_that_lies(make: Callable) -> None:
    detector, listener = make(faults=Faults(wrong_header=True))
    detector.arm()
    (start,) = listener.events(until=Series)[:1]
    assert isinstance(start, Series) and start.shape == (16, 10)


def test_a_lossy_detector_loses_what_nobody_takes() -> None:
    other = Detector(DrawnFrames([np.zeros((512, 512), np.uint16)]), rate=0, lossy=True, buffer=1)
    try:
        slow = zmq.Context.instance().socket(zmq.PULL)
        slow.set_hwm(1)
        slow.connect(f"tcp://127.0.0.1:{other.port}")
        other.put("detector", "ntrigger", 20_000)
        other.arm()
        deadline = time.monotonic() + 20
        while not other.dropped and time.monotonic() < deadline:
            time.sleep(0.05)
        assert other.dropped
        slow.close(0)
    finally:
        other.close()


def test_frames_of_a_file_are_sent_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    images = np.random.default_rng(0).poisson(1, (3, 16, 16)).astype(np.uint16)
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "/entry/data/data", (4, 16, 16), "uint16", chunks=(1, 16, 16), compression=hdf5plugin.Bitshuffle()
        )
        data[:3] = images
    frames = FileFrames(path)
    assert (len(frames), frames.shape, frames.dtype) == (4, (16, 16), np.uint16)
    for number, image in enumerate(images):
        chunk = frames.chunk(number)
        assert chunk is not None and chunk.data == compress(image).data
    assert frames.chunk(3) is None  # the detector lost it when this was recorded
    plain = FileFrames(path, "none").chunk(1)
    assert plain is not None
    np.testing.assert_array_equal(decompress(plain), images[1])
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match="has no dataset /entry/data/data"):
        FileFrames(tmp_path / "other.h5")


@pytest.mark.parametrize("filters", [{}, {"compression": "gzip"}, hdf5plugin.Bitshuffle(cname="lz4")])
def test_a_lost_frame_is_lost_again_whatever_filter_its_file_has(tmp_path: Path, filters: Any) -> None:
    images = np.random.default_rng(0).poisson(1, (5, 16, 16)).astype(np.uint16)
    images[3] = 0  # came, without a count
    with h5py.File(tmp_path / "run.h5", "w") as file:
        data = file.create_dataset("/entry/data/data", images.shape, "uint16", chunks=(1, 16, 16), **filters)
        for number in (0, 2, 3):
            data[number] = images[number]
    for encoding in ("bslz4", "none"):
        chunks = [FileFrames(tmp_path / "run.h5", encoding).chunk(number) for number in range(5)]
        for number in (0, 2, 3):
            chunk = chunks[number]
            assert chunk is not None
            np.testing.assert_array_equal(decompress(chunk), images[number])
        assert chunks[1] is None and chunks[4] is None


@pytest.mark.parametrize("source", ["disks", "random"])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_frames_that_are_drawn(source: str, bits: int) -> None:
    images = draw(source, 48, bits, 3, 0, 5000.0)
    assert [image.shape for image in images] == [(48, 48)] * 3
    assert all(image.dtype == f"uint{bits}" for image in images)
    assert np.mean([image.sum() for image in images]) == pytest.approx(5000, rel=0.1)
    assert not np.array_equal(images[0], images[1])


@pytest.fixture
def rest(make: Callable) -> Iterator[Callable]:
    """Requests to a served detector: method, path, value; gives status and answer."""
    detector, _ = make()
    server = RestServer(detector)

    def request(method: str, path: str, value: object = None) -> tuple[int, Any]:
        body = None if value is None else json.dumps({"value": value}).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{server.port}/{path}", body, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    yield request
    server.close()


def test_rest(rest: Callable) -> None:
    assert rest("GET", "detector/api/version/") == (
        200,
        {"value": "1.8.0", "value_type": "string", "access_mode": "r"},
    )
    config = "detector/api/1.8.0/config"
    for name, value in (("x_pixels_in_detector", 10), ("y_pixels_in_detector", 8), ("bit_depth_image", 16)):
        assert rest("GET", f"{config}/{name}")[1]["value"] == value
    status, answer = rest("GET", f"{config}/frame_time")
    assert (status, answer["unit"], answer["min"]) == (200, "s", 8e-6)
    assert rest("GET", f"{config}/trigger_mode")[1]["allowed_values"] == [
        "eies",
        "exte",
        "extg",
        "exts",
        "inte",
        "ints",
    ]
    assert rest("PUT", f"{config}/nimages", 3) == (200, ["nimages"])
    assert rest("GET", f"{config}/nimages")[1]["value"] == 3
    assert rest("PUT", f"{config}/count_time", 0.5) == (200, ["count_time", "frame_time"])
    assert rest("GET", f"{config}/threshold/1/energy")[1]["unit"] == "eV"
    assert rest("PUT", "stream/api/1.8.0/config/mode", "enabled") == (200, ["mode"])
    assert rest("PUT", "stream/api/1.8.0/config/header_detail", "basic") == (200, ["header_detail"])
    assert rest("GET", "stream/api/1.8.0/status/state")[1]["value"] == "ready"
    assert rest("GET", "stream/api/1.8.0/status/dropped")[1]["value"] == 0
    assert rest("GET", "filewriter/api/1.8.0/status/state")[1]["value"] == "disabled"
    assert rest("PUT", "detector/api/1.8.0/command/arm") == (200, {"sequence id": 1})
    assert rest("PUT", "detector/api/1.8.0/command/disarm") == (200, {"sequence id": 1})
    assert "arm" in rest("GET", "detector/api/1.8.0/command/keys")[1]
    assert rest("GET", "detector/api/1.8.0/status/state")[1]["value"] == "idle"


@pytest.mark.parametrize(
    ("method", "path", "value", "status", "said"),
    [
        ("GET", "detector/api/1.6.0/config/nimages", None, 404, "version 1.6.0 is not served; it is 1.8.0"),
        ("GET", "camera/api/1.8.0/config/nimages", None, 404, "no module is called 'camera'"),
        ("GET", "detector/api/1.8.0/config/nothing", None, 404, "there is no 'nothing'"),
        ("PUT", "detector/api/1.8.0/config/nothing", 1, 404, "no parameter 'nothing'"),
        ("PUT", "detector/api/1.8.0/config/nimages", 0, 400, "nimages is 0 ; allowed is 1 to 2000000000"),
        ("PUT", "detector/api/1.8.0/config/nimages", "many", 400, "nimages is 'many'; allowed is a uint"),
        ("PUT", "detector/api/1.8.0/config/trigger_mode", "now", 400, "allowed is eies | exte"),
        ("PUT", "detector/api/1.8.0/config/bit_depth_image", 8, 400, "can only be read"),
        ("PUT", "detector/api/1.8.0/config/nimages", None, 400, "must be JSON"),
        ("PUT", "detector/api/1.8.0/command/trigger", None, 400, "arm it before triggering"),
        ("PUT", "detector/api/1.8.0/command/explode", None, 404, "no command 'explode'"),
    ],
)
def test_rest_says_what_is_wrong(rest: Callable, method: str, path: str, value: object, status: int, said: str) -> None:
    code, answer = rest(method, path, value)
    assert code == status
    assert said in answer["error"]


def test_version_1_6_knows_four_trigger_modes(make: Callable) -> None:
    detector, _ = make(version="1.6.0")
    assert "format" not in detector.config["stream"]
    with pytest.raises(Refused, match=r"allowed is exte \| exts \| inte \| ints"):
        detector.put("detector", "trigger_mode", "eies")


def test_two_on_one_port_are_refused(make: Callable) -> None:
    detector, _ = make()
    with pytest.raises(OSError, match=f"cannot stream on tcp://127.0.0.1:{detector.port}"):
        Detector(DrawnFrames(IMAGES), address=f"tcp://127.0.0.1:{detector.port}")


@pytest.mark.parametrize(
    ("option", "given", "allowed"),
    [
        ("--seed", "-1", "not a whole number of 0 or more"),
        ("--seed", "1.5", "not a whole number of 0 or more"),
        ("--pixels", "0", "not a whole number of 1 or more"),
        ("--rate", "nan", "not a number of 0 or above"),
        ("--rate", "inf", "not a number of 0 or above"),
        ("--dose", "-5", "not a number of 0 or above"),
        ("--port", "99999", "not a whole number from 0 to 65535"),
        ("--drop", "-1", "not a whole number of 0 or more"),
        ("--delay", "3", "not allowed; allowed is a frame's number and seconds, as 7:0.5"),
    ],
)
def test_a_number_that_is_none_is_one_clear_error(
    capsys: pytest.CaptureFixture, option: str, given: str, allowed: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([f"{option}={given}"])
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"edgestem sim simplon: error: argument {option}: '{given}' is {allowed}"


def test_a_file_that_is_none_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no HDF5")
    for name, why in (("nothing.h5", "there is no such file"), ("text.h5", ".*file signature not found.*")):
        said = f"^{tmp_path / name} cannot be read: {why}; give an HDF5 file of a recorded series$"
        with pytest.raises(ValueError, match=said):
            make_detector(parser().parse_args(["--file", str(tmp_path / name)]))
