"""The detector's data: one HDF5 file from stage to unstage, and the documents that point into it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import PurePosixPath

import numpy as np
from bluesky.protocols import StreamAsset
from event_model import DataKey
from ophyd import Component as Cpt
from ophyd import Device

from .frame_documents import FrameDocuments, frame_keys
from .signals import BusySignal, ReadSignal, SetSignal, start_busy, wait_until
from .statuses import NamedStatus, in_order


class HDFPlugin(Device):
    """areaDetector's NDFileHDF5, as far as it is needed. Its IOC must attach the coils' readback to each frame as the
    NDAttributes ScanX and ScanY [nm]."""

    enable = Cpt(SetSignal, "EnableCallbacks", string=True, kind="omitted")
    file_path = Cpt(SetSignal, "FilePath", string=True, kind="config")
    file_path_exists = Cpt(ReadSignal, "FilePathExists_RBV", string=True, kind="omitted")
    file_name = Cpt(SetSignal, "FileName", string=True, kind="config")
    file_template = Cpt(SetSignal, "FileTemplate", string=True, kind="omitted")
    write_mode = Cpt(SetSignal, "FileWriteMode", string=True, kind="omitted")
    swmr = Cpt(SetSignal, "SWMRMode", string=True, kind="omitted")
    lazy_open = Cpt(SetSignal, "LazyOpen", string=True, kind="omitted")
    compression = Cpt(SetSignal, "Compression", string=True, kind="config")
    num_capture = Cpt(SetSignal, "NumCapture", kind="omitted")
    capture = Cpt(BusySignal, "Capture", kind="omitted")
    capturing = Cpt(ReadSignal, "Capture_RBV", string=True, kind="omitted")
    full_name = Cpt(ReadSignal, "FullFileName_RBV", string=True, kind="omitted")
    num_captured = Cpt(ReadSignal, "NumCaptured_RBV", kind="omitted")
    write_status = Cpt(ReadSignal, "WriteStatus", string=True, kind="omitted")
    message = Cpt(ReadSignal, "WriteMessage", string=True, kind="omitted")


class FrameFiles:
    """Data logic of the detector: opens and closes the file, counts its frames, composes their documents.

    Parameters
    ----------
    hdf : HDFPlugin
    name : str
        Data key of the frames; the probe's positions are `name`_x and `name`_y.
    directory : str
        Folder, as the detector's IOC and everyone who reads the files see it.
    """

    def __init__(self, hdf: HDFPlugin, name: str, directory: str) -> None:
        self.hdf, self.name, self.directory = hdf, name, directory
        self._shape = (0, 0)
        self._path = PurePosixPath()
        self._documents = FrameDocuments(self._path, name, self._shape)
        self._asked = 0

    @property
    def written(self) -> int:
        """Frames in the file, as far as is known without asking."""
        return max(int(self.hdf.num_captured.latest or 0), self._asked)

    def ask(self) -> None:
        """Ask for the number of frames in the file: monitors of different PVs come in no order that holds."""
        self._asked = int(self.hdf.num_captured.get(use_monitor=False))

    def open(self, shape: tuple[int, int]) -> NamedStatus:
        """Start a file for frames of `shape` (ny, nx); done once the plugin captures.

        Fails where the folder does not exist or cannot be written.
        """
        name = f"{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:8]}"
        folder = f"{self.directory.rstrip('/')}/"
        self._path = PurePosixPath(folder) / f"{name}.h5"
        self._documents = FrameDocuments(self._path, self.name, shape)
        self._shape, self._asked = shape, 0
        hdf = self.hdf
        settings = (
            (hdf.enable, "Enable"),
            (hdf.file_path, folder),
            (hdf.file_name, name),
            (hdf.file_template, "%s%s.h5"),
            (hdf.write_mode, "Stream"),
            (hdf.swmr, "On"),
            # The real plugin knows the frame's shape only once it has seen one.
            (hdf.lazy_open, "Yes"),
            (hdf.compression, "BSLZ4"),
            (hdf.num_capture, 0),
        )
        return in_order(
            f"open {self._path}",
            self._close_left_open,
            *[lambda signal=signal, value=value: signal.set(value) for signal, value in settings],
            self._check_folder,
            lambda: start_busy(hdf.capture, hdf.capturing, ("Capturing",), hdf.message),
            lambda: wait_until(hdf.num_captured, lambda n: n == 0, f"reset {hdf.num_captured.pvname}"),
        )

    def _close_left_open(self) -> NamedStatus:
        """Finish a file that a client which is gone left open: settings would be refused, or frames go there."""
        if self.hdf.capturing.get(use_monitor=False) == "Done":
            return wait_until(self.hdf.capturing, lambda value: value == "Done", f"know {self.hdf.capturing.pvname}")
        return self.close()

    def _check_folder(self) -> NamedStatus:
        exists = wait_until(self.hdf.file_path_exists, lambda value: value == "Yes", "check the folder", 1.0)
        status = NamedStatus(f"check {self.directory}")

        def told(_: object) -> None:
            if exists.success:
                status.finish()
            else:
                status.fail(
                    FileNotFoundError(
                        f"{self.hdf.file_path_exists.pvname}: the folder {self.directory} does not exist on the "
                        "detector's computer, or is no folder; create it there or choose another"
                    )
                )

        exists.add_callback(told)
        return status

    def close(self) -> NamedStatus:
        """Finish the file; done once the plugin no longer captures."""
        self.hdf.capture.end()
        return wait_until(self.hdf.capturing, lambda value: value == "Done", f"end {self.hdf.capture.pvname}")

    def describe(self, pixel: np.dtype) -> dict[str, DataKey]:
        """Data keys of the frames, whose pixels are of type `pixel`, and of the probe's positions."""
        return frame_keys(self.name, f"{self.hdf.prefix}FullFileName_RBV", self._shape, pixel.str)

    def _check_name(self) -> None:
        """Raise where the plugin writes to another file than was asked for.

        It is known only now: a plugin that opens its file at the first frame tells its name no sooner.
        """
        signal = self.hdf.full_name
        if PurePosixPath(str(signal.latest)) == self._path or not signal.connected:
            return
        told = str(signal.get(use_monitor=False))  # monitors of different PVs come in no order that holds
        if PurePosixPath(told) != self._path:
            raise RuntimeError(
                f"{signal.pvname} is {told!r}, but {str(self._path)!r} was asked for: another client uses this "
                "detector, or its FileTemplate was changed; let one client use it, and run again"
            )

    def documents(self, stop: int) -> Iterator[StreamAsset]:
        """Stream documents of the frames not yet told of, up to index `stop`; the resources come with the first."""
        if stop and not self._documents.emitted:
            self._check_name()
        yield from self._documents.up_to(stop)
