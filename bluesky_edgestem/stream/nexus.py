"""How a recorded series is laid out: NeXus (NXmx), with the probe's positions beside the frames."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import h5py
import numpy as np

from ..analysis.optics import Optics
from .series import Chunk, Series

DATA = "/entry/data/data"
DETECTOR = "/entry/instrument/detector"
LISTED = 1 << 24
"""Missing frames that are listed one by one at most, and fill values that may follow the last frame that came."""
ROWS = 512
"""Times in a chunk: a frame far from all others costs so many of each."""
BITSHUFFLE, LZ4 = 32008, 32004
TIMES = ("start_time", "stop_time", "real_time")

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

REASON = "S200"
OUTCOME: Mapping[str, Any] = {
    "ended": "",
    "duplicate_frames": np.int64(0),
    "refused_frames": np.int64(0),
    "backpressure_s": np.float64(0.0),
}
"""Attributes of the detector's group: how the series ended, what was dropped, how long the writer was behind [s]."""


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


def group(parent: h5py.Group, name: str, kind: str) -> h5py.Group:
    """A new group of the NeXus class `kind`."""
    made = parent.create_group(name)
    made.attrs["NX_class"] = kind
    return made


def _filter(chunk: Chunk) -> dict[str, Any]:
    """The filter that decodes the stream's own blobs; a mask on a chunk says that it is not compressed."""
    if chunk.encoding in ("lz4", "lz4-block"):
        return {"compression": LZ4, "compression_opts": (0,)}
    # bitshuffle: block size as in each chunk's header, LZ4 (2) behind it
    return {"compression": BITSHUFFLE, "compression_opts": (0, 2)}


