"""Every document of a run on disk, one JSON line each, before anything else is done with it.

A line reaches the operating system before `append` returns, so documents outlive this process however it ends; they
reach the disk itself (fsync) with the start and the stop document and within a second for those in between, so a loss
of power costs at most the last second.

Python's JSON dialect is used (NaN and Infinity are written as such): a float comes back bit for bit. Numpy arrays come
back as nested lists, numpy scalars as plain numbers; the data keys of the run keep the types.
"""

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bluesky_edgestem.catalog.errors import JournalError

Document = dict[str, Any]


def encode(name: str, doc: Mapping[str, Any]) -> bytes:
    """Return one document as a line.

    Parameters
    ----------
    name : str
        Kind of the document: "start", "descriptor", "event" ...
    doc : mapping
        The document; numpy arrays and scalars, paths and sets of plain values are allowed in it.

    Raises
    ------
    JournalError
        The document holds something that cannot be kept; the message says what and where.
    """
    try:
        return json.dumps([name, doc], default=_plain).encode() + b"\n"
    except (TypeError, ValueError) as error:
        culprit = _first_unserialisable(doc, "") or "it"
        raise JournalError(
            f"A {name} document cannot be recorded: {culprit} cannot be written as JSON ({error}). Give numbers, "
            "strings, booleans, None, numpy arrays, or lists and dictionaries (with string keys) of these."
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is not a plain value")


def _first_unserialisable(value: Any, where: str) -> str | None:
    with contextlib.suppress(TypeError, ValueError):
        json.dumps(value, default=_plain)
        return None
    if isinstance(value, Mapping):
        items = [(f"{where}.{key}" if where else str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(f"{where}[{index}]", item) for index, item in enumerate(value)]
    else:
        items = []
    found = next(filter(None, (_first_unserialisable(item, path) for path, item in items)), None)
    return found or f"{where!r} = {value!r:.80}"


class Journal:
    """The file `<run uid>.jsonl` of a run that goes on; locked, so that nobody replays it meanwhile.

    Parameters
    ----------
    directory : Path
        Where journals are kept; made if it is not there.
    uid : str
        Of the run.

    Raises
    ------
    JournalError
        The file cannot be made or written (a full disk, no permission).
    """

    def __init__(self, directory: Path, uid: str) -> None:
        self.path = directory / f"{uid}.jsonl"
        self._closing = threading.Lock()  # the writer's threads sync and close
        self._closed = False
        self._unsynced = False
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._size = os.fstat(self._fd).st_size
        except OSError as error:
            raise self._error(error) from error

    def append(self, line: bytes, *, sync: bool) -> None:
        """Write one line; with `sync`, wait until it is on the disk. On failure the file keeps whole lines only."""
        try:
            remaining = memoryview(line)
            while remaining:
                remaining = remaining[os.write(self._fd, remaining) :]
            self._size += len(line)
            self._unsynced = True
            if sync:
                self.sync()
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise self._error(error) from error

    def sync(self) -> None:
        """Wait until everything written is on the disk; raise `JournalError` where it cannot be."""
        with self._closing:
            if self._unsynced and not self._closed:
                self._unsynced = False
                try:
                    os.fsync(self._fd)
                except OSError as error:
                    raise self._error(error) from error

    def close(self) -> None:
        """Give the lock back; the file stays."""
        with self._closing:
            if not self._closed:
                self._closed = True
                os.close(self._fd)

    def remove(self) -> None:
        """Delete the file: the run is safely in the catalog."""
        self.path.unlink(missing_ok=True)
        self.close()

    def _error(self, error: OSError) -> JournalError:
        return JournalError(
            f"The run's documents cannot be written to {self.path} ({error.strerror}), so the run is stopped. "
            "Make room on that disk, or name a journal folder that you may write to."
        )


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[Literal["claimed", "under way", "gone"]]:
    """Hold the lock of a journal, where the run that writes it is over and the journal is still there."""
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        yield "gone"
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield "under way"
        else:
            yield "claimed" if path.exists() else "gone"


def pending(directory: str | Path) -> list[Path]:
    """Return the journals in a folder, oldest first: of runs that are under way or not (wholly) in the catalog."""
    return sorted(Path(directory).glob("*.jsonl"), key=lambda path: path.stat().st_mtime)


def read_journal(path: str | Path) -> Iterator[tuple[str, Document]]:
    """Yield the documents (name, document) of a journal in their order.

    A last line that a crash cut short is left out.

    Raises
    ------
    JournalError
        A line before the last cannot be read.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                name, doc = json.loads(line)
            except ValueError as error:
                raise JournalError(f"Line {number} of the journal {path} is damaged ({error}).") from error
            yield name, doc
