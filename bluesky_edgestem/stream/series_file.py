"""The file of a series: NeXus (NXmx), readable while it grows, the detector's own blobs as its chunks.

Flush policy: frames become visible to readers, and are acknowledged, with each flush, every `FLUSH` seconds and at the
end. What was acknowledged survives the death of the process (`mend` then makes the file an ordinary one), not that of
the machine.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..analysis.optics import Optics
from .encoding import decompress, frame_block, nbytes
from .series import Chunk, Frame, Series

FLUSH = 0.25
"""Time [s] between two flushes while frames come."""
RESERVE = 1 << 22
"""Bytes that must stay free on the disk: HDF5 cannot even close a file on a full one."""
LISTED = 1 << 24
"""Missing frames that are listed one by one, and fill values that may follow the last frame that came."""
BITSHUFFLE, LZ4 = 32008, 32004
TIMES = ("start_time", "stop_time", "real_time")
DETECTOR = "/entry/instrument/detector"

CALIBRATION = {
    # NeXus name: names in stream v1 and v2, unit
    "description": (("description", "detector_description"), ""),
    "serial_number": (("detector_number", "detector_serial_number"), ""),
    "x_pixel_size": (("x_pixel_size", "pixel_size_x"), "m"),
    "y_pixel_size": (("y_pixel_size", "pixel_size_y"), "m"),
    "count_time": (("count_time",), "s"),
    "frame_time": (("frame_time",), "s"),
    "bit_depth_readout": (("bit_depth_readout",), ""),
    "saturation_value": (("saturation_value", "countrate_correction_count_cutoff"), ""),
    "sensor_material": (("sensor_material",), ""),
    "sensor_thickness": (("sensor_thickness",), "m"),
    "beam_center_x": (("beam_center_x",), "pixel"),
    "beam_center_y": (("beam_center_y",), "pixel"),
    "distance": (("detector_distance",), "m"),
}


class DiskFull(OSError):
    """There is no room for the next frames."""


@dataclass(frozen=True)
class Context:
    """What the detector does not know of its frames.

    Parameters
    ----------
    positions : numpy.ndarray, optional
        (n, 2) of the probe [nm], in the order of the frames.
    optics : Optics, optional
        Beam energy, semiangle and the angle of a pixel.
    sample : str
    """

    positions: np.ndarray | None = None
    optics: Optics | None = None
    sample: str = ""


class SeriesFile:
    """A file that takes one series.

    Parameters
    ----------
    path : Path
        A file that does not exist yet.
    series : Series
    chunk : Chunk
        An image of the series: its shape, type and encoding are those of the file.
    context : Context

    Raises
    ------
    OSError
        The file exists, or cannot be written.
    """

    def __init__(self, path: Path, series: Series, chunk: Chunk, context: Context) -> None:
        self.path, self.series, self._like = path, series, chunk
        self._folder = path.parent
        self.written = self.acknowledged = 0
        self._extent, self._flushed = 0, time.monotonic()
        self._file = h5py.File(path, "x", libver="latest")
        entry = _group(self._file, "entry", "NXentry")
        entry.attrs["default"] = "data"
        entry["definition"] = "NXmx"
        entry["start_time"] = datetime.now(UTC).isoformat()
        entry.attrs["complete"] = np.False_
        self._file.attrs["default"] = "entry"
        self._data = self._make_data(entry, chunk)
        self._detector = self._make_detector(entry, chunk)
        self._times = [self._detector[name] for name in TIMES]
        _describe(entry, context, chunk.shape)
        self._file.swmr_mode = True

    def _make_data(self, entry: h5py.Group, chunk: Chunk) -> dict[str, h5py.Dataset]:
        data = _group(entry, "data", "NXdata")
        data.attrs["signal"] = "data"
        names = {name: f"data_{name}" if k else "data" for k, name in enumerate(self.series.channels)}
        made = {}
        for channel, name in names.items():
            made[channel] = data.create_dataset(
                name,
                (0, *chunk.shape),
                chunk.dtype,
                maxshape=(None, *chunk.shape),
                chunks=(1, *chunk.shape),
                **_filter(chunk),
            )
            made[channel].attrs["channel"] = channel
            made[channel].attrs["interpretation"] = "image"
        if len(names) > 1:
            data.attrs["auxiliary_signals"] = list(names.values())[1:]
        return made

    def _make_detector(self, entry: h5py.Group, chunk: Chunk) -> h5py.Group:
        detector = _group(_group(entry, "instrument", "NXinstrument"), "detector", "NXdetector")
        detector["data"] = h5py.SoftLink("/entry/data/data")
        detector["type"] = "Pixel"
        detector["bit_depth_image"] = 8 * chunk.dtype.itemsize
        config = self.series.config
        for name, (known, unit) in CALIBRATION.items():
            value = next((config[key] for key in known if key in config), None)
            if isinstance(value, str | int | float):
                detector[name] = value
                if unit:
                    detector[name].attrs["units"] = unit
        specific = _group(detector, "detectorSpecific", "NXcollection")
        specific["series"] = self.series.number
        specific["series_unique_id"] = self.series.unique
        specific["trigger_mode"] = self.series.trigger_mode
        specific["number_of_images"] = -1 if self.series.frames is None else self.series.frames
        specific["config"] = json.dumps(_plain(config))
        for name in TIMES:
            made = detector.create_dataset(name, (0,), float, maxshape=(None,), chunks=(4096,), fillvalue=np.nan)
            made.attrs["units"] = "s"
        for name, value in OUTCOME.items():
            detector.attrs.create(name, value, dtype=REASON if isinstance(value, str) else None)
        return detector

    def write(self, frames: Sequence[Frame]) -> None:
        """Add frames, in any order.

        Raises
        ------
        DiskFull
            There is no room for them; the file can still be finished.
        OSError, RuntimeError
            HDF5 could not write; `abandon` the file then.
        """
        if not frames:
            return
        status = os.statvfs(self._folder)
        if status.f_bavail * status.f_frsize < RESERVE + sum(len(c.data) for f in frames for c in f.chunks):
            raise DiskFull(f"the disk of {self._folder} has no room for frame {frames[0].number}")
        self._extend(max(frame.number for frame in frames) + 1)
        for frame in frames:
            for chunk in frame.chunks:
                mask, data = self._as_stored(chunk)
                self._data[chunk.channel].id.write_direct_chunk((frame.number, 0, 0), data, mask)
        for begin, run in _runs(frames):
            for k, dataset in enumerate(self._times):
                dataset[begin : begin + len(run)] = [frame[3 + k] for frame in run]
        self.written += len(frames)
        if time.monotonic() - self._flushed > FLUSH:
            self.flush()

    def _extend(self, extent: int) -> None:
        if extent <= self._extent:
            return
        for dataset in (*self._data.values(), *self._times):
            dataset.resize(extent, 0)
        self._extent = extent

    def _as_stored(self, chunk: Chunk) -> tuple[int, bytes]:
        """Filters left out (a bit mask), and the bytes that the file's filter takes for this chunk."""
        if chunk.encoding == self._like.encoding and not chunk.column_major and chunk.dtype == self._like.dtype:
            if chunk.encoding == "lz4-block":
                return 0, frame_block(chunk.data, nbytes(chunk))
            return int(chunk.encoding == "none"), chunk.data
        image = decompress(chunk)
        return 1, np.ascontiguousarray(image.T if chunk.column_major else image, self._like.dtype).tobytes()

    def flush(self) -> None:
        """Let readers see, and acknowledge, what was written."""
        self._flushed = time.monotonic()
        if self.acknowledged == self.written:
            return
        for dataset in (*self._times, *self._data.values()):
            dataset.flush()
        self.acknowledged = self.written

    def finish(self, missing: Sequence[range], expected: int, **outcome: Any) -> None:
        """Note what is missing of `expected` frames and what came of the series (see `OUTCOME`), and close."""
        missing, tail = listed(missing, expected)
        self._extend(expected if tail is None else tail)
        for name, value in outcome.items():
            self._detector.attrs.modify(name, value)
        self._file["entry"].attrs.modify("complete", np.bool_(not missing and tail is None))
        self.flush()
        self._file.close()
        if missing or tail is not None:
            # HDF5 adds nothing to a file that others read meanwhile, and readers (RosettaSciIO) stumble over an empty
            # list made beforehand: what is rare pays, by a moment in which the file is not open to new readers.
            with h5py.File(self.path, "r+", libver="latest") as file:
                list_missing(file, missing, tail)

    def abandon(self) -> None:
        """Leave a file that could not be written as it is, readable up to its last flush.

        HDF5 cannot flush it, so it can neither be closed nor collected: both end in a segmentation fault.
        """
        abandoned.append(self)


