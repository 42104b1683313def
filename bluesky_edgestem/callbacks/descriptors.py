"""From frames to feature descriptors, while the run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from event_model import DocumentRouter

from ..analysis.counts import saturated_marked
from ..analysis.descriptor import FeatureDescriptors
from ..analysis.one_thread import one_thread
from ..analysis.optics import Optics
from .announced_frames import AnnouncedFrames, CompleteFrames
from .derived import DerivedStream, integer, number, text
from .frame_chunks import saturation_of

PORTION = 8
"""Frames that a source reads together, counted from the first after the last wait.

What a network makes of a pattern may depend a little on those beside it: read in whatever portions they arrived in, the
same frames would be read a little differently in each run, and all their energies computed again.
"""

#: Columns of sources that tell the thickness of crystals, by an attribute `tells_thickness`.
THICK = {
    "thickness": number("network that reads thick crystals; nan where it does not know", "nm"),
    "thickness_sd": number("network that reads thick crystals", "nm"),
}


class DescriptorSource(Protocol):
    """What turns frames into descriptors: a network, or a board that computes one.

    One with an attribute `tells_thickness` that is true gives thickness, too, and the stream has columns for it.
    """

    def predict(self, frames: np.ndarray, optics: Optics) -> FeatureDescriptors:
        """Descriptors of `frames` (n, ny, nx), unsigned integers."""
        ...

    def check_optics(self, optics: Optics) -> None:
        """Raise ValueError where it cannot read patterns of such optics; asked before a run begins."""
        ...


#: Column of runs that a board reads.
READ_BY = {"read_by": text("board, or network where the board was silent")}


@runtime_checkable
class ResultSource(Protocol):
    """What has read the frames already when they are in the file: `devices.board.InferenceBoard`."""

    name: str
    fallback: DescriptorSource | str | Path | None  #: reads the frames that there is no result of

    def results(self, numbers: Sequence[int]) -> tuple[FeatureDescriptors, np.ndarray]:
        """Descriptors of those of the frames, by index in the stream, that it knows, and which these are (n,) bool."""
        ...

    def check_optics(self, optics: Optics) -> None:
        """Raise ValueError where it cannot read patterns of such optics; asked before a run begins."""
        ...


class Descriptors(DocumentRouter):
    """Reads the frames that the run announces and derives the stream ``descriptors``, a row a probe position.

    Parameters
    ----------
    network : DescriptorSource, ResultSource, str or Path, optional
        What reads the frames, or the file of a network's weights; the network that ships with the package if left out.
        With an inference board the stream says of each frame whether the board or its fallback has read it.
    detector : str
        Data key of the frames; the positions are at ``<detector>_x`` and ``<detector>_y`` [nm].
    phases : sequence of str, optional
        The phases that may occur, of those that the source tells apart; all if left out.
    """

    def __init__(
        self,
        network: DescriptorSource | ResultSource | str | Path | None = None,
        detector: str = "detector",
        phases: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.board = network if isinstance(network, ResultSource) else None
        if isinstance(network, ResultSource):
            network = network.fallback
        if network is None or isinstance(network, str | Path):
            from ..analysis.pretrained import pretrained

            network = pretrained(network)
        self.stream = DerivedStream(
            "descriptors",
            {
                "frame": integer("index of the frame in the primary stream"),
                "x": number("scan coils' readback", "nm"),
                "y": number("scan coils' readback", "nm"),
                **{k: number("network") for k in ("exx", "eyy", "exy", "exx_sd", "eyy_sd", "exy_sd")},
                **{k: number("network") for k in ("cov_exx_eyy", "cov_exx_exy", "cov_eyy_exy")},
                "rotation": number("network", "rad"),
                "rotation_sd": number("network", "rad"),
                **{
                    k: number("network; from the detector's centre, nan where it does not tell", "px")
                    for k in ("centre_x", "centre_y")
                },
                **{k: number("network", "px") for k in ("centre_x_sd", "centre_y_sd")},
                "phase": text("network"),
                "phase_probability": number("network"),
                "flagged": text("why the network does not know; empty where it does"),
                **(THICK if getattr(network, "tells_thickness", False) and self.board is None else {}),
                **(READ_BY if self.board is not None else {}),
            },
        )
        self.network: DescriptorSource = network
        self._phases = phases
        self._keys = (detector, f"{detector}_x", f"{detector}_y")
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="descriptors")
        self._work: list[Future[None]] = []
        self._held: CompleteFrames | None = None  # too few for a portion yet

    def check_optics(self, optics: Optics) -> None:
        """Raise ValueError where what reads the frames cannot read patterns of such optics."""
        for source in (self.board, self.network):
            if source is not None:
                source.check_optics(optics)

    def start(self, doc):
        """A run begins: take the beam from its metadata."""
        optics = dict(doc).get("optics")
        if not isinstance(optics, dict):
            raise ValueError("the run's metadata has no 'optics'; Descriptors needs those of the beam")
        self._optics = Optics(**optics)
        self._frames = AnnouncedFrames(self._keys)
        self._held = None

    def stream_resource(self, doc):
        """A file of the run: remember where its frames and positions are."""
        self._frames.resource(doc)

    def stream_datum(self, doc):
        """More frames are on disk: read what is complete, in the worker."""
        if complete := self._frames.datum(doc):
            if self._held is not None and (self._held.path, self._held.stop) == (complete.path, complete.start):
                complete = replace(complete, start=self._held.start)
            else:
                self._read_held()
            while complete.stop - complete.start >= PORTION:
                portion = replace(complete, stop=complete.start + PORTION)
                self._work.append(self._worker.submit(self._derive, portion))
                complete = replace(complete, start=portion.stop)
            self._held = complete

    def stop(self, doc):
        """The run ends: what was held back for a whole portion is read."""
        self._read_held()

    def finished(self) -> Future[None]:
        """Done once each frame announced so far has its row."""
        self._read_held()
        work, self._work = self._work, []

        def settle() -> None:
            for future in work:
                future.result()

        return self._worker.submit(settle)

    def _read_held(self) -> None:
        held, self._held = self._held, None
        if held is not None and held.stop > held.start:
            self._work.append(self._worker.submit(self._derive, held))

    def _derive(self, frames: CompleteFrames) -> None:
        first = frames.first + frames.start
        known, came = None, np.zeros(frames.stop - frames.start, bool)
        if self.board is not None:
            known, came = self.board.results(range(first, first + len(came)))
        with frames.opened() as file:
            images, x, y = (file[dataset] for dataset in frames.datasets)
            part = slice(frames.start, frames.stop)
            positions = np.column_stack([x[part], y[part]])
            unread = None if came.all() else saturated_marked(images[part][~came], saturation_of(file))
        rows = {}
        if known is not None:
            rows.update(self._rows(first + np.flatnonzero(came), positions[came], known, "board"))
        if unread is not None:
            # The cores belong to the calculations.
            with one_thread():
                found = self.network.predict(unread, self._optics)
            rows.update(self._rows(first + np.flatnonzero(~came), positions[~came], found, "network"))
        for _, row in sorted(rows.items()):
            self.stream.put(row)

    def _rows(
        self, numbers: np.ndarray, positions: np.ndarray, found: FeatureDescriptors, read_by: str
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Numbers (n,) of frames at positions (n, 2) [nm], with their rows of the stream."""
        if self._phases is not None:
            found = found.among(self._phases)
        sd, phase = found.strain_sd, found.phase
        untold = np.full((len(found), 2), np.nan)
        centre = untold if found.centre is None else found.centre
        centre_sd = untold if found.centre_sd is None else found.centre_sd
        for i in range(len(found)):
            yield (
                int(numbers[i]),
                {
                    "frame": int(numbers[i]),
                    "x": float(positions[i, 0]),
                    "y": float(positions[i, 1]),
                    **{k: float(v) for k, v in zip(("exx", "eyy", "exy"), found.strain[i], strict=True)},
                    **{k: float(v) for k, v in zip(("exx_sd", "eyy_sd", "exy_sd"), sd[i], strict=True)},
                    "cov_exx_eyy": float(found.covariance[i, 0, 1]),
                    "cov_exx_exy": float(found.covariance[i, 0, 2]),
                    "cov_eyy_exy": float(found.covariance[i, 1, 2]),
                    "rotation": float(found.rotation[i]),
                    "rotation_sd": float(found.rotation_sd[i]),
                    **{k: float(v) for k, v in zip(("centre_x", "centre_y"), centre[i], strict=True)},
                    **{k: float(v) for k, v in zip(("centre_x_sd", "centre_y_sd"), centre_sd[i], strict=True)},
                    "phase": str(phase[i]),
                    "phase_probability": float(found.phase_probability[i].max()),
                    "flagged": str(found.flagged[i]),
                    **self._of_thick(found, i),
                    **({} if self.board is None else {"read_by": read_by}),
                },
            )

    def _of_thick(self, found: FeatureDescriptors, i: int) -> dict[str, float]:
        """The values of `THICK` of one pattern; none where the stream has no columns for them."""
        if "thickness" not in self.stream.columns:
            return {}
        assert found.thickness is not None and found.thickness_sd is not None
        return {"thickness": float(found.thickness[i]), "thickness_sd": float(found.thickness_sd[i])}
