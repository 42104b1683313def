"""From feature descriptors to energies, while the run goes on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from typing import Protocol

import numpy as np
from event_model import DocumentRouter

from ..analysis.crystals import phase_strain
from ..energetics import EnergyResult
from .derived import DerivedStream, integer, number, text


class Energies(Protocol):
    """What computes energies: density functional theory on a cluster, or an emulator of it."""

    @property
    def method_name(self) -> str:
        """How: energies of different names have nothing to do with each other."""
        ...

    def submit(self, formula: str, strain: Sequence[float]) -> Future[EnergyResult]:
        """Begin the energy of `formula` at `strain` (3,), relative to its own relaxed lattice, crystal axes."""
        ...


class Energetics(DocumentRouter):
    """Takes the stream ``descriptors`` and derives the stream ``energetics``, a row a position, in the same order.

    A position whose descriptor is flagged, or whose calculation fails, has a row too: its state is ``failed``, its
    energy nan, and the reason says why.
    """

    def __init__(self, energies: Energies) -> None:
        super().__init__()
        self.stream = DerivedStream(
            "energetics",
            {
                "frame": integer("index of the frame in the primary stream"),
                "energy": number("energy per formula unit relative to the relaxed phase", "eV"),
                "energy_sd": number("propagated from the descriptor's uncertainty", "eV"),
                "formula": text("descriptors"),
                **{
                    k: number("strain relative to the phase's own relaxed lattice, crystal axes")
                    for k in ("phase_exx", "phase_eyy", "phase_exy")
                },
                **{
                    k: number("derivative of the energy, crystal axes", "eV")
                    for k in ("gradient_exx", "gradient_eyy", "gradient_exy")
                },
                "state": text("converged or failed"),
                "reason": text("why it failed; empty if it did not"),
                "cached": integer("1 if the energy was known already"),
                "wall_s": number("calculation", "s"),
                "method": text("calculation"),
            },
        )
        #: Calculations asked for and ended in the present run.
        self.submitted = 0
        self.done = 0
        self._energies = energies
        self._streams: dict[str, str] = {}
        self._asked: list[tuple[dict, np.ndarray, Future[EnergyResult]]] = []
        self._pending: set[Future[EnergyResult]] = set()

    def start(self, doc):
        """A run begins: count anew."""
        self.submitted = self.done = 0

    def descriptor(self, doc):
        """A stream begins: remember which it is."""
        self._streams[doc["uid"]] = doc.get("name", "")

    def event(self, doc):
        """A probe position is known: ask for its energy."""
        if self._streams.get(doc["descriptor"]) != "descriptors":
            return doc
        row = dict(doc["data"])
        if row["flagged"]:
            own = np.full(3, np.nan)
            future: Future[EnergyResult] = Future()
            future.set_result(_not_computed(row["phase"], f"the descriptor is flagged: {row['flagged']}"))
        else:
            own = phase_strain(np.array([row["exx"], row["eyy"], row["exy"]]), row["rotation"], row["phase"])
            future = self._energies.submit(row["phase"], tuple(float(v) for v in own))
            self.submitted += 1
            self._pending.add(future)
            future.add_done_callback(self._count)
        self._asked.append((row, own, future))
        return doc

    def finished(self) -> Future[None]:
        """Done once each position received so far has its row; they come as the calculations end, in order."""
        waiting, self._asked = deque(self._asked), []
        futures = [future for _, _, future in waiting]
        settled: Future[None] = Future()
        lock = threading.Lock()

        # No thread waits: whichever calculation ends, in whatever thread, writes the rows that are due.
        def ended(_: Future[EnergyResult]) -> None:
            with lock:
                if settled.done():
                    return
                try:
                    while waiting and waiting[0][2].done():
                        row, own, future = waiting.popleft()
                        self._put(row, own, future.result())
                    if not waiting:
                        settled.set_result(None)
                except CancelledError:
                    settled.cancel()
                except BaseException as error:
                    settled.set_exception(error)

        for future in futures:
            future.add_done_callback(ended)
        if not futures:
            settled.set_result(None)
        return settled

    def stop(self, doc):
        """The run ends: what it still waits for is of no more use."""
        for future in tuple(self._pending):
            future.cancel()

    def _count(self, future: Future[EnergyResult]) -> None:
        self._pending.discard(future)
        self.done += 1

    def _put(self, row: dict, own: np.ndarray, result: EnergyResult) -> None:
        self.stream.put(
            {
                "frame": int(row["frame"]),
                "energy": float(result.energy),
                "energy_sd": _energy_sd(row, np.array(result.gradient)),
                "formula": row["phase"],
                **{k: float(v) for k, v in zip(("phase_exx", "phase_eyy", "phase_exy"), own, strict=True)},
                **{
                    k: float(v)
                    for k, v in zip(("gradient_exx", "gradient_eyy", "gradient_exy"), result.gradient, strict=True)
                },
                "state": result.state,
                "reason": result.reason,
                "cached": int(result.cached),
                "wall_s": float(result.wall_s),
                "method": result.method,
            }
        )


def _not_computed(formula: str, reason: str) -> EnergyResult:
    nan = float("nan")
    return EnergyResult(formula, (nan, nan, nan), nan, (nan, nan, nan), "failed", reason, False, 0.0, "")


def _energy_sd(row: dict, gradient: np.ndarray) -> float:
    """Standard deviation of the energy, gᵀ Σ g to first order, in image axes [eV]."""
    covariance = np.array(
        [
            [row["exx_sd"] ** 2, row["cov_exx_eyy"], row["cov_exx_exy"]],
            [row["cov_exx_eyy"], row["eyy_sd"] ** 2, row["cov_eyy_exy"]],
            [row["cov_exx_exy"], row["cov_eyy_exy"], row["exy_sd"] ** 2],
        ]
    )
    # phase_strain is affine: its columns are the differences that unit strains make.
    origin = phase_strain(np.zeros(3), row["rotation"], row["phase"])
    jacobian = np.stack([phase_strain(e, row["rotation"], row["phase"]) - origin for e in np.eye(3)], axis=1)
    in_image_axes = gradient @ jacobian
    return float(np.sqrt(in_image_axes @ covariance @ in_image_axes))
