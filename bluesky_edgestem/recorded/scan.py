"""A scan that was recorded: a run of the catalog, or an HDF5 file. Its frames are read when they are needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..analysis.counts import NO_COUNTS, as_counts
from ..analysis.optics import Optics
from ..analysis.scan_metadata import ScanMetadata
from ..callbacks.frame_chunks import frames_there, saturation_of
from ..geometry import FieldOfView, ScanGrid
from .rasters import raster_of
from .selected_frames import SelectedFrames

if TYPE_CHECKING:
    import h5py
    from tiled.client.container import Container

FRAMES = "/entry/data/data"
POSITIONS = tuple(f"/entry/instrument/NDAttributes/Scan{axis}" for axis in "XY")
BEAM = "/entry/instrument/beam"
ANGLES = "/entry/scan/kx"
NM_AND_SHAPE = "say on which raster they were taken: --shape NY NX --step NM"
TELLING = 100
"""Pixels with electrons of which it is no chance that all are multiples of a number."""


@dataclass(frozen=True)
class Given:
    """What a user says of a scan; it goes before what the recording says.

    Parameters
    ----------
    shape : (int, int), optional
        Rows and columns of the raster.
    step : float, optional
        From one of its points to the next [nm].
    flyback : int, optional
        Frames at the end of each row, while the probe goes back.
    energy_keV, pixel_mrad : float, optional
        Of the beam [keV] and of a detector pixel [mrad]; both are needed for a calibration.
    dataset : str, optional
        Of a file's frames; data key of a run's.
    saturation : int, optional
        Counts at which a pixel saturates.
    """

    shape: tuple[int, int] | None = None
    step: float | None = None
    flyback: int | None = None
    energy_keV: float | None = None
    pixel_mrad: float | None = None
    dataset: str | None = None
    saturation: int | None = None

    def metadata(self, start: Mapping[str, Any], known: Optics | None, n_pixels: int) -> ScanMetadata:
        """Of a scan whose start document and optics are these, as far as there are any."""
        described = dict(start)
        if self.shape is not None:
            if min(self.shape) < 2:
                raise ValueError(f"a raster has at least 2 x 2 points, got {self.shape[0]} x {self.shape[1]}")
            if self.step is not None and not 0 < self.step < np.inf:
                raise ValueError(
                    f"--step, from one point of the raster to the next, is more than 0 nm; got {self.step}"
                )
            step = 1.0 if self.step is None else self.step  # numbers are told apart without it, positions are not
            width, height = ((n - 1) * step for n in self.shape[::-1])
            described |= {"shape": self.shape, "field_of_view": vars(FieldOfView(0.0, 0.0, width, height))}
        scan = ScanMetadata.of(described, optics=known, flyback=self.flyback)
        return replace(scan, optics=self._optics(scan.optics, n_pixels))

    def _optics(self, known: Optics | None, n_pixels: int) -> Optics | None:
        asked = {"energy_keV": self.energy_keV, "pixel_mrad": self.pixel_mrad}
        said: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        if not said:
            return known
        if known is None and len(said) < 2:
            raise ValueError("a calibration takes the beam's energy and the angle of a pixel: give both")
        return Optics(**({"n_pixels": n_pixels} if known is None else vars(known)) | said)


@dataclass(frozen=True)
class RecordedScan:
    """The frames of a scan that came, and where they were taken.

    Attributes
    ----------
    name : str
        uid of the run, or path of the file.
    frames : SelectedFrames
        (n, ny, nx), unsigned integers.
    numbers : numpy.ndarray
        (n,) of the frames in the recording, from 0.
    recorded : int
        Frames of the recording; those that were lost or taken on the way back of the probe are not among `frames`.
    scan : ScanMetadata
        Beam, detector and raster, as far as they are known.
    start : mapping
        The run's start document; empty for a file.
    """

    name: str
    frames: SelectedFrames
    numbers: np.ndarray
    recorded: int
    scan: ScanMetadata
    start: Mapping[str, Any] = field(default_factory=dict)
    _measured: np.ndarray | None = None
    _step_known: bool = True

    @property
    def positions(self) -> np.ndarray:
        """Where the frames were taken, (n, 2) [nm].

        Raises
        ------
        ValueError
            The recording has neither positions nor a raster.
        """
        if self._measured is not None:
            return self._measured
        if self.scan.grid is None:
            raise ValueError(f"the {self.recorded} frames of {self.name} have no positions; {NM_AND_SHAPE}")
        if not self._step_known:
            raise ValueError(f"how far apart the frames of {self.name} were taken is not known; give --step NM")
        return self.scan.positions(self.numbers)

    @property
    def grid(self) -> ScanGrid | None:
        """The raster; None for a list of positions."""
        return self.scan.grid or raster_of(self.positions)

    @classmethod
    def of(
        cls,
        name: str,
        source: Any,
        there: np.ndarray,
        positions: np.ndarray | None,
        given: Given,
        *,
        optics: Optics | None = None,
        start: Mapping[str, Any] | None = None,
    ) -> RecordedScan:
        """Put together what was found; `there` (all,) bool are the frames that came, `positions` (all, 2) [nm].

        Raises
        ------
        ValueError
            There is no frame, frames are no counts, or do not fit positions or raster.
        """
        if len(source.shape) == 4:
            (rows, columns), back = source.shape[:2], given.flyback or 0
            if given.shape is None:
                given = replace(given, shape=(rows, columns - back))
            elif min(rows, columns) > 1 and given.shape != (rows, columns - back):
                raise ValueError(
                    f"{name} has {rows} rows of {columns} frames, not {given.shape[0]} of {given.shape[1] + back}: "
                    "correct --shape (rows, columns) or --flyback, or leave --shape out"
                )
        if given.step is not None and given.shape is None:
            raise ValueError("a step is that of a raster: give its --shape NY NX, too")
        n = len(there)
        if not there.any():
            raise ValueError(f"{name} has no frames" + (f": none of the {n} came" if n else ""))
        if positions is not None and len(positions) != n:
            raise ValueError(f"{name} has {n} frames and {len(positions)} positions; {NM_AND_SHAPE}")
        scan = given.metadata(start or {}, optics, int(source.shape[-1]))
        if given.shape is not None:
            positions = None
            columns = given.shape[1] + scan.flyback
            if n > given.shape[0] * columns:
                raise ValueError(
                    f"{name} has {n} frames, more than the {given.shape[0]} x {columns} of the raster: correct --shape "
                    "(rows, columns) or --flyback"
                )
        if positions is not None:  # a frame from nowhere is on no map
            there = there & np.isfinite(positions).all(1)
            if not there.any():
                raise ValueError(f"none of the {n} positions of {name} is a number; {NM_AND_SHAPE}")
        numbers = np.flatnonzero(there)
        numbers = numbers[~scan.way_back(numbers)]
        frames = SelectedFrames(source, numbers, given.saturation)
        _check_counts(name, frames)
        measured = None if positions is None else positions[numbers]
        step_known = given.shape is None or given.step is not None
        return cls(name, frames, numbers, n, scan, start or {}, measured, step_known)


def _check_counts(name: str, frames: SelectedFrames) -> None:
    """Raise ValueError where some frames, spread over the scan, hold no counts, or all of them a multiple of counts."""
    if not len(frames):
        return
    some = np.unique(np.linspace(0, len(frames) - 1, 8).astype(int))
    read = [as_counts(frames[i : i + 1]) for i in some] if frames.dtype.kind in "uif" else []
    counted = [counts for counts, broken in read if not broken[0]]
    if not counted:
        raise ValueError(
            f"{name}: frames are {frames.dtype} and hold {NO_COUNTS}. Strain is told from electrons counted, whose "
            "noise is known: export the counts as integers, without scaling, offset or gain"
        )
    pixels = np.concatenate([counts[(counts > 0) & (counts < np.iinfo(counts.dtype).max)] for counts in counted])
    gain = int(np.gcd.reduce(pixels)) if len(pixels) >= TELLING else 1
    if gain > 1:
        raise ValueError(
            f"{name}: all pixels are multiples of {gain}, as with a gain of {gain} for each electron. Strain is told "
            "from electrons counted, whose noise is known: divide the frames by the gain"
        )


@contextlib.contextmanager
def open_file(path: Path, given: Given | None = None) -> Iterator[RecordedScan]:
    """A scan in an HDF5 file: of ``edgestem stream record``, of a microscope of this package, or of another program.

    Raises
    ------
    ValueError, OSError
        It cannot be read; the message says what to do.
    """
    import h5py
    import hdf5plugin  # noqa: F401  registers the detectors' compression

    given = given or Given()
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name an HDF5 file in it, or the uid of a run in the catalog")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if not h5py.is_hdf5(path):
            raise OSError(f"{path} is no HDF5 file: export the frames as HDF5, (frames, ny, nx)") from None
        raise OSError(
            f"{path} cannot be opened as HDF5 ({error}); a file that its writer left open is mended by "
            f"`edgestem stream mend {path}`"
        ) from None
    with file:
        source = _frames_of(file, given.dataset)
        n = int(np.prod(source.shape[:-2]))
        there = frames_there(source, 0, n) if source.ndim == 3 else np.ones(n, bool)
        positions = None
        if all(isinstance(file.get(name), h5py.Dataset) for name in POSITIONS) and source.name == FRAMES:
            positions = np.column_stack([np.asarray(file[name], float) for name in POSITIONS])
        if given.saturation is None:
            given = replace(given, saturation=saturation_of(file))
        yield RecordedScan.of(str(path), source, there, positions, given, optics=_optics_of(file, source.shape[-1]))


def _frames_of(file: h5py.File, dataset: str | None) -> h5py.Dataset:
    import h5py

    shapes: dict[str, tuple[int, ...]] = {}
    file.visititems(lambda name, each: shapes.update({f"/{name}": each.shape}) if hasattr(each, "shape") else None)
    found = [name for name, shape in shapes.items() if len(shape) in (3, 4)]
    if dataset is None and FRAMES in file:
        dataset = FRAMES
    if dataset is None and len(found) == 1:
        dataset = found[0]
    if dataset is None or not isinstance(file.get(dataset), h5py.Dataset):
        what = f"no dataset {dataset}" if dataset else "no frames" if not found else "more than one series of frames"
        there = f"; there are {', '.join(found)}: say which by --dataset" if found else ""
        if not found and shapes:
            told = ", ".join(f"{name} {shape}" for name, shape in list(shapes.items())[:5])
            there = f", (frames, ny, nx) or (rows, columns, ny, nx); it holds {told}"
        raise ValueError(f"{file.filename} has {what}{there}")
    source = file[dataset]
    if source.ndim not in (3, 4):
        raise ValueError(
            f"{dataset} of {file.filename} has the shape {source.shape}; a scan is (frames, ny, nx) or (rows, columns, "
            "ny, nx)"
        )
    return source


def _optics_of(file: h5py.File, n_pixels: int) -> Optics | None:
    if BEAM not in file or ANGLES not in file:
        return None
    energy, semiangle = (float(file[f"{BEAM}/{name}"][()]) for name in ("incident_energy", "convergence_semiangle"))
    return Optics(energy, semiangle, float(np.diff(file[ANGLES][:2])[0]), n_pixels)


@contextlib.contextmanager
def open_run(client: Container, uid: str, given: Given | None = None) -> Iterator[RecordedScan]:
    """A run in the catalog that a Tiled client is of; frames come over the network, a slice at a time.

    Raises
    ------
    ValueError, OSError
        There is no such run, it has no frames, or their files cannot be read.
    """
    import httpx

    given = given or Given()
    try:
        run = client[uid]
    except (KeyError, ValueError):
        raise ValueError(f"no run {uid!r} in this catalog; `edgestem catalog search` lists those there are") from None
    start = dict(run.metadata["start"])
    stream, key = _frame_key(run, start["uid"], given.dataset)
    try:
        source = stream[key]
        np.asarray(source[0:1])
        positions = None
        if f"{key}_x" in stream and f"{key}_y" in stream:
            positions = np.column_stack([np.asarray(stream[f"{key}_{axis}"].read(), float) for axis in "xy"])
        there = np.ones(source.shape[0], bool)
        yield RecordedScan.of(start["uid"], source, there, positions, given, start=start)
    except httpx.HTTPError as error:
        raise OSError(
            f"the frames of run {start['uid'][:8]} cannot be read ({error}): their files may have been moved or deleted"
        ) from error


def _frame_key(run: Any, uid: str, wanted: str | None) -> tuple[Any, str]:
    """The stream with the frames, and their data key."""
    found = []
    for name in run:
        keys = (run[name].metadata.get("data_keys") or {}).items()
        found += [(name, k) for k, v in keys if v.get("external") and len(v["shape"]) in (2, 3) and wanted in (None, k)]
    if len(found) == 1:
        return run[found[0][0]], found[0][1]
    if not found:
        raise ValueError(f"run {uid[:8]} has no frames" + (f" called {wanted!r}" if wanted else ""))
    told = ", ".join(key for _, key in found)
    raise ValueError(f"run {uid[:8]} has more than one series of frames: {told}; say which by --dataset")
