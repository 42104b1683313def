"""From energies to the next probe positions: the Gaussian process in the loop."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from event_model import DocumentRouter

from ..geometry import ScanGrid
from .derived import DerivedStream, image, integer, number, text


class Optimizer(Protocol):
    """What chooses positions; the shape of bluesky-adaptive 1.0's Optimizer.

    `analysis.surrogate.EnergyMap` is the package's own.
    """

    map_grid: ScanGrid
    target_sd: float
    #: Least distance of two positions [nm].
    resolution: float

    def ingest(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Learn from points, each the row of ``descriptors`` and of ``energetics`` of one position."""
        ...

    def suggest(self, num_points: int) -> np.ndarray:
        """The next positions (n, 2) [nm], in travel order; fewer than `num_points`, even none, where none is left."""
        ...

    def should_stop(self) -> str | None:
        """Why the run is complete, or None while it is not."""
        ...

    def posterior(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the energy on `map_grid`, (ny, nx) each [eV]."""
        ...


#: So many positions running without an energy end the run: what is wrong is not the specimen.
HOPELESS = 24


@dataclass(frozen=True)
class Recommendation:
    """What to do next."""

    positions: np.ndarray  #: (n, 2) [nm], in travel order; empty where the run is to stop
    stop: str  #: why to stop; empty where the run is to go on


class Recommender(DocumentRouter):
    """Takes the streams ``descriptors`` and ``energetics`` and derives ``optimization``, a row a batch.

    An earlier run's documents may be played into it before a new run begins: then the new one goes on where the earlier
    one ended.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__()
        self.optimizer = optimizer
        shape = optimizer.map_grid.shape
        self.stream = DerivedStream(
            "optimization",
            {
                "batch": integer("batches measured so far"),
                "positions": integer("positions measured so far"),
                "converged": integer("positions whose energy is known"),
                "max_sd": number("largest posterior standard deviation over the field", "eV"),
                "mean_sd": number("mean posterior standard deviation over the field", "eV"),
                "target_sd": number("plan", "eV"),
                "acquire_s": number("time the batch took at the microscope", "s"),
                "descriptors_s": number("time the plan waited for descriptors", "s"),
                "energetics_s": number("time the plan waited for energies", "s"),
                "recommend_s": number("time of fit and choice", "s"),
                "stop": text("why the run is complete; empty while it is not"),
                "energy_mean": image("posterior mean on the map's grid", shape, "eV"),
                "energy_sd": image("posterior standard deviation on the map's grid", shape, "eV"),
            },
        )
        self.batches = 0
        self.positions = 0
        self.converged = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="recommender")
        self._streams: dict[str, str] = {}
        self._described: dict[int, dict] = {}
        self._points: list[dict] = []
        self._reasons_running: list[str] = []  # why the last positions, without a break, have no energy

    def start(self, doc):
        """Another run begins, and counts its frames from 0: those that the one before left are kept first."""
        self._keep_unfinished()

    def descriptor(self, doc):
        """A stream begins: remember which it is."""
        self._streams[doc["uid"]] = doc.get("name", "")

    def event(self, doc):
        """A row of either stream: joined with its other half, it is a point to learn from."""
        stream = self._streams.get(doc["descriptor"])
        if stream == "descriptors":
            self._described[doc["data"]["frame"]] = doc["data"]
        elif stream == "energetics":
            point = {**self._described.pop(doc["data"]["frame"]), **doc["data"]}
            point["gradient"] = [point[f"gradient_{k}"] for k in ("exx", "eyy", "exy")]
            self._points.append(point)
        return doc

    def initial(self, n: int) -> Future[Recommendation]:
        """Where to begin, before this run has measured anything; earlier runs' points count if they were played in."""
        return self._worker.submit(self._choose, n)

    def anticipate(self) -> None:
        """Fit the batch's strains while its energies are computed: most of the work needs no energy."""
        self._worker.submit(self._anticipate, list(self._described.values()))

    def recommend(self, n: int, budget_spent: str, seconds: dict[str, float]) -> Future[Recommendation]:
        """Learn from the batch received since the last call and choose at most `n` positions.

        Parameters
        ----------
        n : int
            How many positions may be chosen.
        budget_spent : str
            Why the run must end whatever the map says; empty if it need not.
        seconds : dict
            ``acquire_s``, ``descriptors_s`` and ``energetics_s`` of the batch, for the record.
        """
        return self._worker.submit(self._recommend, n, budget_spent, seconds)

    def _choose(self, n: int) -> Recommendation:
        self._keep_unfinished()
        self._ingest()
        positions = np.asarray(self.optimizer.suggest(n), float)
        if not len(positions):
            raise RuntimeError(f"there is nothing to measure: {self._nothing_left()}")
        return Recommendation(positions, "")

    def _anticipate(self, described: list[dict]) -> None:
        self.optimizer.ingest(described)
        self.optimizer.posterior()

    def _keep_unfinished(self) -> None:
        # Of an earlier run's last batch the energies may be missing: its positions were visited all the same.
        self._points += self._described.values()
        self._described = {}

    def _nothing_left(self) -> str:
        return (
            f"no position is left farther than the probe's resolution, {self.optimizer.resolution:.3g} nm, "
            "from those measured"
        )

    def _ingest(self) -> None:
        points, self._points = self._points, []
        self.positions += len(points)
        for point in points:
            converged = point.get("state") == "converged"
            self.converged += converged
            self._reasons_running = [] if converged else [*self._reasons_running, point.get("reason", "not computed")]
        if points:
            self.optimizer.ingest(points)

    def _recommend(self, n: int, budget_spent: str, seconds: dict[str, float]) -> Recommendation:
        began = time.monotonic()
        self._ingest()
        if len(self._reasons_running) >= HOPELESS:
            ((reason, _),) = Counter(self._reasons_running).most_common(1)
            raise RuntimeError(
                f"none of the last {len(self._reasons_running)} positions gave an energy; most often because: {reason}"
            )
        self.batches += 1
        mean, sd = self.optimizer.posterior()
        stop = self.optimizer.should_stop() or budget_spent
        positions = np.empty((0, 2)) if stop else np.asarray(self.optimizer.suggest(n), float)
        if not stop and not len(positions):
            stop = self._nothing_left()
        self.stream.put(
            {
                "batch": self.batches,
                "positions": self.positions,
                "converged": self.converged,
                "max_sd": float(sd.max()),
                "mean_sd": float(sd.mean()),
                "target_sd": float(self.optimizer.target_sd),
                **{k: float(seconds[k]) for k in ("acquire_s", "descriptors_s", "energetics_s")},
                "recommend_s": time.monotonic() - began,
                "stop": stop,
                "energy_mean": mean,
                "energy_sd": sd,
            }
        )
        return Recommendation(positions, stop)
