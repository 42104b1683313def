"""From frames to feature descriptors, while the run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol
from urllib.parse import unquote, urlparse

import numpy as np
from event_model import DocumentRouter
from threadpoolctl import threadpool_limits

from ..analysis.descriptor import FeatureDescriptors
from ..analysis.optics import Optics
from .derived import DerivedStream, integer, number, text


class DescriptorSource(Protocol):
    """What turns frames into descriptors: a network, or a board that computes one."""

    def predict(self, frames: np.ndarray, optics: Optics) -> FeatureDescriptors:
        """Descriptors of `frames` (n, ny, nx), unsigned integers."""
        ...

    def check_optics(self, optics: Optics) -> None:
        """Raise ValueError where it cannot read patterns of such optics; asked before a run begins."""
        ...


class Descriptors(DocumentRouter):
    """Reads the frames that the run announces and derives the stream ``descriptors``, a row a probe position.

    Parameters
    ----------
    source : DescriptorSource
        For example `analysis.networks.DescriptorNetwork.pretrained()`.
    detector : str
        Data key of the frames; the positions are at ``<detector>_x`` and ``<detector>_y`` [nm].
    phases : sequence of str, optional
        The phases that may occur, of those that the source tells apart; all if left out.
    """

    def __init__(
        self, source: DescriptorSource, detector: str = "detector", phases: Sequence[str] | None = None
    ) -> None:
        super().__init__()
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
                "phase": text("network"),
                "phase_probability": number("network"),
                "flagged": text("why the network does not know; empty where it does"),
            },
        )
        self._source = source
        self._phases = phases
        self._keys = (detector, f"{detector}_x", f"{detector}_y")
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="descriptors")
        self._work: list[Future[None]] = []

    def start(self, doc):
        """A run begins: take the beam from its metadata."""
        optics = dict(doc).get("optics")
        if not isinstance(optics, dict):
            raise ValueError("the run's metadata has no 'optics'; Descriptors needs those of the beam")
        self._optics = Optics(**optics)
        self._resources: dict[str, dict[str, Any]] = {}
        self._ready: dict[str, int] = dict.fromkeys(self._keys, 0)
        self._read = 0

    def stream_resource(self, doc):
        """A file of the run: remember where its frames and positions are."""
        if doc["data_key"] in self._keys:
            self._resources[doc["uid"]] = dict(doc)

    def stream_datum(self, doc):
        """More frames are on disk: read what is complete, in the worker."""
        resource = self._resources.get(doc["stream_resource"])
        if resource is None:
            return
        self._ready[resource["data_key"]] = doc["indices"]["stop"]
        complete = min(self._ready.values())
        if complete > self._read:
            self._work.append(self._worker.submit(self._derive, dict(self._resources), self._read, complete))
            self._read = complete

    def finished(self) -> Future[None]:
        """Done once each frame announced so far has its row."""
        work, self._work = self._work, []

        def settle() -> None:
            for future in work:
                future.result()

        return self._worker.submit(settle)

    def _derive(self, resources: dict[str, dict[str, Any]], start: int, stop: int) -> None:
        frames, x, y = (self._dataset(resources, key, start, stop) for key in self._keys)
        # The cores belong to the calculations: with more threads than free cores a network takes ten times as long.
        with threadpool_limits(1):
            found = self._source.predict(frames, self._optics)
        if self._phases is not None:
            found = found.among(self._phases)
        sd, phase = found.strain_sd, found.phase
        for i in range(len(found)):
            self.stream.put(
                {
                    "frame": start + i,
                    "x": float(x[i]),
                    "y": float(y[i]),
                    **{k: float(v) for k, v in zip(("exx", "eyy", "exy"), found.strain[i], strict=True)},
                    **{k: float(v) for k, v in zip(("exx_sd", "eyy_sd", "exy_sd"), sd[i], strict=True)},
                    "cov_exx_eyy": float(found.covariance[i, 0, 1]),
                    "cov_exx_exy": float(found.covariance[i, 0, 2]),
                    "cov_eyy_exy": float(found.covariance[i, 1, 2]),
                    "rotation": float(found.rotation[i]),
                    "rotation_sd": float(found.rotation_sd[i]),
                    "phase": str(phase[i]),
                    "phase_probability": float(found.phase_probability[i].max()),
                    "flagged": str(found.flagged[i]),
                }
            )

    @staticmethod
    def _dataset(resources: dict[str, dict[str, Any]], key: str, start: int, stop: int) -> np.ndarray:
        import h5py
        import hdf5plugin  # noqa: F401  registers the bitshuffle-lz4 filter

        resource = next(r for r in resources.values() if r["data_key"] == key)
        path = unquote(urlparse(resource["uri"]).path)
        with h5py.File(path, "r", swmr=bool(resource["parameters"].get("swmr"))) as file:
            return file[resource["parameters"]["dataset"]][start:stop]
