"""From frames to strain maps while the scan runs."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..analysis.affine_readings import AffineReadings
from ..analysis.counts import saturated_marked
from ..analysis.materials import Material
from ..analysis.optics import Optics
from ..analysis.scan_images import detector_to_scan
from ..analysis.scan_metadata import ScanMetadata
from ..analysis.strain import Measure, StrainMaps, check_measure
from ..analysis.strain_autoencoder import StrainAutoencoder
from ..analysis.strain_frame import StrainFrame, as_reference, joined
from ..geometry import FieldOfView
from .announced_frames import CompleteFrames
from .derived import DerivedStream
from .frame_chunks import frames_there, saturation_of
from .frame_router import FrameRouter, positions_of
from .frame_rows import FrameRows
from .strain_stream import map_row, map_stream, strain_columns, strain_stream

BATCH = 128
"""Frames that are decompressed before they are read."""


class StrainMap(FrameRouter["_Progress"]):
    """Reads strain from the frames that the run announces, and derives the streams ``strain`` and ``strain_maps``.

    Strain is relative to a lattice that is known, or to a region of the scan, which is known once its patterns are
    read. Then nothing is put into the stream before the first call of `finished`, which settles the reference for the
    run; `strain` tells at any time what would be found if the scan ended now.

    Frames are put where their positions say, as by `Imaging`; those that were lost have no entry.

    Parameters
    ----------
    network : StrainAutoencoder, str or Path
        Trained on such a scan (``edgestem train strain``), or the path of its weights.
    reference : FieldOfView, numpy.ndarray, str or sequence of four numbers, optional
        A region of the scan, also as x0, y0, width, height [nm]; a mask (ny, nx) of its raster; or the name of a
        material, whose lattice can be told where the detector is calibrated. Without it the median of the scan.
    optics : Optics, optional
        Beam and detector; without it those in the run's metadata.
    rotation, mirrored : float, bool
        From the axes of the scan to those of the detector, counter-clockwise [rad], and whether the rows of a frame run
        the other way; `plans.calibration.calibrate_rotation` measures both.
    measure : {"infinitesimal", "Lagrangian"}
        See `analysis.strain.StrainMaps`.
    flyback : int, optional
        As for `Imaging`.
    detector : str
        Data key of the frames; the positions are at ``<detector>_x`` and ``<detector>_y`` [nm].

    Raises
    ------
    ValueError
        The weights cannot be read, the network knows no lattice, the material is unknown, or measure, rotation or
        region are none. From a call: the run lacks
        what is needed, or the lattice that the network knows is not that of the material.
    """

    def __init__(
        self,
        network: StrainAutoencoder | str | Path,
        *,
        reference: FieldOfView | np.ndarray | Sequence[float] | str | None = None,
        optics: Optics | None = None,
        rotation: float = 0.0,
        mirrored: bool = False,
        measure: Measure = "infinitesimal",
        flyback: int | None = None,
        detector: str = "detector",
    ) -> None:
        self._network = StrainAutoencoder.load(Path(network)) if isinstance(network, str | Path) else network
        if not np.any(self._network.base_vectors):
            # Refused before a scan, at whose end it would be too late.
            raise ValueError(f"the network knows no lattice: {self._network.why}. Train it on another scan")
        if self._network.caution:
            warnings.warn(self._network.caution, stacklevel=2)
        check_measure(measure)
        detector_to_scan(rotation, mirrored)
        self._reference = as_reference(reference)
        self._rotation, self._mirrored = rotation, mirrored
        self._measure: Measure = measure
        self.stream = strain_stream()
        self._lock = threading.Lock()
        super().__init__("strain", detector, optics, flyback)

    def start(self, doc):
        """A run begins: what was measured before is forgotten; a lattice for reference is settled."""
        super().start(doc)
        if isinstance(self._reference, Material):
            self._now.frame = StrainFrame.of_lattice(
                self._reference, self._network.base_vectors, self._scan.optics, self._rotation, self._mirrored
            )

    @property
    def maps(self) -> DerivedStream | None:
        """Maps of the run that is open, or was last: a row for each call of `finished`; None where it is no raster."""
        return self._now.maps

    def strain(self) -> StrainMaps:
        """Strain of what was measured so far of the run that is open, or was last.

        Raises
        ------
        ValueError
            Nothing was measured, or nothing that the reference could be.
        """
        with self._lock:
            now, parts = self._now, list(self._now.parts)
        if not parts:
            raise ValueError("no frame has been read yet; ask once some have")
        _, positions, readings = _together(parts)
        return self._maps_of(now.frame or self._settled(now, positions, readings), now, positions, readings)

    def write_png(self, path: str | Path) -> Path:
        """Draw what was measured so far into a PNG file; raises as `strain`."""
        from .strain_pictures import draw

        path = Path(path)
        draw(self.strain()).savefig(path, format="png", dpi=150)
        return path

    def _progress(self, scan: ScanMetadata) -> _Progress:
        list(self.stream.collect())  # what a run that was aborted left behind is no part of this one
        return _Progress(scan, self.stream)

    def _derive(self, now: _Progress, frames: CompleteFrames) -> None:
        for start in range(frames.start, frames.stop, BATCH):
            numbers, positions, images = self._load(now.scan, frames, slice(start, min(start + BATCH, frames.stop)))
            if len(images):
                self._take(now, (numbers, positions, self._network.read(images)))

    def _load(
        self, scan: ScanMetadata, frames: CompleteFrames, part: slice
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers, positions and images of the frames that came, and not on the probe's way back."""
        # Closed before the network reads, which takes long: the recorder may want to add to the file at its end.
        with frames.opened() as file:
            dataset, *where = (file[name] for name in frames.datasets)
            numbers = frames.first + np.arange(part.start, part.stop)
            positions = positions_of(where, scan, numbers, part)
            counts = frames_there(dataset, part.start, part.stop) & ~scan.way_back(numbers)
            images = saturated_marked(dataset[part][counts], saturation_of(file))
            return numbers[counts], positions[counts], images

    def _take(self, now: _Progress, part: _Part) -> None:
        with self._lock:
            now.parts.append(part)
        if now is self._now and now.frame is not None:  # else of a run that was aborted meanwhile
            self._tell(now, now.frame)
            now.rows.emit()

    def _conclude(self, now: _Progress) -> None:
        if now is not self._now or not now.parts:
            return
        frame = now.frame
        if frame is None:
            try:
                frame = now.frame = self._settled(now, *_together(now.parts)[1:])
            except ValueError as error:
                # A run that recorded its frames does not fail for want of a reference: it says that there is none.
                frame = StrainFrame.unknown(f"no reference: {error}")
        self._tell(now, frame)
        now.rows.emit(everything=True)
        if now.maps is not None:
            now.maps.put(map_row(self._maps_of(frame, now, *_together(now.parts)[1:])))

    def _tell(self, now: _Progress, frame: StrainFrame) -> None:
        """Put the parts that the stream does not have yet into it."""
        for numbers, positions, readings in now.parts[now.told :]:
            now.rows.add(strain_columns(numbers, self._maps_of(frame, now, positions, readings)))
        now.told = len(now.parts)

    def _settled(self, now: _Progress, positions: np.ndarray, readings: AffineReadings) -> StrainFrame:
        assert not isinstance(self._reference, Material)  # settled when the run began
        return StrainFrame.of_region(
            self._reference, readings, positions, now.scan.grid, self._rotation, self._mirrored
        )

    def _maps_of(
        self, frame: StrainFrame, now: _Progress, positions: np.ndarray, readings: AffineReadings
    ) -> StrainMaps:
        return frame.maps(readings, positions, self._measure, now.scan.grid, self._network.caution)


_Part = tuple[np.ndarray, np.ndarray, AffineReadings]
"""Numbers (n,), positions (n, 2) [nm] and readings of some frames."""


class _Progress:
    """What was measured of one run."""

    def __init__(self, scan: ScanMetadata, stream: DerivedStream) -> None:
        self.scan, self.rows = scan, FrameRows(stream)
        self.parts: list[_Part] = []
        self.told = 0  # parts that the stream has
        self.frame: StrainFrame | None = None
        self.maps = None if scan.grid is None else map_stream(scan.grid)


def _together(parts: Sequence[_Part]) -> _Part:
    numbers, positions, readings = zip(*parts, strict=True)
    return np.concatenate(numbers), np.concatenate(positions), joined(readings)
