"""From frames to images while the scan runs: sum, virtual detectors, centre of mass (differential phase contrast)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from event_model import DataKey

from ..analysis.optics import Optics
from ..analysis.reductions import Reducer
from ..analysis.scan_images import ScanImages, grid_index, polar, turned
from ..analysis.scan_metadata import ScanMetadata
from ..analysis.sparse_masks import Annulus, field_detectors
from ..geometry import ScanGrid
from .announced_frames import CompleteFrames
from .derived import DerivedStream, image
from .frame_chunks import reduce_chunks
from .frame_router import FrameRouter, positions_of
from .frame_rows import FrameRows, column
from .imaging_window import LiveWindow

FIXED = ("frame", "x", "y", "sum", "com_x", "com_y", "magnitude", "direction")
MAPS = ("divergence", "curl")


class Imaging(FrameRouter["_Progress"]):
    """Reduces the frames that the run announces, derives the stream ``imaging``, and keeps images of what came so far.

    A row of the stream holds `frame_rows.ROW` frames, each column an array; the last row of a run, and of a batch, is
    filled up with -1 (frame) and nan. A frame that was lost has no entry; in the images its point stays nan. One that
    was taken on the probe's way back to the next row has none either, and is in no image.

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
    mirrored : bool
        Whether the rows of a frame run the other way; `plans.calibration.calibrate_rotation` measures both.
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
        mirrored: bool = False,
        flyback: int | None = None,
        centre: tuple[float, float] | None = None,
        threads: int = 1,
        detector: str = "detector",
        window: bool = False,
    ) -> None:
        self._masks = masks
        self._rotation, self._mirrored, self._centre, self._threads = rotation, mirrored, centre, threads
        names = tuple(field_detectors(Optics()) if masks is None else masks)
        if taken := [name for name in names if name in FIXED + MAPS]:
            raise ValueError(f"masks cannot be called {', '.join(taken)}: these are there already; rename them")
        self._names = names
        self.stream = DerivedStream("imaging", _columns(names, "mrad"))
        self._lock = threading.Lock()
        self._window = LiveWindow(self.images) if window else None
        super().__init__("imaging", detector, optics, flyback)

    def start(self, doc):
        """A run begins: take beam and raster from its metadata; what was measured before is forgotten."""
        masks = self._masks
        known = self._optics is not None or isinstance({**doc}.get("optics"), dict)
        if not known and (masks is None or any(isinstance(mask, Annulus) for mask in masks.values())):
            raise ValueError(
                "the run's metadata has no 'optics', so angles cannot be told from pixels; give Imaging the optics, "
                "or masks as arrays"
            )
        super().start(doc)
        if self._window is not None:
            self._window.show()

    @property
    def maps(self) -> DerivedStream | None:
        """Divergence and curl of the run that is open, or was last: a row for each call of `finished`.

        Each is (ny, nx), nan where there was no frame or no neighbour. None for a list of positions: its points have
        no neighbours.
        """
        return self._now.maps

    def images(self) -> ScanImages:
        """What was measured so far of the run that is open, or was last."""
        with self._lock:
            return self._now.images(self._rotation, self._mirrored)

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

    def _progress(self, scan: ScanMetadata) -> _Progress:
        now = _Progress(("sum", *self._names, "com_x", "com_y"), scan, self.stream)
        self.stream.columns = _columns(self._names, now.com_unit)
        list(self.stream.collect())  # what a run that was aborted left behind is no part of this one
        return now

    def _derive(self, now: _Progress, frames: CompleteFrames) -> None:
        start, stop = frames.start, frames.stop
        numbers = frames.first + np.arange(start, stop)
        with frames.opened() as file:
            dataset, *where = (file[name] for name in frames.datasets)
            x, y = positions_of(where, now.scan, numbers, slice(start, stop)).T
            if now.reducer is None:
                now.reducer = self._make_reducer(dataset.shape[1:], now.scan.optics)
            found, there = reduce_chunks(dataset, start, stop, now.reducer)
        com = found.centre_of_mass(self._centre)
        if now.scan.optics is not None:
            com *= now.scan.optics.pixel_mrad
        magnitude, direction = polar(turned(com, self._rotation, self._mirrored))
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
        if now is self._now:  # else the run was aborted meanwhile
            now.rows.emit()

    def _conclude(self, now: _Progress) -> None:
        if now is not self._now:
            return
        now.rows.emit(everything=True)
        if now.maps is not None:
            images = self.images()
            now.maps.put({name: images.image(name) for name in MAPS})

    def _make_reducer(self, shape: tuple[int, int], optics: Optics | None) -> Reducer:
        masks = self._masks
        if masks is None:
            assert optics is not None
            masks = field_detectors(optics)
        pixel = np.nan if optics is None else optics.pixel_mrad
        arrays = {k: m.mask(shape, pixel) if isinstance(m, Annulus) else np.asarray(m) for k, m in masks.items()}
        return Reducer(shape, arrays, self._threads)


