"""How one run's documents become a run in Tiled, and how to tell that all of it is there."""

import copy
import uuid
from collections import Counter
from collections.abc import Iterable
from typing import Any

import httpx
import numpy as np
from bluesky_tiled_plugins.writing.tiled_writer import RunNormalizer, _RunWriter
from tiled.client.constructors import from_context
from tiled.client.container import Container
from tiled.client.utils import ClientError

from bluesky_edgestem.catalog.errors import CatalogError
from bluesky_edgestem.catalog.journal import Document

# Rows of a stream that are collected before they are written, unless `RunDelivery.write_collected` comes first.
BATCH_ROWS = 1000


def impatient(client: Container) -> Container:
    """Return a client of the same node with connections of its own, which raises at once where no server answers.

    Tiled's client tries again for 45 s, and repeats even what may have been done already; here a journal makes
    both unnecessary.
    """
    context = copy.copy(client.context)
    send = context.http_client.send

    def send_once(request: httpx.Request, **options: Any) -> httpx.Response:
        try:
            return send(request, **options)
        except httpx.TransportError as error:
            raise CatalogError(f"The Tiled server at {context.api_uri} is gone ({error}).") from error

    context.http_client.send = send_once
    return from_context(context, node_path_parts=client.path_parts)


class _CollectingRunWriter(_RunWriter):
    # TiledWriter writes a stream once so many rows have come together: a slow stream (one row a batch of positions)
    # would show at the end of the run only, and with one row at a time every row costs some 70 ms. So the rows
    # collect here and are written by the clock. These attributes of the base class are not public;
    # tests/system/test_catalog_runs.py fails when they change.

    def write_collected(self) -> None:
        for stream, rows in self._internal_data_cache.items():
            if rows:
                self._write_internal_data(rows, desc_node=self._desc_nodes[stream])
                rows.clear()
        for doc in self._external_data_cache.values():
            self._write_external_data(doc)
        self._external_data_cache.clear()

    def event(self, doc: Any) -> None:
        # A table's columns get their types from the first rows: a number that happens to be whole there would make
        # a column of integers, which takes no fraction later.
        for key, value in doc["data"].items():
            kind = self.data_keys.get(key, {}).get("dtype_numpy")
            if type(value) is int and isinstance(kind, str) and np.dtype(kind).kind == "f":
                doc["data"][key] = float(value)
        super().event(doc)


class RunDelivery:
    """Writes the documents of one run to Tiled.

    Parameters
    ----------
    client : Container
        Of the catalog; see `impatient`.
    """

    def __init__(self, client: Container) -> None:
        self._writer = _CollectingRunWriter(client.include_data_sources(), batch_size=BATCH_ROWS)
        self._normalizer = RunNormalizer()
        self._normalizer.subscribe(self._writer)

    def __call__(self, name: str, doc: Document) -> None:
        """Take one document; a stop document writes everything collected."""
        self._normalizer(name, doc)

    def write_collected(self) -> None:
        """Write what has been collected, so that readers of the catalog see it."""
        self._writer.write_collected()


class Tally:
    """What a run consists of, counted from its documents."""

    def __init__(self) -> None:
        self.start: Document = {}
        self.stop: Document = {}
        self.rows: Counter[str] = Counter()  # by stream
        self.frames: Counter[tuple[str, str]] = Counter()  # by stream and data key, of external data
        self.last_time = 0.0
        self._streams: dict[str, str] = {}
        self._data_keys: dict[str, str] = {}

    def add(self, name: str, doc: Document) -> None:
        """Count one document."""
        if name == "start":
            self.start = doc
        elif name == "stop":
            self.stop = doc
        elif name == "descriptor":
            self._streams[doc["uid"]] = doc["name"]
        elif name == "event":
            self.rows[self._streams[doc["descriptor"]]] += 1
        elif name == "event_page":
            self.rows[self._streams[doc["descriptor"]]] += len(doc["seq_num"])
        elif name == "stream_resource":
            self._data_keys[doc["uid"]] = doc["data_key"]
        elif name == "stream_datum":
            key = self._streams[doc["descriptor"]], self._data_keys[doc["stream_resource"]]
            self.frames[key] += doc["indices"]["stop"] - doc["indices"]["start"]
        times = doc.get("time", self.last_time)
        self.last_time = max([self.last_time, *times] if isinstance(times, list) else (self.last_time, times))

    def closing(self) -> Document:
        """Return a stop document for a run that never got one, because its process ended before it could."""
        frames: dict[str, int] = {}
        for (stream, _), number in self.frames.items():
            frames[stream] = max(frames.get(stream, 0), number)
        return {
            "uid": str(uuid.uuid4()),
            "run_start": self.start["uid"],
            "time": self.last_time,
            "exit_status": "abort",
            "reason": "The process ended before the run was closed; its documents were replayed from the journal.",
            "num_events": frames | dict(self.rows),
        }


def is_complete(client: Container, tally: Tally) -> bool:
    """Whether the catalog holds the whole run: closed, with as many rows and frames as its documents say."""
    run = _find(client, tally.start["uid"])
    if run is None:
        return False
    stop = run.metadata.get("stop")
    if not stop or (tally.stop and stop["uid"] != tally.stop["uid"]):
        return False
    rows = {stream: len(run.base[stream].base["internal"].read(["seq_num"])) for stream in tally.rows}
    frames = {(stream, key): run.base[stream].base[key].shape[0] for stream, key in tally.frames}
    if not tally.stop:
        # The documents end early (a crash, a full disk); then a catalog that has more is the better record.
        return all(rows[key] >= n for key, n in tally.rows.items()) and all(
            frames[key] >= n for key, n in tally.frames.items()
        )
    return rows == tally.rows and frames == tally.frames


def rewrite(client: Container, documents: Iterable[tuple[str, Document]]) -> None:
    """Write a whole run, in place of a part of it that may be in the catalog already.

    Frames are not touched: they are the detector's. A run without a stop document is closed as aborted.

    Raises
    ------
    CatalogError
        The server is gone, or what it holds afterwards is not the whole run.
    """
    tally = Tally()
    delivery = RunDelivery(client)
    for name, doc in documents:
        tally.add(name, doc)
        if name == "start":
            _remove(client, doc["uid"])
        delivery(name, doc)
    if not tally.stop:
        stop = tally.closing()
        tally.add("stop", stop)
        delivery("stop", stop)
    if not is_complete(client, tally):
        raise CatalogError(f"The catalog does not hold all of run {tally.start['uid']} after it was written.")


def _remove(client: Container, uid: str) -> None:
    if _find(client, uid) is None:
        return
    try:
        client.delete_contents([uid], recursive=True, external_only=False)
    except ClientError:
        # Half-written data may have left nothing to delete behind an entry; what counts is that the entry is gone.
        if _find(client, uid) is not None:
            raise


def _find(client: Container, uid: str) -> Any:
    # Not client[uid], which takes what it is given for the beginning of a uid or for a scan id.
    try:
        return Container.__getitem__(client, uid)
    except KeyError:
        return None
