"""Programs of others: they take what our simulator sends, send what our receiver takes, and open our files."""

from __future__ import annotations

import json
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cbor2
import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.analysis.reductions import Reducer
from bluesky_edgestem.sim.simplon_detector import Detector
from bluesky_edgestem.sim.simplon_frames import DrawnFrames, draw
from bluesky_edgestem.sim.simplon_launch import SimplonProcess
from bluesky_edgestem.sim.simplon_messages import MessagesV1
from bluesky_edgestem.stream.encoding import compress, decompress
from bluesky_edgestem.stream.nexus import Context
from bluesky_edgestem.stream.protocol_v2 import ProtocolV2
from bluesky_edgestem.stream.record import record
from bluesky_edgestem.stream.series import End, Frame, Series

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "tests/peers"
DATA = "/entry/data/data"


@pytest.fixture(scope="module", autouse=True)
def environments() -> None:
    """The peers' environments; made by `make test` before the tests begin, else here."""
    subprocess.run([ROOT / "scripts/peers"], check=True)


def python(name: str) -> str:
    return str(ROOT / f".venv-{name}/bin/python")


def free_port() -> int:
    """A port that nobody has, and that the system gives to nobody else until a peer that starts slowly takes it."""
    while True:
        port = random.randrange(20_000, 32_000)  # Linux gives ports from 32768 on to whoever asks for any
        with socket.socket() as taken, suppress(OSError):
            taken.bind(("127.0.0.1", port))
            return port


def put(port: int, path: str, value: object = None, process: subprocess.Popen | None = None) -> dict:
    """A SIMPLON request to port `port`; waits for the server to be there, as long as its process is."""
    body = b"" if value is None else json.dumps({"value": value}).encode()
    headers = {"Content-Type": "application/json"}
    deadline = time.monotonic() + 120  # the first start of a fresh environment compiles its modules
    while True:
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", body, headers, method="PUT")
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > deadline or (process is not None and process.poll() is not None):
                raise
            time.sleep(0.2)


