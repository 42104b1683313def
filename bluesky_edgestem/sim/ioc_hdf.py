"""Soft-IOC of the detector's HDF5 plugin, under the names of areaDetector's NDFileHDF5."""

from __future__ import annotations

import asyncio
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .column import Column
from .hdf5_writer import FrameFile, cause
from .records import Paced, Records, RefusedWrite, choice, integer, setting, text

COMPRESSIONS = ("None", "N-bit", "szip", "zlib", "Blosc", "BSLZ4", "LZ4", "JPEG")
SIMULATED_COMPRESSIONS = ("None", "zlib", "BSLZ4")


class HDFPluginIOC(Records):
    """Writes frames to one HDF5 file from the start of a capture to its end."""

    enable, enable_rbv = setting(choice, "EnableCallbacks", "Disable", ("Disable", "Enable"), "Take frames")
    file_path, file_path_rbv = setting(text, "FilePath", "/tmp/", "Folder that the file goes to")
    path_exists = choice("FilePathExists_RBV", "Yes", ("No", "Yes"), "Whether the folder exists", read_only=True)
    create_directory, create_directory_rbv = setting(
        integer,
        "CreateDirectory",
        0,
        "Folders to create, from the last one up, as a negative number",
        low=-10,
        high=0,
    )
    file_name, file_name_rbv = setting(text, "FileName", "frames", "Name of the file")
    file_number, file_number_rbv = setting(integer, "FileNumber", 1, "Number of the file", low=0, high=10**9)
    file_template, file_template_rbv = setting(
        text, "FileTemplate", "%s%s_%6.6d.h5", "Makes the full name from path, name and number"
    )
    auto_increment, auto_increment_rbv = setting(
        choice, "AutoIncrement", "Yes", ("No", "Yes"), "Add one to the number after each file"
    )
    full_name = text("FullFileName_RBV", "", "The file being written, or last written", read_only=True)
    write_mode, write_mode_rbv = setting(
        choice, "FileWriteMode", "Stream", ("Single", "Capture", "Stream"), "Only Stream is simulated"
    )
    swmr, swmr_rbv = setting(choice, "SWMRMode", "Off", ("Off", "On"), "Let others read the file while it is written")
    lazy_open, lazy_open_rbv = setting(
        choice,
        "LazyOpen",
        "No",
        ("No", "Yes"),
        "Create the file at the first frame rather than at the capture",
    )
    compression, compression_rbv = setting(
        choice, "Compression", "BSLZ4", COMPRESSIONS, f"Simulated are {', '.join(SIMULATED_COMPRESSIONS)}"
    )
    num_capture, num_capture_rbv = setting(
        integer, "NumCapture", 0, "Frames per file; 0 for as many as come", low=0, high=10**9
    )
    capture = choice(
        "Capture", "Done", ("Done", "Capture"), "Write frames; busy until stopped or NumCapture are written"
    )
    capture_rbv = choice("Capture_RBV", "Done", ("Done", "Capturing"), "Whether frames are written", read_only=True)
    num_captured = integer("NumCaptured_RBV", 0, "Frames in the file", read_only=True)
    write_status = choice("WriteStatus", "Write OK", ("Write OK", "Write error"), "Of the last write", read_only=True)
    message = text("WriteMessage", "", "What went wrong with the last write", read_only=True)

    def __init__(self, prefix: str, *, column: Column, bit_depth: int = 16) -> None:
        super().__init__(prefix)
        self.column, self.bit_depth = column, bit_depth
        self._file: FrameFile | None = None
        self._count = 0
        self._ended = asyncio.Event()
        self._captured = Paced(self.num_captured)
        self._thread = ThreadPoolExecutor(1, "hdf5")  # h5py blocks, and one writer keeps the order

    @file_path.putter
    async def file_path(self, instance, value):
        path = value if value.endswith("/") else value + "/"
        depth = -self.create_directory.value
        missing = [p for p in (Path(path), *Path(path).parents) if not p.exists()]
        if missing and len(missing) <= depth:
            try:
                Path(path).mkdir(parents=True)
            except OSError as error:
                await self.say(f"cannot create {path}: {cause(error)}")
        await self.path_exists.write("Yes" if Path(path).is_dir() else "No")
        await self.file_path_rbv.write(path)
        return path

    @write_mode.putter
    async def write_mode(self, instance, value):
        if value != "Stream":
            raise RefusedWrite(f"{value!r} is not simulated; set Stream")
        await self.write_mode_rbv.write(value)
        return value

    @compression.putter
    async def compression(self, instance, value):
        if value not in SIMULATED_COMPRESSIONS:
            raise RefusedWrite(f"{value!r} is not simulated; set one of {', '.join(SIMULATED_COMPRESSIONS)}")
        await self.compression_rbv.write(value)
        return value

    def _full_name(self) -> Path:
        path, name, number = self.file_path_rbv.value, self.file_name.value, self.file_number.value
        template = self.file_template.value
        try:
            return Path(template % (path, name, number))
        except TypeError:  # a template may leave the number out; C's printf ignores it, Python's does not
            return Path(template % (path, name))

    @capture.putter
    async def capture(self, instance, value):
        if value == "Done":
            await self._end()
            return value
        if self.capture_rbv.value == "Capturing":
            raise RefusedWrite("a capture runs already; write 0 to Capture first")
        path = self._full_name()
        try:
            if path.exists():
                raise FileExistsError(f"{path} exists; set another FileName")
            with tempfile.TemporaryFile(dir=path.parent):
                pass  # a folder that cannot be written is an error now, not at the first frame
            if self.lazy_open.value == "No":
                await self._open(path)
        except OSError as error:
            await self.write_status.write("Write error")
            raise RefusedWrite(f"cannot write {path}: {cause(error)}") from error
        await self.write_status.write("Write OK")
        await self.say("")
        self._count = 0
        self._captured.put(0)
        await self._captured.flush()
        self._ended.clear()
        await self.full_name.write(str(path))
        await self.capture_rbv.write("Capturing")
        await instance.write("Capture", verify_value=False)
        await self._ended.wait()
        return "Done"

    async def _open(self, path: Path) -> None:
        shape = (self.column.optics.n_pixels,) * 2
        pixel = np.dtype(f"u{self.bit_depth // 8}")
        self._file = await self._blocking(
            FrameFile, path, shape, pixel, self.compression.value, self.swmr.value == "On"
        )

    async def _blocking(self, function, *args):
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def take(self, frame: np.ndarray, x: float, y: float) -> None:
        """Write one frame, exposed at `x`, `y` [nm], where a capture runs.

        Raises
        ------
        OSError
            The frame could not be written; the capture has ended, and the records say why.
        """
        if self.enable.value != "Enable" or self.capture_rbv.value != "Capturing":
            return
        try:
            if self._file is None:
                await self._open(Path(self.full_name.value))
            await self._blocking(self._file.append, frame, x, y)
        except (OSError, RuntimeError) as error:
            await self._fail(error)
            raise OSError(f"frame {self._count} was not written: {cause(error)}") from error
        self._count += 1
        self._captured.put(self._count)
        if self._count == self.num_capture.value:
            await self._end()

    async def _fail(self, error: Exception) -> None:
        if self._file is not None:
            self._file.abandon()
            self._file = None
        await self.say(f"{cause(error)}: {self.full_name.value}")
        await self.write_status.write("Write error")
        await self._end()

    async def flush(self) -> None:
        """Publish how many frames are in the file, to the last one."""
        await self._captured.flush()

    async def _end(self) -> None:
        if self.capture_rbv.value != "Capturing":
            return
        await self.flush()
        file, self._file = self._file, None
        if file is not None:
            try:
                await self._blocking(file.close)
            except (OSError, RuntimeError) as error:
                file.abandon()
                await self.say(f"{cause(error)}: {self.full_name.value}")
                await self.write_status.write("Write error")
        if self.auto_increment.value == "Yes":
            await self.file_number.write(self.file_number.value + 1)
        await self.capture_rbv.write("Done")
        self._ended.set()
