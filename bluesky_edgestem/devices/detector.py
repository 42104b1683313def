"""The pixelated detector: arming, and data, composed into a device that flies."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from bluesky.protocols import StreamAsset
from event_model import DataKey
from ophyd import Component as Cpt
from ophyd import Device

from .frame_files import FrameFiles, HDFPlugin
from .signals import BusySignal, ReadSignal, SetSignal, TimeSignal, start_busy, wait_until, watch
from .statuses import NamedStatus, in_order

READ_OUT_TIMEOUT = 5.0
"""Time [s] for the frames already exposed to be written when the detector is disarmed, beside the exposure's own."""


class EigerCam(Device):
    """areaDetector's ADEiger, as far as it is needed."""

    acquire = Cpt(BusySignal, "Acquire", kind="omitted")
    acquire_time = Cpt(TimeSignal, "AcquireTime", kind="config", doc="exposure [s]")
    acquire_period = Cpt(TimeSignal, "AcquirePeriod", kind="omitted")
    num_images = Cpt(SetSignal, "NumImages", kind="omitted")
    num_triggers = Cpt(SetSignal, "NumTriggers", kind="omitted")
    trigger_mode = Cpt(SetSignal, "TriggerMode", string=True, kind="config")
    sequence_id = Cpt(ReadSignal, "SequenceId", kind="omitted", doc="number of the series")
    armed = Cpt(ReadSignal, "Armed", string=True, kind="omitted")
    detector_state = Cpt(ReadSignal, "DetectorState_RBV", string=True, kind="omitted")
    message = Cpt(ReadSignal, "StatusMessage_RBV", string=True, kind="omitted")
    size_x = Cpt(ReadSignal, "ArraySizeX_RBV", kind="omitted")
    size_y = Cpt(ReadSignal, "ArraySizeY_RBV", kind="omitted")
    # DataType_RBV, which every areaDetector driver has, does not follow the detector's own in ADEiger.
    bit_depth = Cpt(ReadSignal, "BitDepthImage_RBV", kind="omitted")
    manufacturer = Cpt(ReadSignal, "Manufacturer_RBV", string=True, kind="config")
    model = Cpt(ReadSignal, "Model_RBV", string=True, kind="config")


class SeriesArming:
    """Arming logic: one exposure of AcquireTime at each pulse on the trigger input (DECTRIS's mode `exts`)."""

    def __init__(self, cam: EigerCam) -> None:
        self.cam = cam

    def stage(self) -> NamedStatus:
        """Choose the trigger."""
        return in_order(
            f"choose the trigger of {self.cam.prefix}",
            lambda: self.cam.trigger_mode.set("External Series"),
            lambda: self.cam.num_images.set(1),
        )

    def prepare(self, frames: int) -> NamedStatus:
        """Set up for `frames` triggers."""
        return self.cam.num_triggers.set(frames)

    def arm(self) -> NamedStatus:
        """Take triggers; done once the detector says it is armed."""
        return start_busy(self.cam.acquire, self.cam.armed, ("Armed",), self.cam.message)

    def disarm(self) -> NamedStatus:
        """Take no more; done once what was exposed has been read out."""
        exposure = float(self.cam.acquire_time.latest or 0.0)
        self.cam.acquire.end()
        return wait_until(
            self.cam.detector_state,
            lambda state: state in ("Idle", "Aborted", "Error"),
            f"end {self.cam.acquire.pvname}",
            READ_OUT_TIMEOUT + exposure,
        )

    def disarm_left_armed(self) -> NamedStatus:
        """`disarm` where a client which is gone left it armed; asked, for monitors may not have come yet."""
        if self.cam.acquire.get(use_monitor=False) or self.cam.armed.get(use_monitor=False) == "Armed":
            return self.disarm()
        done = NamedStatus(f"{self.cam.acquire.pvname} has ended")
        done.finish()
        return done