def describe(entry: h5py.Group, context: Context, shape: tuple[int, int]) -> None:
    """Sample, source and beam; where they are known, `scan` with the frames, their axes [mrad] and positions [nm].

    The axes have a group of their own because `data` holds frames and nothing else, as in a detector's own files:
    py4DSTEM reads each member of it as frames.
    """
    group(entry, "sample", "NXsample")["name"] = context.sample
    source = group(entry, "source", "NXsource")
    source["probe"] = "electron"
    if context.optics is None and context.positions is None:
        return
    entry.attrs["default"] = "scan"
    scan = group(entry, "scan", "NXdata")
    scan.attrs["signal"] = "data"
    scan["data"] = h5py.SoftLink(DATA)
    axes = [".", ".", "."]
    if context.optics is not None:
        beam = group(entry["instrument"], "beam", "NXbeam")
        for name, value, unit in (
            ("incident_energy", context.optics.energy_keV, "keV"),
            ("convergence_semiangle", context.optics.semiangle_mrad, "mrad"),
        ):
            beam[name] = value
            beam[name].attrs["units"] = unit
        for k, (name, n) in enumerate(zip(("ky", "kx"), shape, strict=True)):
            scan[name] = (np.arange(n) - (n - 1) / 2) * context.optics.pixel_mrad
            scan[name].attrs["units"] = "mrad"
            axes[1 + k] = name
    scan.attrs["axes"] = axes
    if context.positions is None:
        return
    attributes = group(entry["instrument"], "NDAttributes", "NXcollection")
    for k, (name, ours) in enumerate((("x", "ScanX"), ("y", "ScanY"))):
        scan[name] = np.asarray(context.positions, float)[:, k]
        scan[name].attrs["units"] = "nm"
        scan.attrs[f"{name}_indices"] = 0
        attributes[ours] = h5py.SoftLink(f"/entry/scan/{name}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key]) for key in value}
    if isinstance(value, list | tuple):
        return [_plain(found) for found in value]
    return value.replace("\0", "") if isinstance(value, str) else value  # HDF5's strings end at a zero


def make_data(entry: h5py.Group, series: Series, chunk: Chunk) -> dict[str, h5py.Dataset]:
    """An empty dataset for each channel of `series`, whose chunks are blobs like `chunk`.

    The first is `DATA`. Each further one is ``data`` of a group of its own, as readers take all that is in a group for
    frames of one series.
    """
    made = {}
    for k, channel in enumerate(series.channels):
        data = group(entry, f"data_{channel}" if k else "data", "NXdata")
        data.attrs["signal"] = "data"
        data.attrs["axes"] = [".", ".", "."]
        made[channel] = data.create_dataset(
            "data",
            (0, *chunk.shape),
            chunk.dtype,
            maxshape=(None, *chunk.shape),
            chunks=(1, *chunk.shape),
            **_filter(chunk),
        )
        made[channel].attrs["channel"] = channel
        made[channel].attrs["interpretation"] = "image"
    return made


def make_detector(entry: h5py.Group, series: Series, chunk: Chunk) -> h5py.Group:
    """The detector's group: its calibration, a table of times, and room for the outcome."""
    detector = group(group(entry, "instrument", "NXinstrument"), "detector", "NXdetector")
    detector["data"] = h5py.SoftLink(DATA)
    detector["type"] = "Pixel"
    detector["bit_depth_image"] = 8 * chunk.dtype.itemsize
    config = series.config
    for name, (known, unit) in CALIBRATION.items():
        value = next((config[key] for key in known if key in config), None)
        if isinstance(value, str | int | float):
            detector[name] = _plain(value)
            if unit:
                detector[name].attrs["units"] = unit
    specific = group(detector, "detectorSpecific", "NXcollection")
    specific["series"] = series.number
    specific["series_unique_id"] = _plain(series.unique)
    specific["trigger_mode"] = series.trigger_mode
    specific["number_of_images"] = -1 if series.frames is None else series.frames
    specific["config"] = json.dumps(_plain(config))
    for name in TIMES:
        made = detector.create_dataset(name, (0,), float, maxshape=(None,), chunks=(ROWS,), fillvalue=np.nan)
        made.attrs["units"] = "s"
    for name, value in OUTCOME.items():
        detector.attrs.create(name, value, dtype=REASON if isinstance(value, str) else None)
    return detector


class Missing(NamedTuple):
    """How the runs of missing frames are told."""

    singly: list[range]
    """Number by number, up to `LISTED` of them."""
    runs: list[range]
    """By the first and the last number, as they are too many."""
    tail: int | None
    """The first of too many after the last frame that came; the datasets end before it."""

    @property
    def any(self) -> bool:
        """Whether a frame is missing."""
        return bool(self.singly or self.runs) or self.tail is not None


def listed(missing: Sequence[range], expected: int) -> Missing:
    """Deal out the runs of missing frames, in order."""
    tail = None
    if missing and missing[-1].stop == expected and len(missing[-1]) > LISTED:
        missing, tail = missing[:-1], missing[-1].start
    told = Missing([], [], tail)
    room = LISTED
    for run in missing:
        if len(run) > room:
            told.runs.append(run)
        else:
            told.singly.append(run)
            room -= len(run)
    return told


def list_missing(file: h5py.File, missing: Missing) -> None:
    """Write which frames never came; nothing where there is none."""
    if not missing.any:
        return
    detector = file[DETECTOR]
    dataset = detector.create_dataset(
        "missing_frames", (0,), np.uint64, maxshape=(None,), chunks=(4096,), compression="gzip", shuffle=True
    )
    dataset.attrs["description"] = "numbers of the frames that never came; they hold the fill value"
    if missing.tail is not None:
        dataset.attrs["and_all_from"] = np.uint64(missing.tail)
    if missing.runs:
        dataset.attrs["and_all_in"] = "missing_runs"
        runs = detector.create_dataset("missing_runs", data=np.array([(r[0], r[-1]) for r in missing.runs], np.uint64))
        runs.attrs["description"] = "first and last number of further runs of frames that never came"
    for run in missing.singly:
        for begin in range(run.start, run.stop, 1 << 16):
            numbers = np.arange(begin, min(begin + (1 << 16), run.stop), dtype=np.uint64)
            dataset.resize(len(dataset) + len(numbers), 0)
            dataset[-len(numbers) :] = numbers


def missing_frames(file: h5py.File) -> np.ndarray:
    """Numbers (n,) uint64 of the frames that a recorded file lacks; none in a complete one, which has no such list.

    Of more than `LISTED` it gives those that are listed one by one: the list's attributes tell of the others.
    """
    detector = file[DETECTOR]
    return detector["missing_frames"][:] if "missing_frames" in detector else np.zeros(0, np.uint64)
