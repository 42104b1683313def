"""A DECTRIS detector as a device that flies: armed over REST, its frames taken from its stream."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from bluesky.protocols import StreamAsset
from event_model import DataKey
from ophyd import Component as Cpt
from ophyd import Device

from ...stream.nexus import Context
from ...stream.receiver import Receiver
from ..scan_coils import as_positions
from ..statuses import LostConnection, NamedStatus, in_thread
from .documents import SeriesDocuments
from .outcome import SeriesOutcome
from .parameters import DetectorConfig, RestSignal
from .rest import ARM_TIMEOUT, DetectorRefused, Simplon
from .series import ARMED, ArmedSeries, disarm

PORTS = {"v1": 9999, "v2": 31001}
FOLLOWING = ("exts", "exte", "extg")
"""One frame at each pulse: of `count_time`, or as long as the pulse (exte) or the gate (extg) is."""
TRIGGER_MODES = (*FOLLOWING, "eies", "ints", "inte")
"""eies: frames from one pulse to the next, so that n of them take n + 1 pulses; by software: ints, all frames at one
trigger, and inte, a trigger for each."""
STALE = 0.05
"""Time [s] without a message after which nothing of an earlier series waits any more."""

log = logging.getLogger(__name__)


class SimplonDetector(Device):
    """A DECTRIS detector behind its own REST interface and stream, in place of an areaDetector IOC.

    ``prepare(n)``, ``kickoff`` (armed), ``complete`` (the series has ended and is in its file), ``collect_asset_docs``.
    Each flight is a series of the detector and a file of its own.

    Parameters
    ----------
    host : str
        ``HOST`` or ``HOST:PORT`` of the detector's REST interface.
    name : str
    stream : str, optional
        Address of the stream, ``tcp://HOST:PORT``; by default the host's port 9999 (v1) or 31001 (v2).
    protocol : {"", "v1", "v2"}
        Of the stream; by default what the detector says.
    data_key : str, optional
        Of the frames, `name` by default; with _x and _y appended, of the probe's positions [nm].
    directory : str
        Folder for the files, as this process sees it.
    trigger_mode : {"exts", "exte", "extg", "eies", "ints", "inte"}
        Frames come at pulses on the detector's trigger input (``ex...``, ``eies``), or by themselves once it is armed:
        the device triggers, in ``inte`` each frame by a request of its own.
    positions : bool
        Each flight is prepared with its positions (n, 2) [nm], which go into the file; else with a number of frames.
    header_detail : {"all", "basic", "none"}
        What the stream's header tells.
    max_missing : float
        Part of a flight's frames that may be lost on their way before it has failed; they are named in any case.
    """

    may_grow = False  # no readback of the coils comes with a frame

    cam = Cpt(DetectorConfig, "")
    outcome = Cpt(SeriesOutcome, "", kind="omitted")

    def __init__(
        self,
        host: str,
        *,
        name: str,
        stream: str = "",
        protocol: str = "",
        data_key: str = "",
        directory: str = "/tmp",
        trigger_mode: str = "exts",
        positions: bool = False,
        header_detail: str = "basic",
        max_missing: float = 0.01,
        **kwargs: Any,
    ) -> None:
        if trigger_mode not in TRIGGER_MODES:
            raise ValueError(f"trigger_mode is {trigger_mode!r}; allowed is {' | '.join(TRIGGER_MODES)}")
        if protocol not in ("", *PORTS):
            raise ValueError(
                f"protocol is {protocol!r}; allowed is {' | '.join(PORTS)}, or nothing to ask the detector"
            )
        if not 0 <= max_missing <= 1:
            raise ValueError(f"max_missing is {max_missing!r}; allowed is a part of the frames, 0 to 1")
        self.rest = Simplon(host)
        super().__init__("", name=name, **kwargs)
        self.trigger_mode, self.directory, self.header_detail = trigger_mode, str(directory), header_detail
        self.max_missing = max_missing
        self.stream, self._protocol = stream, protocol
        self._documents = SeriesDocuments(data_key or name, positions)
        self._receiver: Receiver | None = None
        self._series: ArmedSeries | None = None
        self._prepared, self._positions = 0, None
        self._stopping = threading.Event()
        self._arming = threading.Lock()
        self._followers: list[Callable[[int], object]] = []
        self._flight: NamedStatus | None = None

    # -- what a microscope asks of its detector ---------------------------------------------------------------------

    @property
    def exposure(self) -> RestSignal:
        """Time [s] that a frame counts for."""
        return self.cam.count_time

    @property
    def width(self) -> int:
        """Pixels of a frame along x."""
        return int(self.cam.size_x.get())

    @property
    def condition(self) -> str:
        """What the detector does, in words, without asking it."""
        return f"{self.cam.state.setpoint_pvname} was {self.cam.state.latest}"

    def follow(self, counted: Callable[[int], object], status: NamedStatus) -> None:
        """Call `counted` with the number of frames as it grows, until `status` is done; fail that with the series.

        Raises
        ------
        ValueError
            There would not be one frame at each pulse of the scan coils.
        """
        if self.trigger_mode not in FOLLOWING:
            why = (
                "the last position has no pulse after it, which would end its frame"
                if self.trigger_mode == "eies"
                else "its frames would not follow the scan coils"
            )
            raise ValueError(
                f"trigger_mode of {self.name} is {self.trigger_mode!r}: {why}; allowed is {' | '.join(FOLLOWING)}"
            )
        self._followers.append(counted)
        status.add_callback(lambda _: self._followers.remove(counted))
        self._flight = status

    # -- Bluesky's protocols ----------------------------------------------------------------------------------------

    def stage(self) -> NamedStatus:
        """Find the detector, disarm it, choose its trigger, let masked pixels be 0, and connect to its stream."""
        return in_thread(f"stage {self.name}", self._stage)

    def _stage(self) -> None:
        if not Path(self.directory).is_dir():
            raise FileNotFoundError(f"the folder {self.directory} does not exist, or is no folder; create it first")
        self._close_stream()
        self.rest.find()
        state = self.cam.state.get()
        if state in ARMED:
            log.warning("%s was armed (%s); its series is ended", self.rest.url, state)
            disarm(self.rest)
        elif state != "idle":
            raise RuntimeError(f"{self.rest.url} is in the state {state!r}; it has to be 'idle': initialize it first")
        if not self.rest.has("stream/config/mode"):
            raise DetectorRefused(f"{self.rest.url} has no stream")
        self.cam.trigger_mode.put(self.trigger_mode)
        self.cam.header_detail.put(self.header_detail)
        # Else masked pixels hold the largest number, as saturated ones do, in every frame.
        if self.cam.mask_to_zero.served:
            self.cam.mask_to_zero.put(True)
        self.cam.stream_mode.put("enabled")
        self._documents.open(
            self._address,
            (int(self.cam.size_y.get()), int(self.cam.size_x.get())),
            np.dtype(f"<u{int(self.cam.bit_depth.get()) // 8}"),
        )
        self._receiver = Receiver(self._address, protocol=self.protocol)

    @property
    def protocol(self) -> str:
        """Of the stream: what was asked for, or what the detector has."""
        if self._protocol:
            return self._protocol
        cbor = self.cam.stream_format.served and self.cam.stream_format.get() == "cbor"
        return "v2" if cbor else "v1"

    @property
    def _address(self) -> str:
        return self.stream or f"tcp://{self.rest.host}:{PORTS[self.protocol]}"

    def unstage(self) -> NamedStatus:
        """Disarm and leave the stream."""

        def work() -> None:
            self.stop()
            self._close_stream()

        return in_thread(f"unstage {self.name}", work)

    def _close_stream(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.close()

    def prepare(self, flight: int | Sequence | np.ndarray) -> NamedStatus:
        """Get ready for a flight, of so many frames or over so many positions (n, 2) [nm].

        Raises
        ------
        RuntimeError
            A series is under way.
        ValueError
            Positions are wanted and there are none, or the other way round.
        LimitError
            The detector does not take so many.
        """
        if self.flying:
            raise RuntimeError(f"{self.name} takes a series; complete or stop that one first")
        if self._documents.positions:
            self._positions = as_positions(flight)  # type: ignore[arg-type]
            frames = len(self._positions)
        elif isinstance(flight, int | np.integer) and flight > 0:
            frames = int(flight)
        else:
            raise ValueError(f"{self.name} was prepared with {flight!r}; allowed is a number of frames above 0")
        count, other = self.cam.ntrigger, self.cam.nimages
        if self.trigger_mode == "ints":
            count, other = other, count
        counted = frames + (self.trigger_mode == "eies")
        count.check_value(counted)
        self._prepared = frames

        def work() -> None:
            other.put(1)
            count.put(counted)

        return in_thread(f"prepare {frames} frames", work)

    def prepare_at(self, positions: np.ndarray, more: int = 0) -> NamedStatus:
        """Get ready for a flight over `positions` (n, 2) [nm].

        Raises
        ------
        ValueError
            There may be `more` than are known: no readback of the coils comes with a frame.
        """
        if more:
            raise ValueError(f"{self.name} needs all positions beforehand: an inference board cannot add to its flight")
        return self.prepare(positions if self._documents.positions else len(positions))

    def kickoff(self) -> NamedStatus:
        """Arm; done once the detector takes triggers, or was triggered.

        Raises
        ------
        RuntimeError
            Nothing is prepared, or the device is not staged.
        """
        if self._receiver is None:
            raise RuntimeError(f"{self.name} is not staged; stage it first")
        if not self._prepared:
            raise RuntimeError(f"{self.name} has nothing to take; prepare it with a number of frames first")
        frames, self._prepared = self._prepared, 0
        self._stopping.clear()
        return in_thread(f"arm {self.name}", lambda: self._arm(frames))

    def _arm(self, frames: int) -> None:
        with self._arming:
            receiver = self._receiver
            if receiver is None or self._stopping.is_set():
                raise RuntimeError(f"{self.name} was stopped before it was armed")
            while receiver.get(STALE):
                pass
            number = self.rest.command("arm", ARM_TIMEOUT).get("sequence id")
            if type(number) is not int:
                disarm(self.rest)
                raise DetectorRefused(f"{self.rest.url} was armed, but did not say the number of the series")
            path = Path(self.directory) / f"{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:8]}.h5"
            self._series = ArmedSeries(
                self.rest,
                receiver,
                self._address,
                number,
                frames,
                path,
                Context(positions=self._positions),
                self.max_missing,
                self._progress,
                self.outcome.tell,
            )
            self._documents.add(self._series)
            self._series.status.add_callback(self._ended)
            series = self._series
        if self.trigger_mode in ("ints", "inte"):
            # Detectors answer once the frames are taken.
            in_thread(f"trigger {self.name}", lambda: self._trigger(series))

    def _trigger(self, series: ArmedSeries) -> None:
        """Trigger by software until `series` has its frames, or has ended."""
        each, count = (self.exposure.get(), series.frames) if self.trigger_mode == "inte" else (None, 1)
        try:
            for _ in range(count):
                if series.status.done:
                    return
                self.rest.command("trigger", None, each)
        except (LostConnection, DetectorRefused) as error:
            if not (self._stopping.is_set() or series.status.done):  # else it was disarmed: nothing is left to trigger
                series.give_up(error)

    def _progress(self) -> None:
        for counted in tuple(self._followers):
            counted(self.get_index())

    def _ended(self, status: NamedStatus) -> None:
        error = status.exception()
        if error is not None and self._flight is not None:
            self._flight.fail(error)  # type: ignore[arg-type]

    @property
    def series_number(self) -> int:
        """The detector's number of the series that it was last armed for; 0 before the first."""
        return 0 if self._series is None else self._series.number

    @property
    def flying(self) -> bool:
        """Whether a series is under way."""
        return self._series is not None and not self._series.status.done

    def complete(self) -> NamedStatus:
        """Done once the series has ended and is in its file.

        Raises
        ------
        RuntimeError
            Nothing was kicked off.
        """
        if self._series is None:
            raise RuntimeError(f"{self.name} takes no series; kick it off first")
        return self._series.status

    def describe_collect(self) -> dict[str, DataKey]:
        """Data keys of one stream: the frames and, where they are given, the probe's positions."""
        return self._documents.describe()

    def get_index(self) -> int:
        """Frames since `stage`, those included that are missing between others."""
        return self._documents.index

    def collect_asset_docs(self, index: int | None = None) -> Iterator[StreamAsset]:
        """Documents of the frames written since the last call, up to `index`."""
        yield from self._documents.new(index)

    def pause(self) -> None:
        """Nothing: the detector waits for triggers, and those who send them pause."""

    def resume(self) -> None:
        """Nothing: see `pause`."""

    def stop(self, *, success: bool = False) -> None:
        """End the series under way; what was exposed is kept. The detector is left disarmed."""
        self._stopping.set()
        with self._arming:
            series = self._series
        if series is not None:
            series.stop()