class PixelatedDetector(Device):
    """A pixelated detector behind areaDetector, triggered by the scan coils.

    ``prepare(n)``, ``kickoff`` (armed), ``complete`` (n frames are in the file), ``collect_asset_docs``. From `stage`
    to `unstage` all frames go to one file; flights append to it.

    Parameters
    ----------
    prefix : str
        Of the detector's PVs, before ``cam1:`` and ``HDF1:``.
    name : str
    data_key : str, optional
        Of the frames, `name` by default; with _x and _y appended, of the probe's positions [nm] at the exposures.
    directory : str
        Folder that the frames go to, as the detector's IOC and the readers see it.
    """

    may_grow = True  # the coils' readback comes with each frame

    cam = Cpt(EigerCam, "cam1:")
    hdf = Cpt(HDFPlugin, "HDF1:")

    def __init__(
        self, prefix: str, *, name: str, data_key: str = "", directory: str = "/tmp", **kwargs: object
    ) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.arming = SeriesArming(self.cam)
        self.files = FrameFiles(self.hdf, data_key or name, str(directory))
        self._expected = 0

    @property
    def directory(self) -> str:
        """Folder that the frames go to, as the detector's IOC and the readers see it."""
        return self.files.directory

    @directory.setter
    def directory(self, directory: str) -> None:
        self.files.directory = directory

    @property
    def exposure(self) -> SetSignal:
        """Time [s] that a frame counts for."""
        return self.cam.acquire_time

    @property
    def width(self) -> int:
        """Pixels of a frame along x."""
        return int(self.cam.size_x.get())

    @property
    def pixel_type(self) -> np.dtype:
        """Type of a pixel in the file, as the detector is set now: it may change with the exposure.

        Raises
        ------
        ValueError
            The detector says something else than 8, 16 or 32 bits.
        """
        bits = int(self.cam.bit_depth.get(use_monitor=False))
        if bits not in (8, 16, 32):
            raise ValueError(f"{self.cam.bit_depth.pvname} is {bits}; pixels of 8, 16 or 32 bits can be read")
        return np.dtype(f"<u{bits // 8}")

    @property
    def series_number(self) -> int:
        """The detector's number of the series that it was last armed for."""
        return int(self.cam.sequence_id.get(use_monitor=False))

    @property
    def condition(self) -> str:
        """What the detector does, in words, without asking it."""
        return f"{self.cam.detector_state.pvname} is {self.cam.detector_state.latest}"

    def follow(self, counted: Callable[[int], object], status: NamedStatus) -> None:
        """Call `counted` with the number of frames as it grows, until `status` is done; fail that if none can come."""

        def count(value: int, **_: object) -> None:
            counted(value)

        def wrote(value: str, **_: object) -> None:
            if value == "Write error":
                status.fail(OSError(f"{self.hdf.message.pvname}: {self.hdf.message.latest}"))

        for signal, callback in ((self.hdf.num_captured, count), (self.hdf.write_status, wrote)):
            signal.subscribe(callback, run=False)
            status.add_callback(lambda _, signal=signal, callback=callback: signal.clear_sub(callback))
        watch((self.hdf.num_captured, self.cam.detector_state), status)

    def stage(self) -> NamedStatus:
        """Open a file; done once it takes frames. What a client that is gone left armed or open is ended first."""
        self.wait_for_connection(timeout=self.cam.armed.connection_timeout)
        shape = int(self.cam.size_y.get()), int(self.cam.size_x.get())
        return in_order(
            f"stage {self.name}", self.arming.disarm_left_armed, self.arming.stage, lambda: self.files.open(shape)
        )

    def unstage(self) -> NamedStatus:
        """Disarm and close the file."""
        return in_order(f"unstage {self.name}", self.arming.disarm, self.files.close)

    def prepare(self, frames: int) -> NamedStatus:
        """Get ready for a flight of `frames`."""
        self._expected = self.files.written + frames
        return self.arming.prepare(frames)

    def prepare_at(self, positions: np.ndarray, more: int = 0) -> NamedStatus:
        """Get ready for a flight over `positions` (n, 2) [nm] and `more`; the file has the coils' readback of each."""
        return self.prepare(len(positions) + more)

    def kickoff(self) -> NamedStatus:
        """Arm."""
        return self.arming.arm()

    def complete(self) -> NamedStatus:
        """Done once every frame of the flight is in the file."""
        return wait_until(
            self.hdf.num_captured, lambda n: n >= self._expected, f"{self._expected} frames in the file", None
        )

    def describe_collect(self) -> dict[str, DataKey]:
        """Data keys of one stream: the frames and where the probe was."""
        return self.files.describe(self.pixel_type)

    def get_index(self) -> int:
        """Frames in the file."""
        return self.files.written

    def collect_asset_docs(self, index: int | None = None) -> Iterator[StreamAsset]:
        """Documents of the frames written since the last call, up to `index`."""
        written = self.files.written
        yield from self.files.documents(written if index is None else min(index, written))

    def stop(self, *, success: bool = False) -> None:
        """Take no more triggers."""
        if self.cam.armed.latest == "Armed":
            self.arming.disarm().wait()
            self.files.ask()
