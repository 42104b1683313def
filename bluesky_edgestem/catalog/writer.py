"""A subscriber that brings a run into the catalog, and loses nothing when the catalog's server goes."""

import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bluesky_edgestem.catalog.connection import check_answers
from bluesky_edgestem.catalog.delivery import RunDelivery, Tally, impatient, is_complete, rewrite
from bluesky_edgestem.catalog.errors import CatalogError, JournalError
from bluesky_edgestem.catalog.journal import Document, Journal, encode, read_journal

if TYPE_CHECKING:
    from tiled.client.container import Container

logger = logging.getLogger(__name__)

# The most that a loss of power may cost [s]; see `bluesky_edgestem.catalog.journal`.
SYNC_INTERVAL = 1.0


class _Run:
    """One run on its way: the RunEngine's side writes the journal, the worker's side the catalog."""

    def __init__(self, uid: str, journal: Journal) -> None:
        self.uid = uid
        self.journal = journal
        self.journal_error: JournalError | None = None
        self.journal_error_raised = False
        self.delivery: RunDelivery | None = None
        self.delivery_error = ""
        self.tally = Tally()


class CatalogWriter:
    """Puts each document on disk, then into Tiled from a thread of its own; for `RunEngine.subscribe`.

    A call takes a few milliseconds whatever the server does. When the server goes, the run goes on and its
    journal stays; the catalog is tried once more when the run ends, and after that `replay` brings the run in.
    The journal of a run that is safely in the catalog is removed. Close the writer at the end (it is a context
    manager), or the last seconds of the last run wait in its journal for a replay.

    Parameters
    ----------
    client : Container
        Tiled client of the catalog, as `CatalogServer.client()` gives.
    journals : str or Path
        Folder for the journals, made if it is not there.
    interval : float
        How far a reader of the catalog may lag behind a run [s].

    Raises
    ------
    CatalogError
        No server answers now.
    JournalError
        From a call: a document cannot be put on disk. The RunEngine then fails the run.
    """

    def __init__(self, client: "Container", journals: str | Path, *, interval: float = 2.0) -> None:
        check_answers(str(client.context.api_uri))
        self._client = impatient(client)
        self._journals = Path(journals)
        self._interval = interval
        self._runs: dict[str, _Run] = {}
        self._run_of: dict[str, str] = {}  # uid of a descriptor or a resource -> uid of its run
        self._refused: set[str] = set()  # runs whose start document could not be put on disk
        self._queue: queue.SimpleQueue[tuple[_Run, bytes] | threading.Event] = queue.SimpleQueue()
        self._closed = threading.Event()
        threading.Thread(target=self._work, name="catalog-writer", daemon=True).start()
        threading.Thread(target=self._sync_journals, name="catalog-journal", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def missing(self) -> dict[str, str]:
        """Runs that the catalog has not got, or not wholly: uid -> why. Their journals wait for `replay`."""
        return {run.uid: run.delivery_error for run in list(self._runs.values()) if run.delivery_error}

    def __call__(self, name: str, doc: Document) -> None:
        """Take one document of a run."""
        if self._closed.is_set():
            raise CatalogError("This catalog writer is closed: documents that come now would be lost.")
        uid = self._uid_of_run(name, doc)
        if uid in self._refused:
            return
        if name == "start":
            # Refused until it is on disk, for the RunEngine closes even a run that could not begin.
            self._refused.add(uid)
            line = encode(name, doc)
            self._runs[uid] = _Run(uid, Journal(self._journals, uid))
            self._refused.discard(uid)
        else:
            line = encode(name, doc)
        run = self._runs[uid]
        if name in ("descriptor", "stream_resource", "resource"):
            self._run_of[doc["uid"]] = uid
        if name == "stop":
            self._run_of = {key: value for key, value in self._run_of.items() if value != uid}
        if run.journal_error is None:
            try:
                run.journal.append(line, sync=name in ("start", "stop"))
            except JournalError as error:
                run.journal_error = error
        # Also where the journal cannot be written: the catalog may lie on another disk.
        self._queue.put((run, line))
        # Once, and not for the stop document: the RunEngine must be able to close the run as failed.
        if run.journal_error and not run.journal_error_raised and name != "stop":
            run.journal_error_raised = True
            raise run.journal_error

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until every document so far is in the catalog.

        Parameters
        ----------
        timeout : float
            [s]

        Returns
        -------
        bool
            False where some are not (see `missing`) or the time is up.
        """
        arrived = threading.Event()
        self._queue.put(arrived)
        return arrived.wait(timeout) and not self.missing

    def close(self, timeout: float = 30.0) -> bool:
        """Flush, then end the threads and leave what has not arrived to `replay`; returns as `flush` does."""
        if self._closed.is_set():
            return not self.missing
        arrived = self.flush(timeout)
        self._closed.set()
        self._queue.put(threading.Event())  # wakes the worker
        for run in list(self._runs.values()):
            run.journal.close()
        return arrived

    def _uid_of_run(self, name: str, doc: Document) -> str:
        if name == "start":
            return doc["uid"]
        # Each document names its run, its descriptor or its resource.
        referred = doc.get("descriptor") or doc.get("stream_resource") or doc.get("resource") or ""
        uid = doc.get("run_start") or self._run_of.get(referred, "")
        if uid in self._runs or uid in self._refused:
            return uid
        raise JournalError(
            f"A document ({name}) came of a run whose start document did not. "
            "Subscribe the catalog writer to the RunEngine before the run begins."
        )

    # From here on in the writer's threads, which nothing that happens to one run may end.

    def _work(self) -> None:
        written = time.monotonic()
        while not self._closed.is_set():
            try:
                item = self._queue.get(timeout=self._interval)
            except queue.Empty:
                item = None
            if isinstance(item, tuple):
                self._take(*item)
            if isinstance(item, threading.Event) or time.monotonic() - written >= self._interval:
                for run in list(self._runs.values()):
                    if run.delivery is not None:
                        self._try(run, run.delivery.write_collected)
                written = time.monotonic()
            if isinstance(item, threading.Event):
                item.set()

    def _take(self, run: _Run, line: bytes) -> None:
        # From the line and not from the document: the catalog gets exactly what a replay would give it.
        name, doc = json.loads(line)
        if not run.delivery_error:
            self._try(run, lambda: self._deliver(run, name, doc))
        if name == "stop":
            self._finish(run)

    def _deliver(self, run: _Run, name: str, doc: Document) -> None:
        run.tally.add(name, doc)
        if run.delivery is None:
            run.delivery = RunDelivery(self._client)
        run.delivery(name, doc)

    def _try(self, run: _Run, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever it is: the run must go on, and the journal has everything
            run.delivery = None
            run.delivery_error = str(error) or type(error).__name__
            logger.warning("Run %s goes on without the catalog: %s", run.uid, run.delivery_error)

    def _finish(self, run: _Run) -> None:
        try:
            if run.delivery_error or not is_complete(self._client, run.tally):
                if run.journal_error:
                    raise run.journal_error
                rewrite(self._client, read_journal(run.journal.path))
        except Exception as error:
            run.delivery, run.tally = None, Tally()
            run.delivery_error = str(error) or type(error).__name__
            run.journal.close()
            logger.warning("Run %s is not in the catalog (%s); replay its journal.", run.uid, run.delivery_error)
        else:
            del self._runs[run.uid]
            run.journal.remove()

    def _sync_journals(self) -> None:
        # Apart from the worker, which may be waiting for the server.
        while not self._closed.wait(SYNC_INTERVAL):
            for run in list(self._runs.values()):
                try:
                    run.journal.sync()
                except JournalError as error:
                    run.journal_error = error
