"""Worker processes on this machine, replaced when they die.

Not Dask's own: those import the caller's main script anew, so that a script without ``if __name__ == "__main__"`` would
start itself again and again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_DEATHS = 10  # a process that dies as often as this within its first seconds will not live


class LocalWorkers:
    """Processes of one thread each that work for a scheduler.

    Parameters
    ----------
    address : str
        Of the scheduler.
    count : int
        Processes.
    """

    def __init__(self, address: str, count: int) -> None:
        self._address = address
        #: Why there are no workers any more; empty while there are.
        self.failure = ""
        self._closing = threading.Event()
        self._processes = [self._start() for _ in range(count)]
        self._keeper = threading.Thread(target=self._replace, name="dft-workers", daemon=True)
        self._keeper.start()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [process.pid for process in self._processes]

    def close(self) -> None:
        """End the processes; what they compute is lost."""
        self._closing.set()
        self._keeper.join()
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.communicate()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "bluesky_edgestem.energetics.worker", self._address, "--child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **_ENVIRONMENT},
            # Ctrl-C is for the run to end in order, not for its workers to die of.
            start_new_session=True,
        )

    def _replace(self) -> None:
        deaths, begun = 0, time.monotonic()
        while not self._closing.wait(0.1):
            for i, process in enumerate(self._processes):
                if process.poll() is None:
                    continue
                deaths = deaths + 1 if time.monotonic() - begun < 10.0 else 1
                if deaths > _DEATHS:
                    self.failure = f"the DFT workers end as soon as they start, with status {process.returncode}"
                    return
                process.communicate()
                begun = time.monotonic()
                self._processes[i] = self._start()
