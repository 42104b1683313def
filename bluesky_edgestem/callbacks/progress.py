"""What a user sees in the terminal while the loop runs."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

from event_model import DocumentRouter


class Progress(DocumentRouter):
    """Prints a line a batch, and keeps the last line of a terminal up to date in between.

    Parameters
    ----------
    jobs : callable, optional
        Gives how many energies are done and how many were submitted, now; without it, energies are counted as their
        documents come: each second, in the order of the positions.
    file : text file
        Where to print.
    period : float
        How often the present state is printed, seconds; on a terminal it overwrites itself.
    """

    def __init__(
        self, jobs: Callable[[], tuple[int, int]] | None = None, file: TextIO = sys.stdout, period: float = 1.0
    ) -> None:
        super().__init__()
        self._jobs = jobs
        self._file = file
        self._terminal = file.isatty()
        self._period = period if self._terminal else 15.0
        self._ended: threading.Event | None = None

    def start(self, doc):
        """A run begins: show its state from now on."""
        self._streams: dict[str, str] = {}
        self._frame_key: str | None = None
        self._resources: dict[str, str] = {}
        self._counts = {"frames": 0, "descriptors": 0, "energetics": 0}
        self._maximum: list[tuple[float, float]] = []
        self._batch = 0
        metadata: dict[str, Any] = dict(doc)
        self._target: float = metadata.get("target_sd", 0.0)
        self._seconds: float = metadata.get("budget", {}).get("time", math.inf)
        self._began = time.monotonic()
        self._print(f"run {doc['uid'][:8]} ({doc.get('plan_name', 'plan')}) has begun")
        self._ended = threading.Event()
        threading.Thread(target=self._tick, args=(self._ended,), daemon=True).start()

    def descriptor(self, doc):
        """A stream begins: remember which it is."""
        self._streams[doc["uid"]] = doc.get("name", "")
        if self._frame_key is None:
            keys = doc["data_keys"].items()
            self._frame_key = next((k for k, v in keys if "external" in v and len(v["shape"]) == 2), None)

    def stream_resource(self, doc):
        """A file begins: remember whose."""
        self._resources[doc["uid"]] = doc["data_key"]

    def stream_datum(self, doc):
        """Frames have arrived."""
        if self._resources.get(doc["stream_resource"]) == self._frame_key:
            self._counts["frames"] = doc["seq_nums"]["stop"] - 1

    def event(self, doc):
        """A row of a derived stream; one of ``optimization`` ends a batch."""
        stream = self._streams.get(doc["descriptor"], "")
        if stream in self._counts:
            self._counts[stream] += 1
        if stream == "optimization":
            row = doc["data"]
            self._batch = row["batch"]
            self._maximum.append((time.monotonic(), row["max_sd"]))
            self._print(
                f"batch {row['batch']}: {row['positions']} positions, {row['converged']} energies, "
                f"max sd {1e3 * row['max_sd']:.2f} meV (target {1e3 * row['target_sd']:.2f} meV)"
                + (f"; {row['stop']}" if row["stop"] else f"; {self._time_left()}")
            )
        return doc

    def stop(self, doc):
        """The run has ended."""
        if self._ended is not None:
            self._ended.set()
        reason = f": {doc.get('reason')}" if doc.get("reason") else ""
        self._print(f"run ended ({doc['exit_status']}) after {time.monotonic() - self._began:.0f} s{reason}")

    def _uncertainty(self) -> str:
        if not self._maximum:
            return ""
        return f", max sd {1e3 * self._maximum[-1][1]:.2f} meV (target {1e3 * self._target:.2f} meV)"

    def _time_left(self) -> str:
        """Time to the target and the batch that confirms it, by how fast the maximum falls; at most the budget."""
        now = time.monotonic()
        budget = self._began + self._seconds - now
        if self._target and len(self._maximum) > 1 and self._maximum[-1][1] < self._maximum[0][1]:
            (t0, first), (t1, last) = self._maximum[0], self._maximum[-1]
            rate = math.log(first / last) / (t1 - t0)
            confirmation = t1 - self._maximum[-2][0]
            ends = t1 + max(math.log(last / self._target), 0.0) / rate + confirmation
            return f"about {max(min(budget, ends - now), 0.0):.0f} s left"
        return f"at most {max(budget, 0.0):.0f} s left" if budget < math.inf else "time left unknown"

    def _tick(self, ended: threading.Event) -> None:
        while not ended.wait(self._period):
            done, submitted = self._jobs() if self._jobs else (self._counts["energetics"], self._counts["descriptors"])
            line = (
                f"batch {self._batch + 1}: {self._counts['frames']} patterns, {self._counts['descriptors']} read, "
                f"DFT {done} of {submitted}{self._uncertainty()}, {time.monotonic() - self._began:.0f} s, "
                f"{self._time_left()}"
            )
            self._print(line, overwrite=self._terminal)

    def _print(self, line: str, overwrite: bool = False) -> None:
        end = "" if overwrite else "\n"
        start = "\r\x1b[K" if self._terminal else ""
        print(f"{start}{line}", end=end, file=self._file, flush=True)
