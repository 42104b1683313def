"""Takes the stream off the network, and says when it cannot keep up."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import zmq

from ..analysis import kernels
from . import blobs
from .frames import Frames
from .gate import Decoder, Gate, Reduce, Refusal
from .messages import Inbox
from .protocol_v1 import ProtocolV1
from .protocol_v2 import ProtocolV2
from .series import End, ProtocolError, Series

PROTOCOLS = {"v1": ProtocolV1, "v2": ProtocolV2}
HIGH_WATER_MARK = 1000
"""Messages that a socket holds; the detector keeps the next ones, and drops frames once its own memory is full."""
MAX_MESSAGE = 1 << 28
"""Bytes of the largest message part that is taken; a peer that sends a larger one is disconnected."""
BATCH = 128
"""Messages handed over at once where so many wait."""
BATCH_BYTES = 1 << 20
"""Bytes after which a batch takes no further message."""
POLL = 100
"""Time [ms] between two looks at whether the receiver is to stop."""

VERIFY = Decoder()

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Early:
    """Frames that came before the header of their series, as they may with several workers: not checked yet."""

    frames: Frames


Item = Series | Frames | End | Early | Refusal


@dataclass
class BackPressure:
    """How far the receiver was behind the detector.

    Attributes
    ----------
    waited_s : float
        Time that workers could not hand over [s]: the writer was slower than the stream.
    deepest : int
        Most batches that waited at once, of `capacity`.
    """

    capacity: int
    waited_s: float = 0.0
    deepest: int = 0


class Receiver:
    """PULL sockets in threads of their own; `get` gives what they took.

    Parameters
    ----------
    address : str
        Of the detector, e.g. ``tcp://172.31.1.1:9999``.
    protocol : {"v1", "v2"}
    workers : int
        Sockets, each in a thread; the detector deals messages out to them in turn.
    queue_batches : int
        Batches (of up to 128 messages) that wait for `get` before the workers do.
    reduce : callable, optional
        Decodes the frames, in the workers, see `gate.Reduce`. By default they are decoded to be verified; None believes
        them as they are.
    """

    def __init__(
        self,
        address: str,
        *,
        protocol: str = "v1",
        workers: int = 1,
        queue_batches: int = 64,
        reduce: Reduce | None = VERIFY,
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol is {protocol!r}; allowed is {' | '.join(PROTOCOLS)}")
        if workers < 1:
            raise ValueError(f"workers is {workers}; a stream needs at least 1")
        if workers > 1:
            kernels.load()
        if reduce is not None:
            blobs.load()
        self._decoder = PROTOCOLS[protocol]()
        self._queue: queue.Queue[list[Item]] = queue.Queue(queue_batches)
        self._reduce = reduce
        self._gates: dict[int, Gate] = {}
        self._failure: Exception | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.back_pressure = BackPressure(queue_batches)
        self._context = zmq.Context()
        self.address = address
        self._greeted: list[zmq.Socket] = []  # each tells once when its socket and the detector have greeted
        inboxes = [self._connect(address) for _ in range(workers)]
        self._threads = [
            threading.Thread(target=self._work, args=(inbox,), name=f"stream-{k}", daemon=True)
            for k, inbox in enumerate(inboxes)
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def load(protocol: str) -> None:
        """Load the compiled code, which takes seconds where it has to be compiled: before anybody waits for it."""
        blobs.load()
        PROTOCOLS[protocol]()
        context = zmq.Context()
        try:
            Inbox(context.socket(zmq.PULL), BATCH, BATCH_BYTES).take()
        finally:
            context.destroy(0)

    def _connect(self, address: str) -> Inbox:
        socket = self._context.socket(zmq.PULL)
        socket.set_hwm(HIGH_WATER_MARK)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        socket.setsockopt(zmq.LINGER, 0)
        inbox = Inbox(socket, BATCH, BATCH_BYTES)
        inbox.take()  # nothing: loads the compiled code, before frames come
        self._greeted.append(socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED))
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            self._context.destroy(0)
            raise ValueError(f"address is {address!r}; allowed is tcp://HOST:PORT ({error})") from None
        return inbox

    def connected(self) -> bool:
        """Whether every socket has been connected to the detector."""
        self._greeted = [told for told in self._greeted if not told.poll(0)]
        return not self._greeted

    def gate(self, series: Series) -> Gate:
        """The gate of a series, the same for all threads."""
        with self._lock:
            gate = self._gates.get(series.number)
            if gate is None or gate.series is not series:  # a detector that was initialised counts from 1 again
                if len(self._gates) >= 4:  # those of series long over
                    self._gates.pop(min(self._gates))
                gate = self._gates[series.number] = Gate(series, self._reduce)
            return gate

    def forget(self, number: int) -> None:
        """Series `number` is over; a later one may have its number, after the detector was initialised."""
        with self._lock:
            self._gates.pop(number, None)

    def get(self, timeout: float) -> list[Item]:
        """What came next, in the order it came to one worker; nothing after `timeout` [s].

        Raises
        ------
        Exception
            What a `reduce` raised, which ended its worker.
        """
        if self._failure is not None:
            raise self._failure
        try:
            return self._queue.get(timeout=timeout)
        except queue.Empty:
            return []

    @property
    def depth(self) -> int:
        """Batches that wait now."""
        return self._queue.qsize()

    def close(self) -> None:
        """End the workers; what waits is dropped."""
        self._stopping.set()
        for thread in self._threads:
            while thread.is_alive():
                with contextlib.suppress(queue.Empty):
                    self._queue.get_nowait()
                thread.join(0.05)
        self._context.destroy(0)

    def _work(self, inbox: Inbox) -> None:
        try:
            self._take_all(inbox)
        except Exception as error:
            self._failure = error

    def _take_all(self, inbox: Inbox) -> None:
        while not self._stopping.is_set():
            if inbox.socket.poll(POLL) and len(messages := inbox.take()):
                self._hand_over([item for event in self._decoder.all_events(messages) for item in self._items(event)])

    def _items(self, event: Series | Frames | End | ProtocolError) -> Iterator[Item]:
        """What is handed over of an event: frames are checked by the gate of their series."""
        if isinstance(event, Frames):
            gate = self._gates.get(event.series)
            if gate is None:
                yield from (Early(event[k : k + 1]) for k in range(len(event)))
                return
            admitted, refused = gate.admit(event)
            yield from refused
            if len(admitted):
                yield admitted
        elif isinstance(event, ProtocolError):
            yield Refusal(str(event), event.series, event.number)
        else:
            if isinstance(event, Series):
                self.gate(event)
            yield event

    def _hand_over(self, batch: list[Item]) -> None:
        pressure = self.back_pressure
        pressure.deepest = max(pressure.deepest, self._queue.qsize())
        if not self._queue.full():
            self._queue.put(batch)  # may wait where another worker was faster: too short to count
            return
        began = time.monotonic()
        if not pressure.waited_s:
            log.warning("back-pressure: frames come faster than they are written; the detector may drop some")
        while not self._stopping.is_set():
            try:
                self._queue.put(batch, timeout=0.1)
                break
            except queue.Full:
                continue
        with self._lock:
            pressure.waited_s += time.monotonic() - began
