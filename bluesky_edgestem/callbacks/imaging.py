"""From frames to images while the scan runs: sum, virtual detectors, centre of mass (differential phase contrast)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from event_model import DataKey, DocumentRouter

from ..analysis.optics import Optics
from ..analysis.reductions import Reducer
from ..analysis.scan_images import ScanImages, grid_index, polar, raster_positions, turned, way_back
from ..analysis.sparse_masks import Annulus, field_detectors
from ..geometry import FieldOfView, ScanGrid
from .announced_frames import AnnouncedFrames, CompleteFrames
from .derived import DerivedStream, image
from .frame_chunks import reduce_chunks
from .imaging_window import LiveWindow

ROW = 256
"""Frames in a row of the stream: the RunEngine takes some 4,000 rows a second, whatever they hold."""
FIXED = ("frame", "x", "y", "sum", "com_x", "com_y", "magnitude", "direction")
MAPS = ("divergence", "curl")


class Imaging(DocumentRouter):
    """Reduces the frames that the run announces, derives the stream ``imaging``, and keeps images of what came so far.

    A row of the stream holds `ROW` frames, each column an array; the last row of a run, and of a batch, is filled up
    with -1 (frame) and nan. A frame that was lost has no entry; in the images its point stays nan. One that was taken
    on the probe's way back to the next row has none either, and is in no image.

    Frames are put where their positions say. Where the detector gives none, they are those of the raster in the run's
    metadata (``shape``, ``field_of_view``), row by row, told by the frames' numbers.

    Divergence and curl take a point's neighbours, which may be measured long after it: they are no columns of frames,
    but maps of the whole raster, in the stream `maps`.

    Parameters
    ----------
    masks : mapping of str to Annulus or numpy.ndarray, optional
        Virtual detectors by name: angles [mrad], or an array (ny, nx) of bool (pixels that count) or float (weights).
        Without it ``bright_field`` (up to the convergence semiangle) and ``dark_field`` (beyond).
    optics : Optics, optional
        Beam and detector; without it those in the run's metadata. Where there are none either, the centre of mass is
        in pixels and masks have to be arrays.
    rotation : float
        From the axes of the scan to those of the detector, counter-clockwise [rad].
    flyback : int, optional
        Frames that the detector takes at the end of each row while the probe goes back, in a scan of rows from left to
        right; without it ``flyback`` in the run's metadata, else 0.
    centre : (x, y), optional
        Of the beam without a specimen [pixels]; without it the middle of the frame.
    threads : int
        Cores to use.
    detector : str
        Data key of the frames; the positions are at ``<detector>_x`` and ``<detector>_y`` [nm].
    window : bool
        Show the images in a window as they grow, where there is a display.

    Raises
    ------
    ValueError
        A mask's name is that of another column or map. From a call: the run lacks what is needed.
    """

    def __init__(
        self,
        masks: Mapping[str, Annulus | np.ndarray] | None = None,
        *,
        optics: Optics | None = None,
        rotation: float = 0.0,
        flyback: int | None = None,
        centre: tuple[float, float] | None = None,
        threads: int = 1,
        detector: str = "detector",
        window: bool = False,
    ) -> None:
        super().__init__()
        self._masks = masks
        self._optics, self._rotation, self._centre, self._threads = optics, rotation, centre, threads
        self._flyback = flyback
        names = tuple(field_detectors(Optics()) if masks is None else masks)
        if taken := [name for name in names if name in FIXED + MAPS]:
            raise ValueError(f"masks cannot be called {', '.join(taken)}: these are there already; rename them")
        self._names = names
        self.stream = DerivedStream("imaging", _columns(names, "mrad"))
        self._keys = (detector, f"{detector}_x", f"{detector}_y")
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="imaging")
        self._lock = threading.Lock()
        self._window = LiveWindow(self.images) if window else None
        self._begin(None, None, 0)

    def start(self, doc):
        """A run begins: take beam and raster from its metadata; what was measured before is forgotten."""
        metadata: dict[str, Any] = {**doc}
        optics = self._optics
        if optics is None and isinstance(metadata.get("optics"), dict):
            optics = Optics(**metadata["optics"])
        masks = self._masks
        if optics is None and (masks is None or any(isinstance(mask, Annulus) for mask in masks.values())):
            raise ValueError(
                "the run's metadata has no 'optics', so angles cannot be told from pixels; give Imaging the optics, "
                "or masks as arrays"
            )
        shape, field = metadata.get("shape"), metadata.get("field_of_view")
        grid = None
        if shape is not None and field is not None and len(shape) == 2 and min(shape) > 1:
            grid = ScanGrid(FieldOfView(**field), nx=shape[1], ny=shape[0])
        flyback = metadata.get("flyback", 0) if self._flyback is None else self._flyback
        if type(flyback) is not int or flyback < 0:
            raise ValueError(f"flyback is {flyback!r}; allowed is a number of frames at the end of each row, from 0")
        if flyback and grid is None:
            raise ValueError(
                f"flyback is {flyback} frames at the end of a row, but the run's metadata has no raster; give its "
                "'shape' and 'field_of_view', or no flyback"
            )
        self._begin(optics, grid, flyback)
        if self._window is not None:
            self._window.show()

    def descriptor(self, doc):
        """A stream is declared: whether its frames have positions."""
        name, x, y = self._keys
        keys = doc["data_keys"]
        if name not in keys or (x in keys and y in keys):
            return
        if self._now.grid is None:
            raise ValueError(
                f"the run has frames ({name}), but neither their positions ({x}, {y}) nor a raster in its metadata "
                "('shape', 'field_of_view'); give one of them"
            )
        self._frames = AnnouncedFrames([name])

    def stream_resource(self, doc):
        """A file of the run: remember where its frames and positions are."""
        self._frames.resource(doc)

    def stream_datum(self, doc):
        """More frames are on disk: reduce what is complete, in the worker."""
        if complete := self._frames.datum(doc):
            self._work.append(self._worker.submit(self._derive, self._now, complete))

    @property
    def maps(self) -> DerivedStream | None:
        """Divergence and curl of the run that is open, or was last: a row for each call of `finished`.

        Each is (ny, nx), nan where there was no frame or no neighbour. None for a list of positions: its points have
        no neighbours.
        """
        return self._now.maps

    def finished(self) -> Future[None]:
        """Done once each frame announced so far is in the images, in the stream and in `maps`."""
        work, self._work = self._work, []
        now = self._now

        def settle() -> None:
            for future in work:
                future.result()
            self._emit(now, everything=True)
            if now.maps is not None:
                with self._lock:
                    images = now.images(self._rotation)
                now.maps.put({name: images.image(name) for name in MAPS})

        return self._worker.submit(settle)

    def images(self) -> ScanImages:
        """What was measured so far of the run that is open, or was last."""
        with self._lock:
            return self._now.images(self._rotation)

    def write_png(self, path: str | Path) -> Path:
        """Draw what was measured so far into a PNG file."""
        from .imaging_pictures import draw

        path = Path(path)
        draw(self.images()).savefig(path, format="png", dpi=110)
        return path

    def close(self) -> None:
        """Close the window, where there is one."""
        if self._window is not None:
            self._window.close()

    def _begin(self, optics: Optics | None, grid: ScanGrid | None, flyback: int) -> None:
        with self._lock:
            self._now = _Progress(("sum", *self._names, "com_x", "com_y"), optics, grid, flyback)
        self.stream.columns = _columns(self._names, self._now.com_unit)
        self._frames = AnnouncedFrames(self._keys)
        self._work: list[Future[None]] = []
        list(self.stream.collect())  # what a run that was aborted left behind is no part of this one

    def _derive(self, now: _Progress, frames: CompleteFrames) -> None:
        import h5py
        import hdf5plugin  # noqa: F401  registers the bitshuffle-lz4 filter

        start, stop = frames.start, frames.stop
        numbers = frames.first + np.arange(start, stop)
        with h5py.File(frames.path, "r", swmr=frames.swmr) as file:
            dataset, *where = (file[name] for name in frames.datasets)
            if where:
                x, y = (np.asarray(each[start:stop], float) for each in where)
            else:
                assert now.grid is not None
                x, y = raster_positions(now.grid, numbers, now.flyback).T
            if now.reducer is None:
                now.reducer = self._make_reducer(dataset.shape[1:], now.optics)
            found, there = reduce_chunks(dataset, start, stop, now.reducer)
        com = found.centre_of_mass(self._centre)
        if now.optics is not None:
            com *= now.optics.pixel_mrad
        magnitude, direction = polar(turned(com, self._rotation))
        columns = {
            "frame": numbers,
            "x": x,
            "y": y,
            "sum": found.total.astype(float),
            "com_x": com[:, 0],
            "com_y": com[:, 1],
            "magnitude": magnitude,
            "direction": direction,
            **{name: values.astype(float) for name, values in found.virtual.items()},
        }
        with self._lock:
            now.add(columns, there)
        self._emit(now)

    def _make_reducer(self, shape: tuple[int, int], optics: Optics | None) -> Reducer:
        masks = self._masks
        if masks is None:
            assert optics is not None
            masks = field_detectors(optics)
        pixel = np.nan if optics is None else optics.pixel_mrad
        arrays = {k: m.mask(shape, pixel) if isinstance(m, Annulus) else np.asarray(m) for k, m in masks.items()}
        return Reducer(shape, arrays, self._threads)

    def _emit(self, now: _Progress, everything: bool = False) -> None:
        """Put full rows into the stream; with `everything` also one that is not."""
        if now is not self._now:
            return  # of a run that was aborted meanwhile
        while now.waiting and (everything or len(now.waiting["frame"]) >= ROW):
            row = {name: values[:ROW] for name, values in now.waiting.items()}
            now.waiting = {name: values[ROW:] for name, values in now.waiting.items()}
            if not len(row["frame"]):
                return
            self.stream.put({name: _filled(values) for name, values in row.items()})


class _Progress:
    """What was measured of one run."""

    def __init__(self, names: tuple[str, ...], optics: Optics | None, grid: ScanGrid | None, flyback: int) -> None:
        self.names, self.optics, self.grid, self.flyback = names, optics, grid, flyback
        self.reducer: Reducer | None = None
        self.waiting: dict[str, np.ndarray] = {}
        self.counts = dict.fromkeys(("frames", "lost", "empty", "outside", "flyback"), 0)
        n = 0 if grid is None else grid.nx * grid.ny
        self._maps = {name: np.full(n, np.nan) for name in names}
        self._lists: dict[str, list[np.ndarray]] = {name: [] for name in ("x", "y", *names)}
        self.maps = None if grid is None else DerivedStream("imaging_maps", _maps(grid, self.com_unit))

    @property
    def com_unit(self) -> str:
        return "pixels" if self.optics is None else "mrad"

    def add(self, columns: dict[str, np.ndarray], there: np.ndarray) -> None:
        """Take frames in; `there` (n,) bool are those that came."""
        back = np.zeros(len(there), bool)
        if self.grid is not None:
            # By number, not by position: on its way back the probe may pass over points of the grid.
            back = way_back(columns["frame"], self.grid.nx, self.flyback) & there
        found = {name: values[there & ~back] for name, values in columns.items()}
        waiting = self.waiting
        self.waiting = {k: np.concatenate([waiting[k], v]) if waiting else v for k, v in found.items()}
        self.counts["frames"] += len(there)
        self.counts["lost"] += int(np.count_nonzero(~there))
        self.counts["flyback"] += int(np.count_nonzero(back))
        self.counts["empty"] += int(np.count_nonzero(found["sum"] == 0))
        if self.grid is None:
            for name, parts in self._lists.items():
                position = name in ("x", "y")
                parts.append(columns[name] if position else np.where(there, columns[name], np.nan))
            return
        index = grid_index(self.grid, np.column_stack([found["x"], found["y"]]))
        on = index >= 0
        self.counts["outside"] += int(np.count_nonzero(~on))
        for name in self.names:
            self._maps[name][index[on]] = found[name][on]

    def images(self, rotation: float) -> ScanImages:
        if self.grid is None:
            lists = {name: np.concatenate([np.zeros(0), *parts]) for name, parts in self._lists.items()}
            positions = np.column_stack([lists.pop("x"), lists.pop("y")])
            values = lists
        else:
            positions, values = self.grid.positions, {name: m.copy() for name, m in self._maps.items()}
        return ScanImages(positions, values, self.com_unit, self.grid, rotation, **self.counts)


def _columns(names: tuple[str, ...], com_unit: str) -> dict[str, DataKey]:
    com = "centre of mass, axes of the detector"
    return {
        "frame": _column("index of the frame in the primary stream; -1 where the row is not full", dtype="<i8"),
        "x": _column("the detector's position of the frame; nan where the row is not full", "nm"),
        "y": _column("the detector's position of the frame", "nm"),
        "sum": _column("sum of the frame", "electrons"),
        "com_x": _column(com, com_unit),
        "com_y": _column(com, com_unit),
        "magnitude": _column("of the centre of mass", com_unit),
        "direction": _column("of the centre of mass: axes of the scan, counter-clockwise from x", "rad"),
        **{name: _column("virtual detector", "electrons") for name in names},
    }


def _maps(grid: ScanGrid, com_unit: str) -> dict[str, DataKey]:
    source = "of the centre of mass, axes of the scan; nan where there was no frame, or no neighbour along an axis"
    return {name: image(f"{name} {source}", grid.shape, f"{com_unit}/nm") for name in MAPS}


def _column(source: str, units: str = "", dtype: str = "<f8") -> DataKey:
    return DataKey(source=source, dtype="array", shape=[ROW], dtype_numpy=dtype, units=units)


def _filled(values: np.ndarray) -> np.ndarray:
    """A row of full length."""
    fill = -1 if values.dtype.kind == "i" else np.nan
    return np.concatenate([values, np.full(ROW - len(values), fill, values.dtype)])
