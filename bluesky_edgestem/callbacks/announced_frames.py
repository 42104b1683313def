"""Which frames of a run are complete on disk, with their positions, from its stream documents."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

if TYPE_CHECKING:
    import h5py

PATIENCE = 2.0
"""Time [s] for which a file that cannot be opened is tried again; its writer takes milliseconds."""


@dataclass(frozen=True)
class CompleteFrames:
    """Frames `start` to `stop` of a file, all data keys there."""

    path: Path
    swmr: bool  #: whether the file may still be written
    datasets: tuple[str, ...]  #: of each data key
    start: int
    stop: int
    first: int  #: index in the stream of the file's first frame

    def opened(self) -> h5py.File:
        """The file, open for reading; a context manager.

        At the end of a series that lacks frames its writer adds their list to the closed file, which no reader can open
        in that moment: it is tried again.

        Raises
        ------
        OSError
            It is not there, or cannot be opened for `PATIENCE`.
        """
        import h5py
        import hdf5plugin  # noqa: F401  registers the bitshuffle-lz4 filter

        until = time.monotonic() + PATIENCE
        while True:
            try:
                return h5py.File(self.path, "r", swmr=self.swmr)
            except OSError:
                if not self.path.exists() or time.monotonic() > until:
                    raise
            time.sleep(0.02)


@dataclass
class _File:
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    ready: dict[str, int] = field(default_factory=dict)
    read: int = 0


class AnnouncedFrames:
    """Follows the ``stream_resource`` and ``stream_datum`` documents of one run, whose frames may fill several files.

    Parameters
    ----------
    keys : sequence of str
        Data keys that must all be there, those of one frame in one file.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = tuple(keys)
        self._files: dict[str, _File] = {}
        self._file_of: dict[str, tuple[str, _File]] = {}

    def resource(self, doc: Mapping[str, Any]) -> None:
        """A dataset is announced."""
        if doc["data_key"] in self._keys:
            file = self._files.setdefault(doc["uri"], _File())
            file.resources[doc["data_key"]] = dict(doc)
            self._file_of[doc["uid"]] = doc["data_key"], file

    def datum(self, doc: Mapping[str, Any]) -> CompleteFrames | None:
        """More of a dataset is there: the frames that are complete by it, None if none is."""
        if doc["stream_resource"] not in self._file_of:
            return None
        key, file = self._file_of[doc["stream_resource"]]
        file.ready[key] = doc["indices"]["stop"]
        complete = min(file.ready.get(each, 0) for each in self._keys)
        if complete <= file.read:
            return None
        start, file.read = file.read, complete
        resources = [file.resources[each] for each in self._keys]
        return CompleteFrames(
            path=Path(unquote(urlparse(resources[0]["uri"]).path)),
            swmr=bool(resources[0]["parameters"].get("swmr")),
            datasets=tuple(each["parameters"]["dataset"] for each in resources),
            start=start,
            stop=complete,
            first=doc["seq_nums"]["start"] - 1 - doc["indices"]["start"],
        )
