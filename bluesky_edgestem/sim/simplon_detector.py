"""The simulated detector itself: armed, triggered, disarmed, and streaming in a thread of its own."""

from __future__ import annotations

import threading
import time
from typing import Any

import zmq

from ..stream.messages import Messages
from ..stream.series import frames_expected
from .simplon_config import Parameter, Refused, detector_config, filewriter_config, stream_config
from .simplon_faults import Faults
from .simplon_frames import Frames, recoded
from .simplon_messages import Messages as Protocol
from .simplon_messages import MessagesV1, MessagesV2
from .simplon_outbox import send, serve
from .stream_tap import StreamTap

BURST = 16
"""Frames that are sent at once where nothing is waited for between them."""
WAIT = 50
"""Time [ms] between two looks at whether the series was stopped, while the receiver takes nothing."""
EXTERNAL = ("exte", "exts", "extg", "eies")
ENCODINGS = {
    "v1": {"bslz4": "bslz4", "lz4": "lz4-block", "none": "none"},
    "v2": {e: e for e in ("bslz4", "lz4", "none")},
}


class Detector:
    """State, configuration and stream of a detector. All methods may be called from several threads.

    Parameters
    ----------
    frames : Frames
        What it sees.
    rate : float
        Frames a second; 0 for as fast as they are taken.
    protocol : {"v1", "v2"}
    version : {"1.6.0", "1.8.0"}
        Of SIMPLON.
    address : str
        To stream on; a port 0 finds a free one, see `port`.
    channels : int
        Thresholds in stream v2.
    faults : Faults
    automatic : bool
        External triggers come by themselves once it is armed; else by `pulse`.
    lossy : bool
        Frames that find no room in the detector's memory are lost, as in a real one; else it waits.
    buffer : int
        Messages that its memory holds.
    tap : StreamTap, optional
        Gets a copy of all that is sent; closed with the detector.
    """

    def __init__(
        self,
        frames: Frames,
        *,
        rate: float = 1000.0,
        protocol: str = "v1",
        version: str = "1.8.0",
        address: str = "tcp://127.0.0.1:0",
        channels: int = 1,
        faults: Faults | None = None,
        automatic: bool = True,
        lossy: bool = False,
        buffer: int = 1000,
        tap: StreamTap | None = None,
    ) -> None:
        if channels > 1 and protocol == "v1":
            raise ValueError(f"channels is {channels}; stream v1 has 1")
        self.frames, self.faults, self.version, self.protocol = frames, faults or Faults(), version, protocol
        self.names = tuple(f"threshold_{k + 1}" for k in range(channels))
        frame_time = max(1 / rate, 8e-6) if rate else 8e-6
        bits = 8 * frames.dtype.itemsize
        self.config: dict[str, dict[str, Parameter]] = {
            "detector": detector_config(version, frames.shape, bits, len(frames), frame_time),
            "stream": stream_config(version, protocol),
            "filewriter": filewriter_config(),
        }
        self._rate, self._automatic, self._lossy, self.tap = rate, automatic, lossy, tap
        self._change = threading.Condition()
        self.state, self.series, self.dropped = "idle", 0, 0
        self._pulses = self._done = 0
        self._exposures: dict[int, float] = {}  # by the trigger that said them
        self._stop = ""
        self._closing = False
        self._outgoing: list[list[bytes]] = []
        self._context = zmq.Context()
        self._socket = serve(self._context, address, buffer)
        self.port = int(self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rsplit(":", 1)[1])
        self._thread = threading.Thread(target=self._run, name="detector", daemon=True)
        self._thread.start()

    def values(self, module: str = "detector") -> dict[str, Any]:
        """The configuration of a module without its limits."""
        return {name: parameter.value for name, parameter in self.config[module].items()}

    def put(self, module: str, name: str, value: Any) -> list[str]:
        """Set a parameter; gives the names of all that changed.

        Raises
        ------
        Refused
            It is no such value, or the detector is armed.
        """
        with self._change:
            config = self.config[module]
            if self.state in ("ready", "acquire") and module == "detector":
                raise Refused(f"{name} cannot be set while the detector is armed: disarm it first")
            config[name] = config[name].changed(name, value)
            changed = [name]
            if module == "detector" and name in ("count_time", "frame_time"):
                count, frame, dead = (config[n].value for n in ("count_time", "frame_time", "detector_readout_time"))
                if count + dead > frame * (1 + 1e-9):
                    other, new = ("frame_time", count + dead) if name == "count_time" else ("count_time", frame - dead)
                    config[other] = config[other].changed(other, new)
                    changed.append(other)
            return changed

    def initialize(self) -> None:
        """Start anew: the count of series too."""
        self._end("disarm")
        with self._change:
            self.series = 0

    def arm(self) -> int:
        """Begin a series; gives its number.

        Raises
        ------
        Refused
        """
        with self._change:
            if self.state != "idle":
                raise Refused(
                    f"the detector is in the state {self.state!r}; it can be armed in 'idle': disarm it first"
                )
            self.series += 1
            self._pulses = self._done = 0
            self._exposures.clear()
            self._stop = ""
            self.state = "ready"
            self._change.notify_all()
            return self.series

    def trigger(self, exposure: Any = None) -> None:
        """Trigger by software; returns once the frames of the trigger are sent.

        Parameters
        ----------
        exposure : float, optional
            Of the frame [s] in the mode ``inte``, and as long it takes then; by default ``count_time``, as fast as the
            rate allows. Other modes take no notice of it.

        Raises
        ------
        Refused
        """
        with self._change:
            if exposure is not None:
                exposure = self.config["detector"]["count_time"].changed("the exposure", exposure).value
            mode = self.values()["trigger_mode"]
            if self.state not in ("ready", "acquire"):
                raise Refused(f"the detector is in the state {self.state!r}; arm it before triggering")
            if mode in EXTERNAL:
                raise Refused(f"trigger_mode is {mode!r}; triggers by software need inte or ints")
            self._pulses += 1
            mine = self._pulses
            if mode == "inte" and exposure is not None:
                self._exposures[mine - 1] = exposure
            self._change.notify_all()
            self._change.wait_for(lambda: self._done >= mine or self.state == "idle" or self._closing)

    def pulse(self, count: int = 1) -> None:
        """`count` pulses on the trigger input; nothing where it waits for none."""
        with self._change:
            if self.state in ("ready", "acquire") and self.values()["trigger_mode"] in EXTERNAL:
                self._pulses += count
                self._change.notify_all()

    def disarm(self) -> int:
        """End the series after the present frame; gives its number."""
        return self._end("disarm")

    def abort(self) -> int:
        """End the series at once; gives its number."""
        return self._end("abort")

    def cancel(self) -> int:
        """End the series after the present frame; gives its number."""
        return self._end("cancel")

    def _end(self, how: str) -> int:
        with self._change:
            self._stop = how
            self._change.notify_all()
            self._change.wait_for(lambda: self.state == "idle" or self._closing)
            return self.series

    def close(self) -> None:
        """End the stream; what was not taken is lost."""
        with self._change:
            self._closing, self._stop = True, "close"
            self._change.notify_all()
        self._thread.join()
        self._context.destroy(0)
        if self.tap is not None:
            self.tap.close()

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self.state == "ready" or self._closing)
                if self._closing:
                    return
                series, config, stream = self.series, self.values(), self.values("stream")
            self._series(series, config, stream)

    def _series(self, series: int, config: dict[str, Any], stream: dict[str, Any]) -> None:
        enabled = stream["mode"] == "enabled"
        messages: Protocol = MessagesV2(self.names)
        if self.protocol == "v1":
            messages = MessagesV1(stream["image_appendix"])
        mode, nimages, ntrigger = config["trigger_mode"], config["nimages"], config["ntrigger"]
        each = 1 if mode in ("exte", "inte", "eies") else nimages
        expected = frames_expected(mode, nimages, ntrigger) or 0
        if enabled:
            announced = dict(config)
            if self.faults.wrong_header:
                announced["y_pixels_in_detector"] *= 2
            self._send([messages.start(series, stream["header_detail"], announced, expected)])
        self._encoding = ENCODINGS[self.protocol][config["compression"]]
        by_itself = self._automatic and mode in EXTERNAL
        if by_itself:
            self.state = "acquire"
        number, began = 0, None
        for trigger in range(ntrigger):
            if self._stop or not (by_itself or self._await_trigger(trigger)):
                break
            began = time.monotonic() if began is None or not self._rate else began
            for _ in range(0 if mode == "eies" and not trigger else each):
                if self._stop:
                    break
                self._pace(began, number)
                if self._stop == "abort":
                    break
                if enabled:
                    self._frame(messages, series, number, config)
                number += 1
            if not by_itself and trigger + 1 < ntrigger:
                self._flush()
                with self._change:
                    self._done = trigger + 1
                    self._change.notify_all()
        self._flush()
        with self._change:
            # Before the end message: who has seen it may arm for the next series at once.
            self._done, self.state = ntrigger, "idle"
            self._change.notify_all()
        if enabled and not self.faults.no_end:
            self._send([messages.end(series)], even_if_stopped=True)

    def _await_trigger(self, trigger: int) -> bool:
        with self._change:
            self.state = "acquire" if self._pulses > trigger else "ready"
            self._change.wait_for(lambda: self._pulses > trigger or self._stop)
            self.state = "acquire"
        return not self._stop

    def _pace(self, began: float, number: int) -> None:
        delay = self.faults.delay.get(number, 0.0) + self._exposures.get(number, 0.0)
        if self._rate:
            delay = max(delay, began + number / self._rate - time.monotonic())
        if delay > 5e-4:
            self._flush()
        if delay > 0.05:
            with self._change:
                self._change.wait_for(lambda: self._stop in ("abort", "close"), delay)
        elif delay > 5e-4:  # a shorter sleep takes longer than it says
            time.sleep(delay)

    def _frame(self, messages: Protocol, series: int, number: int, config: dict[str, Any]) -> None:
        chunk = self.frames.chunk(number, config["mask_to_zero"])
        if chunk is None:
            return
        start, exposure = number * config["frame_time"], self._exposures.get(number, config["count_time"])
        for sent in self.faults.sent(number, recoded(chunk, self._encoding)):
            chunks = [sent] + [sent for _ in self.names[1:]]
            self._outgoing.append(messages.frame(series, number, chunks, start, start + exposure))
        if len(self._outgoing) >= BURST:
            self._flush()

    def _flush(self) -> None:
        """Send the frames that wait for others to be sent with."""
        outgoing, self._outgoing = self._outgoing, []
        self._send(outgoing, frames=True)

    def _send(self, outgoing: list[list[bytes]], *, frames: bool = False, even_if_stopped: bool = False) -> None:
        messages, done = Messages.of(outgoing), 0
        if self.tap is not None:
            self.tap.send(messages)
        while (done := send(self._socket, messages, done)) < len(messages):
            if frames and self._lossy:
                self.dropped += 1
                done += 1
                continue
            if self._closing or (self._stop == "abort" and not even_if_stopped):
                return
            if not self._socket.poll(WAIT, zmq.POLLOUT) and self._stop:
                return
