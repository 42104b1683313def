"""Starts the simulated microscope in a process of its own, and ends it."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
import uuid
from types import TracebackType

from .ioc import READY

START_TIMEOUT = 120.0
"""Time [s] for the first multislice pattern of every worker, imports of abTEM included, on a busy machine."""


def _free_port() -> int:
    """A port that is free for both TCP and UDP on the loopback address."""
    while True:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        ):
            tcp.bind(("127.0.0.1", 0))
            port = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class MicroscopeProcess:
    """The simulated microscope as a context manager: ready to be connected to inside, gone after.

    Channel Access stays on the loopback address, on ports of its own. A client must have `client_env` in its
    environment before it makes its first channel. The process ends with the one that started it, however that ends.

    Parameters
    ----------
    prefix : str, optional
        Goes before every PV's name; drawn by default, so that two microscopes never share a name.
    **options : str or float
        Options of ``edgestem sim`` by name, e.g. ``source="disks"``, ``seed=3``, ``scan_range=120.0``.

    Attributes
    ----------
    prefix : str
    client_env : dict[str, str]
        The EPICS variables that a client needs.
    process : subprocess.Popen
    """

    def __init__(self, prefix: str | None = None, **options: object) -> None:
        self.prefix = prefix or f"SIM{uuid.uuid4().hex[:8]}:"
        self._options = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        self.client_env = {
            "EPICS_CA_ADDR_LIST": "127.0.0.1",
            "EPICS_CA_AUTO_ADDR_LIST": "NO",
            "EPICS_CA_SERVER_PORT": str(_free_port()),
            "EPICS_CA_REPEATER_PORT": str(_free_port()),
        }
        self.process: subprocess.Popen[str]

    def start(self) -> MicroscopeProcess:
        """Start the process and wait until clients may connect.

        Raises
        ------
        RuntimeError
            The process ended, or was not ready in time; the text is what it printed.
        """
        env = {
            **os.environ,
            **self.client_env,
            "EPICS_CAS_INTF_ADDR_LIST": "127.0.0.1",
            "EPICS_CAS_BEACON_ADDR_LIST": "127.0.0.1",
            "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
        }
        command = [sys.executable, "-m", f"{__package__}.ioc", "--prefix", self.prefix, "--die-with-parent"]
        self.process = subprocess.Popen(command + self._options, env=env, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_TIMEOUT
        while select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            line = self.process.stdout.readline()
            if line.startswith(READY):
                return self
            if not line:
                raise RuntimeError(
                    f"the simulated microscope ended at its start, exit code {self.process.wait()}"
                )
        self.stop()
        raise RuntimeError(f"the simulated microscope was not ready within {START_TIMEOUT:g} s")

    def stop(self) -> None:
        """End the process; does nothing where it has ended."""
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> MicroscopeProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