class _Progress:
    """What was measured of one run."""

    def __init__(self, names: tuple[str, ...], scan: ScanMetadata, stream: DerivedStream) -> None:
        self.names, self.scan, self.rows = names, scan, FrameRows(stream)
        self.reducer: Reducer | None = None
        self.counts = dict.fromkeys(("frames", "lost", "empty", "outside", "flyback"), 0)
        grid = scan.grid
        n = 0 if grid is None else grid.nx * grid.ny
        self._maps = {name: np.full(n, np.nan) for name in names}
        self._lists: dict[str, list[np.ndarray]] = {name: [] for name in ("x", "y", *names)}
        self.maps = None if grid is None else DerivedStream("imaging_maps", _maps(grid, self.com_unit))

    @property
    def com_unit(self) -> str:
        return "pixels" if self.scan.optics is None else "mrad"

    def add(self, columns: dict[str, np.ndarray], there: np.ndarray) -> None:
        """Take frames in; `there` (n,) bool are those that came."""
        grid = self.scan.grid
        # By number, not by position: on its way back the probe may pass over points of the grid.
        back = self.scan.way_back(columns["frame"]) & there
        found = {name: values[there & ~back] for name, values in columns.items()}
        self.rows.add(found)
        self.counts["frames"] += len(there)
        self.counts["lost"] += int(np.count_nonzero(~there))
        self.counts["flyback"] += int(np.count_nonzero(back))
        self.counts["empty"] += int(np.count_nonzero(found["sum"] == 0))
        if grid is None:
            for name, parts in self._lists.items():
                position = name in ("x", "y")
                parts.append(columns[name] if position else np.where(there, columns[name], np.nan))
            return
        index = grid_index(grid, np.column_stack([found["x"], found["y"]]))
        on = index >= 0
        self.counts["outside"] += int(np.count_nonzero(~on))
        for name in self.names:
            self._maps[name][index[on]] = found[name][on]

    def images(self, rotation: float, mirrored: bool) -> ScanImages:
        grid = self.scan.grid
        if grid is None:
            lists = {name: np.concatenate([np.zeros(0), *parts]) for name, parts in self._lists.items()}
            positions = np.column_stack([lists.pop("x"), lists.pop("y")])
            values = lists
        else:
            positions, values = grid.positions, {name: m.copy() for name, m in self._maps.items()}
        return ScanImages(positions, values, self.com_unit, grid, rotation, mirrored, **self.counts)


def _columns(names: tuple[str, ...], com_unit: str) -> dict[str, DataKey]:
    com = "centre of mass, axes of the detector"
    return {
        "frame": column("index of the frame in the primary stream; -1 where the row is not full", dtype="<i8"),
        "x": column("the detector's position of the frame; nan where the row is not full", "nm"),
        "y": column("the detector's position of the frame", "nm"),
        "sum": column("sum of the frame", "electrons"),
        "com_x": column(com, com_unit),
        "com_y": column(com, com_unit),
        "magnitude": column("of the centre of mass", com_unit),
        "direction": column("of the centre of mass: axes of the scan, counter-clockwise from x", "rad"),
        **{name: column("virtual detector", "electrons") for name in names},
    }


def _maps(grid: ScanGrid, com_unit: str) -> dict[str, DataKey]:
    source = "of the centre of mass, axes of the scan; nan where there was no frame, or no neighbour along an axis"
    return {name: image(f"{name} {source}", grid.shape, f"{com_unit}/nm") for name in MAPS}