@pytest.mark.parametrize("version", ["1.8.0"])
def test_libertem_live_acquires_from_our_simulator(tmp_path: Path, version: str) -> None:
    images = np.array(draw("disks", 64, 16, 64, 0, 1e4)).astype(np.int64)[np.arange(24 * 32) % 64]
    with SimplonProcess(pixels=64, rate=4000, api_version=version) as detector:
        command = [python("libertem"), str(PEERS / "acquire.py"), str(detector.api_port), str(detector.port)]
        said = subprocess.run([*command, "24", "32", str(tmp_path / "out.npz")], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    found = np.load(tmp_path / "out.npz")
    np.testing.assert_array_equal(found["total"], images.sum(0))
    np.testing.assert_array_equal(found["sums"], images.sum((1, 2)).reshape(24, 32))
    ours = Reducer((64, 64)).reduce(images.astype(np.uint16))
    np.testing.assert_array_equal(found["sums"].ravel(), ours.total)
    # LiberTEM: y, x, counted from the first pixel, in float32. Its moments are below 2**24, so they are exact, too;
    # it rounds once, in the division. So does ours, as float64 has over twice the digits of float32.
    assert ours.moments.max() < 2**24 and found["com"].dtype == np.float32
    com = ours.centre_of_mass((0.0, 0.0))[:, ::-1].astype(np.float32)
    np.testing.assert_array_equal(found["com"].reshape(-1, 2), com)


@contextmanager
def libertems_simulator(capture: Path) -> Iterator[tuple[int, int]]:
    """``libertem-live-dectris-sim`` replays a capture; the ports of its REST interface and of its stream.

    It opens its stream three times in a row, without waiting until the one before is closed: on a port of the caller's
    choice it dies of "Address in use" more often than not. The system gives it another port each time, and its log
    says which one stayed.
    """
    log = capture.with_suffix(".log")
    program = Path(python("libertem")).with_name("libertem-live-dectris-sim")
    with log.open("wb") as said:
        process = subprocess.Popen([program, capture, "--port=0", "--zmqport=0"], stdout=said, stderr=said)
    try:
        ports: list[re.Match | None] = [None]
        deadline = time.monotonic() + 120  # the first start of a fresh environment compiles its modules
        while None in ports:
            text = log.read_text()
            alive = process.poll() is None
            assert alive and time.monotonic() < deadline, f"it {'hangs' if alive else 'ended'}, and said: {text}"
            time.sleep(0.05)
            where = r"API server listening on \('127.0.0.1', (\d+)\)", r"listening on tcp://127.0.0.1:(\d+)"
            ports = [re.search(pattern, text) for pattern in where]
        api, stream = (int(found[1]) for found in ports if found)
        yield api, stream
    except BaseException as error:
        error.add_note(f"libertem-live-dectris-sim said: {log.read_text()}")
        raise
    finally:
        process.terminate()
        process.wait(40)


def test_our_receiver_takes_the_series_of_libertems_simulator(tmp_path: Path) -> None:
    images = [np.random.default_rng(k).poisson(2, (32, 48)).astype(np.uint16) for k in range(40)]
    config = {
        "x_pixels_in_detector": 48,
        "y_pixels_in_detector": 32,
        "bit_depth_image": 16,
        "nimages": 1,
        "ntrigger": len(images),
        "trigger_mode": "exte",
    }
    messages = MessagesV1()
    parts = messages.start(34, "basic", config, len(images))
    for number, image in enumerate(images):
        parts += messages.frame(34, number, [compress(image)], number * 1e-3, number * 1e-3)
    with (tmp_path / "capture").open("wb") as file:
        for part in [*parts, *messages.end(34)]:
            file.write(struct.pack("<q", len(part)) + part)
    with libertems_simulator(tmp_path / "capture") as (api, stream):
        assert put(api, "detector/api/1.8.0/command/arm") == {"sequence id": 34}
        # It holds its messages until somebody takes them, so that who comes first does not matter.
        recording = record(f"tcp://127.0.0.1:{stream}", tmp_path / "run.h5", timeout=30, start_timeout=60)
    assert recording.complete and recording.frames == 40, recording
    with h5py.File(recording.path, "r") as file:
        np.testing.assert_array_equal(file[DATA], images)


@pytest.fixture(scope="module")
def eiger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """tickit-devices' simulated Eiger on the loopback address; the ports of its REST interface and its streams."""
    ports = {name: free_port() for name in ("port", "stream_legacy_port", "stream_cbor_port")}
    setup = {"type": "tickit_devices.eiger.Eiger", "name": "eiger", "inputs": {}, "host": "127.0.0.1", **ports}
    folder = tmp_path_factory.mktemp("tickit")
    (folder / "eiger.yaml").write_text(json.dumps([setup]))  # YAML is a superset
    with (folder / "log").open("wb") as said:
        command = [python("tickit"), str(PEERS / "eiger.py"), str(folder / "eiger.yaml")]
        process = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        put(ports["port"], "detector/api/1.8.0/command/initialize", process=process)
        yield ports
    except BaseException as error:
        error.add_note(f"tickit said: {(folder / 'log').read_text()}")
        raise
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize(("protocol", "stream"), [("v2", "cbor"), ("v1", "legacy")])
def test_our_receiver_takes_the_series_of_tickits_eiger(
    eiger: dict[str, int], tmp_path: Path, protocol: str, stream: str
) -> None:
    port, api = eiger["port"], "detector/api/1.8.0"
    put(port, "stream/api/1.8.0/config/format", stream)
    for name, value in (("nimages", 3), ("ntrigger", 1), ("frame_time", 0.05), ("trigger_mode", "ints")):
        put(port, f"{api}/config/{name}", value)

    def expose() -> None:
        put(port, f"{api}/command/arm")
        put(port, f"{api}/command/trigger")

    threading.Timer(0.5, expose).start()
    recording = record(
        f"tcp://127.0.0.1:{eiger[f'stream_{stream}_port']}",
        tmp_path / "run.h5",
        protocol=protocol,
        timeout=60,  # it computes 18 million pixels in Python, while whatever else runs
        start_timeout=120,
    )
    assert recording.complete and recording.frames == 3, recording
    with h5py.File(recording.path, "r") as file:
        data = file[DATA]
        assert data.shape == (3, 4362, 4148) and data.dtype == np.uint16
        assert data[0, 0].any() and np.array_equal(data[0, 1000:1010], data[2, 1000:1010])


def test_the_messages_that_tickit_recorded_of_a_real_detector(tmp_path: Path) -> None:
    (folder,) = (ROOT / ".venv-tickit/lib").glob("python3.*/site-packages/tickit_devices/eiger/data/stream2")
    decoder = ProtocolV2()
    start, image, end = (
        decoder.events([(folder / f"{name}.cbor").read_bytes()])[0] for name in ("start", "image", "end")
    )
    assert isinstance(start, Series) and isinstance(image, Frame) and isinstance(end, End)
    assert start.number == image.series == end.series == 15614
    assert start.unique == "01HBV3JPF9T4ZDPADX6EMK6XMZ"
    assert (start.shape, start.frames, start.channels) == ((4362, 4148), 1, ("threshold_1",))
    assert start.config["detector_description"] == "Dectris EIGER2 Si 16M"
    assert start.config["threshold_energy"]["threshold_2"] == pytest.approx(18900.42, abs=0.01)
    assert (image.number, image.start) == (0, 0.0)
    assert image.real == image.stop == 215873 / 50_000_000
    (chunk,) = image.chunks
    assert (chunk.encoding, chunk.dtype, chunk.shape) == ("bslz4", np.uint16, (4362, 4148))
    held = decompress(chunk)
    masked = held == 65535
    assert 0.02 < masked.mean() < 0.3 and held[~masked].max() < 21517
    assert cbor2.loads((folder / "end.cbor").read_bytes())["type"] == "end"


@pytest.fixture(scope="module", params=[1, 2], ids=["one channel", "two channels"])
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A series with axes and positions, as our recorder keeps it, and its images (12, 64, 64)."""
    protocol = "v1" if request.param == 1 else "v2"
    frames = DrawnFrames(draw("disks", 64, 16, 12, 0, 1e4))
    optics = Optics(n_pixels=64, pixel_mrad=0.25)
    positions = np.stack(np.meshgrid(np.arange(4.0), np.arange(3.0)), -1).reshape(-1, 2)
    path = tmp_path_factory.mktemp("recorded") / "run.h5"
    detector = Detector(frames, rate=0, protocol=protocol, channels=request.param)
    try:
        detector.arm()
        address, context = f"tcp://127.0.0.1:{detector.port}", Context(positions, optics, "MoS2")
        recording = record(address, path, protocol=protocol, start_timeout=20, context=context)
    finally:
        detector.close()
    assert recording.complete
    return path, np.array([decompress(frames.chunk(number)) for number in range(12)])


def opened(environment: str, script: str, *arguments: str, out: Path) -> dict[str, np.ndarray]:
    """What a peer's script sees in a file."""
    command = [python(environment), str(PEERS / script), *arguments, str(out)]
    said = subprocess.run(command, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    return dict(np.load(out))


def test_libertem_hyperspy_and_rosettasciio_open_our_files(recorded: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, images = recorded
    found = opened("libertem", "open_file.py", str(path), out=tmp_path / "out.npz")
    assert found["libertem_shape"].tolist() == [12, 64, 64]
    np.testing.assert_array_equal(found["libertem_sums"].ravel(), images.sum((1, 2)))
    np.testing.assert_array_equal(found["hyperspy"], images)
    np.testing.assert_array_equal(found["rosettasciio"], images)
    np.testing.assert_allclose(found["hyperspy_scales"][1:], 0.25)
    assert found["hyperspy_units"][1:].tolist() == ["mrad", "mrad"]
    assert found["pixel_size"] == 1e-4


def test_py4dstem_opens_our_files(recorded: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, images = recorded
    found = opened("py4dstem", "open_py4dstem.py", str(path), "3", out=tmp_path / "out.npz")
    np.testing.assert_array_equal(found["data"], images.reshape(3, 4, 64, 64))


def test_no_peer_is_in_our_own_environment() -> None:
    names = ("libertem", "tickit", "hyperspy", "py4DSTEM")
    code = f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
