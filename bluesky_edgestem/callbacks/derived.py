"""What a callback derived from a run goes back into the same run, as one more of its streams.

A callback must not emit documents of a run that is not its own, and the RunEngine must not wait in a callback. So a
callback puts its rows into a `DerivedStream` as they come, from any thread; the plan waits for its future and then
collects the stream as it collects a flyer. Subscribers see ordinary documents and need not know where they came from.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, Protocol

from event_model import DataKey, PartialEvent


class DerivedStream:
    """Rows waiting to be collected into the run (bluesky's `EventCollectable`).

    Parameters
    ----------
    name : str
        Name of the stream, and of the object in it.
    columns : dict of str to DataKey
        What each row holds. A row has exactly these keys.
    """

    parent = None

    def __init__(self, name: str, columns: dict[str, DataKey]) -> None:
        self.name = name
        self.columns = columns
        self._rows: list[tuple[float, dict[str, Any]]] = []
        self._lock = threading.Lock()

    def put(self, row: dict[str, Any]) -> None:
        """Add a row.

        Raises
        ------
        ValueError
            If its keys are not the stream's columns.
        """
        if row.keys() != self.columns.keys():
            raise ValueError(
                f"a row of stream {self.name!r} needs exactly {sorted(self.columns)}; "
                f"missing {sorted(self.columns.keys() - row.keys())}, "
                f"unknown {sorted(row.keys() - self.columns.keys())}"
            )
        with self._lock:
            self._rows.append((time.time(), row))

    def __len__(self) -> int:
        """How many rows wait."""
        return len(self._rows)

    def describe_collect(self) -> dict[str, DataKey]:
        """The stream's data keys."""
        return self.columns

    def collect(self) -> Iterator[PartialEvent]:
        """Hand over, and forget, the rows put so far."""
        with self._lock:
            rows, self._rows = self._rows, []
        for when, row in rows:
            yield PartialEvent(data=row, timestamps=dict.fromkeys(row, when), time=when)


class Derives(Protocol):
    """A callback whose results a plan publishes with `plans.publishing.publish`."""

    stream: DerivedStream

    def finished(self) -> Future[None]:
        """A future that is done once all that was received so far is in `stream`; raises what went wrong."""
        ...


def number(source: str, units: str = "") -> DataKey:
    """Data key of a float column."""
    return DataKey(source=source, dtype="number", shape=[], dtype_numpy="<f8", units=units)


def integer(source: str) -> DataKey:
    """Data key of an integer column."""
    return DataKey(source=source, dtype="integer", shape=[], dtype_numpy="<i8")


def text(source: str) -> DataKey:
    """Data key of a string column."""
    return DataKey(source=source, dtype="string", shape=[])


def image(source: str, shape: tuple[int, int], units: str = "") -> DataKey:
    """Data key of a column of maps (ny, nx) of floats."""
    return DataKey(source=source, dtype="array", shape=list(shape), dtype_numpy="<f8", units=units)
