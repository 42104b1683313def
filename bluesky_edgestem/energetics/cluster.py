"""Energies by DFT on Dask workers, each computed once."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..analysis.crystals import monolayer
from .cache import EnergyCache, Structure, known
from .local_workers import LocalWorkers
from .method import STANDARD, DFTMethod, relaxed_cell
from .result import EnergyResult, rounded

_log = logging.getLogger(__name__)

DEFAULT_CACHE = Path("~/.cache/bluesky_edgestem")

_PATIENCE = 60.0  # [s] for a scheduler, for a first worker, and for another one where the last is lost
_ANSWER = 5.0  # [s] for a scheduler to say which workers it has


@dataclass
class _Job:
    """One structure that is wanted, and by whom."""

    asked_by: list[Future[EnergyResult]]
    task: Any = None  # Dask's future; None while another process computes the structure
    begun: float = field(default_factory=time.monotonic)


class DFTCluster:
    """Computes energies on workers, or takes them from the cache.

    All that is slow (the cache's disk, the scheduler) happens in a thread of its own; `submit` returns at once.

    Parameters
    ----------
    scheduler : str
        "local" for worker processes on this machine, or the address of a Dask scheduler.
    workers : int
        Processes, one thread each, if local.
    cache : path
        Folder of the energies known.
    method : DFTMethod
        Settings of the calculations.
    time_limit : float
        Longest duration of one calculation [s].
    given_up : threading.Event, optional
        Once it is set, no worker is waited for any longer.

    Raises
    ------
    OSError
        If the cache cannot be written.
    TimeoutError
        If the scheduler does not answer or has no worker.
    RuntimeError
        If it was given up before there was one.
    """

    def __init__(
        self,
        scheduler: str = "local",
        *,
        workers: int = 2,
        cache: str | os.PathLike = DEFAULT_CACHE,
        method: DFTMethod = STANDARD,
        time_limit: float = 120.0,
        given_up: threading.Event | None = None,
    ) -> None:
        EnergyCache(Path(cache).expanduser()).close()  # one that cannot be written is refused before workers start
        self.method, self.time_limit = method, time_limit
        #: Energies asked for, and answered or given up, since the start.
        self.submitted = self.completed = 0
        #: Of those answered: known already, and failed.
        self.cached = self.failed = 0
        self._jobs: dict[Structure, _Job] = {}
        self._events: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._workless_since: float | None = None  # while energies are wanted and no worker is there
        self._closed = threading.Event()
        self._count = threading.Lock()
        with contextlib.ExitStack() as stack:
            self._local: LocalWorkers | None = None
            self._client = self._connect(scheduler, workers, given_up or threading.Event(), stack)
            ready: Future[None] = Future()
            self._thread = threading.Thread(
                target=self._run, args=(Path(cache).expanduser(), ready), name="dft-cluster", daemon=True
            )
            self._thread.start()
            ready.result()
            self._resources = stack.pop_all()

    def _connect(self, scheduler: str, workers: int, given_up: threading.Event, stack: contextlib.ExitStack) -> Any:
        import dask
        from distributed import Client, LocalCluster

        # To its loggers the end of a connection is worth a traceback, also after all was closed: set for good.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        address = scheduler
        if scheduler == "local":
            # A worker that is killed may have been killed by its task: once more, then it has failed.
            stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 1}))
            cluster = LocalCluster(
                n_workers=0, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address="127.0.0.1:0",
                silence_logs=False,
            )  # fmt: skip
            stack.callback(cluster.close)
            address = cluster.scheduler_address
            self._local = LocalWorkers(address, workers)
            stack.callback(self._local.close)
        #: Where the scheduler listens.
        self.address = address
        try:
            client = Client(address, timeout=_PATIENCE, set_as_default=False)
            stack.callback(client.close)
            patience = time.monotonic() + _PATIENCE
            while not client.nthreads():
                if given_up.wait(0.1):
                    raise RuntimeError("the start of the DFT workers was given up")
                if time.monotonic() > patience:
                    raise TimeoutError(f"none came within {_PATIENCE:g} s")
        except OSError as error:
            where = (
                "start `python -m bluesky_edgestem.energetics.worker ADDRESS` for it"
                if scheduler != "local"
                else "see the messages of the worker processes above"
            )
            raise TimeoutError(f"no DFT worker at the Dask scheduler {address}: {error}; {where}") from None
        return client

    @property
    def method_name(self) -> str:
        """Of the settings of the density functional theory."""
        return self.method.name

    def submit(self, formula: str, strain: Sequence[float]) -> Future[EnergyResult]:
        """Begin one energy.

        Parameters
        ----------
        formula : str
            Phase.
        strain : (3,) floats
            exx, eyy, exy relative to the phase's own relaxed lattice, crystal axes; rounded to 1e-5.

        Returns
        -------
        Future of EnergyResult
            Never holds an exception: what fails, has the state "failed" and the reason. Cancelling it gives up the
            calculation unless it is wanted elsewhere.

        Raises
        ------
        ValueError
            If the material is unknown.
        RuntimeError
            If the cluster is closed.
        """
        monolayer(formula)
        relaxed_cell(formula, self.method)
        if self._closed.is_set():
            raise RuntimeError("this DFTCluster is closed; make a new one")
        future: Future[EnergyResult] = Future()
        with self._count:
            self.submitted += 1
        try:
            structure = Structure.of(formula, rounded(strain), self.method)
        except ValueError as error:
            self._answer(future, EnergyResult.failed(formula, strain, str(error), self.method.name))
            return future
        future.add_done_callback(partial(self._cancelled, structure))
        self._events.put((self._ask, structure, future))
        return future

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers on this machine."""
        return [] if self._local is None else self._local.pids

    def close(self) -> None:
        """End the workers; what they still compute is answered as failed."""
        if not self._closed.is_set():
            self._closed.set()
            self._events.put((lambda cache: None,))
            self._thread.join()
            self._resources.close()

    def __enter__(self) -> DFTCluster:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # Below: in the cluster's own thread, which alone touches the cache and the jobs.

    def _run(self, folder: Path, ready: Future[None]) -> None:
        try:
            cache = EnergyCache(folder)
        except Exception as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        beat = time.monotonic()
        while not self._closed.is_set():
            waiting = any(job.task is None for job in self._jobs.values())
            with contextlib.suppress(queue.Empty):
                event, *arguments = self._events.get(timeout=0.1 if waiting else 1.0)
                self._guard(event, cache, *arguments)
            if waiting:
                for structure in [s for s, job in self._jobs.items() if job.task is None]:
                    self._guard(self._begin, cache, structure)
            if time.monotonic() - beat > cache.lapse / 6:
                beat = time.monotonic()
                self._guard(self._keep_alive, cache)
        for structure in list(self._jobs):
            self._fail(structure, "the cluster was closed before the energy was computed")
        while not self._events.empty():
            event, *arguments = self._events.get()
            if event == self._ask:
                structure, future = arguments
                self._answer(future, self._failure(structure, "the cluster was closed before the energy was computed"))
        cache.close()

    def _guard(self, event: Any, cache: EnergyCache, *arguments: Any) -> None:
        try:
            event(cache, *arguments)
        except Exception as error:
            _log.exception("energies: %s", event)
            if arguments:
                self._fail(arguments[0], f"{type(error).__name__}: {error}")

    def _keep_alive(self, cache: EnergyCache) -> None:
        with _tolerate_disk():
            cache.beat()
        reason = self._local.failure if self._local is not None else ""
        if not self._connected:
            reason = f"the Dask scheduler {self.address} is lost"
        if reason := reason or self._no_worker():
            for structure in list(self._jobs):
                self._abandon(cache, structure)
                self._fail(structure, reason)

    @property
    def _connected(self) -> bool:
        return self._client.status in ("running", "connecting")

    def _no_worker(self) -> str:
        """Why nothing will be computed, where energies are wanted and no worker has been there for long."""
        # Dask itself would wait for ever. Without a job no worker is needed: there may be none for as long as it likes.
        there = not self._jobs
        if not there:
            with contextlib.suppress(OSError):  # a scheduler that does not answer has no worker for us
                there = bool(self._client.nthreads(callback_timeout=_ANSWER))
        now = time.monotonic()
        if there:
            self._workless_since = None
        elif self._workless_since is None:
            self._workless_since = now
        elif now - self._workless_since > _PATIENCE:
            return f"the Dask scheduler {self.address} has shown no worker for more than {_PATIENCE:g} s"
        return ""

    def _abandon(self, cache: EnergyCache, structure: Structure) -> None:
        """Neither this cluster's scheduler nor another process need keep the structure for it any longer."""
        task = self._jobs[structure].task
        if task is not None:
            if self._connected:
                task.cancel()
            with _tolerate_disk():
                cache.release(structure)

    def _ask(self, cache: EnergyCache, structure: Structure, future: Future[EnergyResult]) -> None:
        if structure in self._jobs:
            self._jobs[structure].asked_by.append(future)
        else:
            self._jobs[structure] = _Job([future])
            self._begin(cache, structure)

    def _begin(self, cache: EnergyCache, structure: Structure) -> None:
        """Take the energy from the cache or compute it; if another process computes it, do nothing yet."""
        claim: EnergyResult | bool = True
        with _tolerate_disk():
            claim = cache.claim(structure)
        if isinstance(claim, EnergyResult):
            self._finish(structure, claim)
        elif claim:
            from .worker import compute

            task = self._client.submit(
                compute, structure.formula, structure.strain, self.method, self.time_limit, pure=False
            )
            self._jobs[structure].task = task
            task.add_done_callback(lambda task: self._events.put((self._computed, structure, task)))

    def _computed(self, cache: EnergyCache, structure: Structure, task: Any) -> None:
        job = self._jobs.get(structure)
        if job is None or job.task is not task:
            return
        error = None if task.status == "finished" else task.exception() if task.status == "error" else task.status
        if error is None:
            result = task.result()
        elif isinstance(error, str):
            reason = f"the Dask scheduler {self.address} was lost, or gave the calculation up: it is {error}"
            result = self._failure(structure, reason)
        elif type(error).__name__ == "KilledWorker":
            result = self._failure(structure, "the worker process died, and so did the one that tried again")
        else:
            result = self._failure(structure, f"the worker gave no energy: {type(error).__name__}: {error}")
        with _tolerate_disk():
            cache.put(structure, result)
        self._finish(structure, result)

    def _give_up(self, cache: EnergyCache, structure: Structure) -> None:
        job = self._jobs.get(structure)
        if job is not None and all(future.cancelled() for future in job.asked_by):
            self._abandon(cache, structure)
            del self._jobs[structure]

    def _finish(self, structure: Structure, result: EnergyResult) -> None:
        job = self._jobs.pop(structure)
        for future in job.asked_by:
            self._answer(future, result)
            result = known(result)

    def _fail(self, structure: Structure, reason: str) -> None:
        if structure in self._jobs:
            self._finish(structure, self._failure(structure, reason))

    def _failure(self, structure: Structure, reason: str) -> EnergyResult:
        return EnergyResult.failed(structure.formula, structure.strain, reason, self.method.name)

    def _answer(self, future: Future[EnergyResult], result: EnergyResult) -> None:
        if not future.set_running_or_notify_cancel():
            return
        with self._count:
            self.completed += 1
            self.cached += result.cached
            self.failed += result.state == "failed"
        future.set_result(result)

    def _cancelled(self, structure: Structure, future: Future[EnergyResult]) -> None:
        if future.cancelled():
            with self._count:
                self.completed += 1
            self._events.put((self._give_up, structure))


@contextlib.contextmanager
def _tolerate_disk():
    """A cache that cannot be reached costs time, not the run."""
    try:
        yield
    except sqlite3.Error as error:
        _log.warning("the energy cache is not available: %s; energies are computed without it", error)