abandoned: list[SeriesFile] = []
"""Files that must outlive the process: end it by `os._exit` where there is one."""

REASON = "S200"
OUTCOME: Mapping[str, Any] = {
    "ended": "",
    "duplicate_frames": np.int64(0),
    "refused_frames": np.int64(0),
    "backpressure_s": np.float64(0.0),
}
"""Attributes of the detector's group: how the series ended, what was dropped, how long the writer was behind [s]."""


def _group(parent: h5py.Group, name: str, kind: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = kind
    return group


def _filter(chunk: Chunk) -> dict[str, Any]:
    """The filter that decodes the stream's own blobs; a mask on a chunk says that it is not compressed."""
    if chunk.encoding in ("lz4", "lz4-block"):
        return {"compression": LZ4, "compression_opts": (0,)}
    # bitshuffle: block size as in each chunk's header, LZ4 (2) behind it
    return {"compression": BITSHUFFLE, "compression_opts": (0, 2)}


def _describe(entry: h5py.Group, context: Context, shape: tuple[int, int]) -> None:
    data = entry["data"]
    _group(entry, "sample", "NXsample")["name"] = context.sample
    source = _group(entry, "source", "NXsource")
    source["probe"] = "electron"
    axes = [".", ".", "."]
    if context.optics is not None:
        beam = _group(entry["instrument"], "beam", "NXbeam")
        for name, value, unit in (
            ("incident_energy", context.optics.energy_keV, "keV"),
            ("convergence_semiangle", context.optics.semiangle_mrad, "mrad"),
        ):
            beam[name] = value
            beam[name].attrs["units"] = unit
        for k, (name, n) in enumerate(zip(("ky", "kx"), shape, strict=True)):
            data[name] = (np.arange(n) - (n - 1) / 2) * context.optics.pixel_mrad
            data[name].attrs["units"] = "mrad"
            axes[1 + k] = name
    data.attrs["axes"] = axes
    if context.positions is None:
        return
    attributes = _group(entry["instrument"], "NDAttributes", "NXcollection")
    for k, (name, ours) in enumerate((("x", "ScanX"), ("y", "ScanY"))):
        data[name] = np.asarray(context.positions, float)[:, k]
        data[name].attrs["units"] = "nm"
        data.attrs[f"{name}_indices"] = 0
        attributes[ours] = h5py.SoftLink(f"/entry/data/{name}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key]) for key in value}
    if isinstance(value, list | tuple):
        return [_plain(found) for found in value]
    return value


def _runs(frames: Sequence[Frame]) -> Iterable[tuple[int, list[Frame]]]:
    """Frames in runs of successive numbers: one write each."""
    run: list[Frame] = []
    for frame in sorted(frames, key=lambda frame: frame.number):
        if run and frame.number != run[-1].number + 1:
            yield run[0].number, run
            run = []
        run.append(frame)
    yield run[0].number, run


def listed(missing: Sequence[range], expected: int) -> tuple[list[range], int | None]:
    """The runs to list one by one, and where there are too many after the last frame, the first of these."""
    if missing and missing[-1].stop == expected and len(missing[-1]) > LISTED:
        return list(missing[:-1]), missing[-1].start
    return list(missing), None


def list_missing(file: h5py.File, missing: Iterable[range], tail: int | None) -> None:
    """Write the numbers of the frames that never came; from `tail` on all of them."""
    dataset = file[DETECTOR].create_dataset(
        "missing_frames", (0,), np.uint64, maxshape=(None,), chunks=(4096,), compression="gzip", shuffle=True
    )
    dataset.attrs["description"] = "numbers of the frames that never came; they hold the fill value"
    if tail is not None:
        dataset.attrs["and_all_from"] = np.uint64(tail)
    for run in missing:
        for begin in range(run.start, run.stop, 1 << 16):
            numbers = np.arange(begin, min(begin + (1 << 16), run.stop), dtype=np.uint64)
            dataset.resize(len(dataset) + len(numbers), 0)
            dataset[-len(numbers) :] = numbers


def missing_frames(file: h5py.File) -> np.ndarray:
    """Numbers (n,) uint64 of the frames that a recorded file lacks; none in a complete one, which has no such list."""
    detector = file[DETECTOR]
    return detector["missing_frames"][:] if "missing_frames" in detector else np.zeros(0, np.uint64)
