"""A detector's socket in the test's own process, and a receiver of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zmq

from bluesky_edgestem.sim.simplon_messages import MessagesV1, MessagesV2
from bluesky_edgestem.stream.encoding import compress
from bluesky_edgestem.stream.record import record
from bluesky_edgestem.stream.recorder import Recording
from bluesky_edgestem.stream.series import Chunk, Frame
from bluesky_edgestem.stream.series_file import SeriesFile

PATIENCE = 60.0
"""Time [s] after which a test fails that waits for what should come: no test depends on a machine that is fast."""
SHAPE = (12, 20)
CONFIG = {
    "x_pixels_in_detector": SHAPE[1],
    "y_pixels_in_detector": SHAPE[0],
    "bit_depth_image": 16,
    "nimages": 1,
    "ntrigger": 10,
    "trigger_mode": "exte",
    "description": "test",
    "detector_number": "S-1",
    "x_pixel_size": 1e-4,
    "y_pixel_size": 1e-4,
    "count_time": 1e-3,
    "frame_time": 1.1e-3,
    "sensor_material": "Si",
    "sensor_thickness": 4.5e-4,
    "beam_center_x": 10.0,
    "beam_center_y": 6.0,
    "incident_energy": 8e4,
    "countrate_correction_count_cutoff": 65534,
}


class Wire:
    """Sends messages as a detector would, one by one, and records them."""

    patience = PATIENCE

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.messages = MessagesV1() if protocol == "v1" else MessagesV2()
        self.socket = zmq.Context.instance().socket(zmq.PUSH)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDTIMEO, int(PATIENCE * 1e3))  # a receiver that has ended takes nothing more
        self.socket.set_hwm(100_000)
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.address = f"tcp://127.0.0.1:{port}"
        self._executor = ThreadPoolExecutor(1)
        self._stop = threading.Event()

    def image(self, number: int, dtype: str = "uint16") -> np.ndarray:
        """Image `number`: no other is like it."""
        return np.random.default_rng(number).integers(0, 200, SHAPE).astype(dtype)

    def chunk(self, number: int, encoding: str = "bslz4") -> Chunk:
        """The compressed image."""
        return compress(self.image(number), encoding)

    def start(self, series: int = 1, frames: int = 10, detail: str = "basic", **config: object) -> None:
        """Send a header."""
        self.socket.send_multipart(
            self.messages.start(series, detail, {**CONFIG, "ntrigger": frames, **config}, frames)
        )

    def frame(self, number: int, series: int = 1, chunk: Chunk | None = None) -> None:
        """Send a frame."""
        chunk = chunk or self.chunk(number)
        self.socket.send_multipart(self.messages.frame(series, number, [chunk], number * 1e-3, number * 1e-3 + 5e-4))

    def end(self, series: int = 1) -> None:
        """Send the end."""
        self.socket.send_multipart(self.messages.end(series))

    def record(self, path: Path, **options: object) -> Future[Recording]:
        """Begin to record; returns once the receiver is connected."""
        patient = {"timeout": PATIENCE, "start_timeout": PATIENCE}
        settings = {"protocol": self.protocol, "grace": 0.2, "stop": self._stop, **patient, **options}
        monitor = self.socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        future = self._executor.submit(record, self.address, path, **settings)
        for _ in range(int(settings.get("workers", 1))):
            assert monitor.poll(int(PATIENCE * 1e3)), future.result(0)
            monitor.recv_multipart()
        self.socket.disable_monitor()
        time.sleep(0.02)
        return future

    def close(self) -> None:
        """End, also of a recording whose test has failed: one that has no frame yet would wait for ever."""
        self._stop.set()
        self._executor.shutdown()
        self.socket.close(0)


@pytest.fixture(params=["v1", "v2"])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    """A detector of either protocol."""
    made = Wire(request.param)
    yield made
    made.close()


@pytest.fixture
def make_wire() -> Iterator[Callable[[str], Wire]]:
    """Makes a detector of a protocol."""
    made: list[Wire] = []

    def make(protocol: str) -> Wire:
        made.append(Wire(protocol))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def await_written(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Waits until so many frames are in the file that is written now."""
    write, changed, written = SeriesFile.write, threading.Condition(), 0

    def observed(self: SeriesFile, frames: list[Frame]) -> None:
        nonlocal written
        write(self, frames)
        with changed:
            written = self.written
            changed.notify_all()

    def wait(count: int) -> None:
        with changed:
            assert changed.wait_for(lambda: written >= count, PATIENCE), f"{written} of {count} frames were written"

    monkeypatch.setattr(SeriesFile, "write", observed)
    return wait
