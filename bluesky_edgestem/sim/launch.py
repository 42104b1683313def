"""Starts the simulated microscope in a process of its own, and ends it."""

from __future__ import annotations

import os
import secrets
import select
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from types import TracebackType

from .ioc import READY

START_TIMEOUT = 120.0
"""Time [s] for the first multislice pattern of every worker, imports of abTEM included, on a busy machine."""


_PORTS = range(10_240, 32_768)
"""Under those that a kernel gives to sockets without a port of their own: Channel Access clients allow theirs to be
shared, so that a client would now and then be given the very port of the IOC, and search for its PVs at itself."""


def _free_port() -> int:
    """A port that is free for both TCP and UDP on the loopback address."""
    while True:
        port = secrets.choice(_PORTS)
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        ):
            try:
                tcp.bind(("127.0.0.1", port))
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
    separate_detector, separate_board : bool
        Run the IOC of detector or inference board in a process of its own, that can be lost while the others stay.
    stream : str, optional
        Address of the stream that a separate board takes; by default that of the detector here.
    **options : str or float
        Options of ``edgestem sim`` by name, e.g. ``source="disks"``, ``seed=3``, ``scan_range=120.0``.

    Attributes
    ----------
    prefix : str
    client_env : dict[str, str]
        The EPICS variables that a client needs.
    process : subprocess.Popen
        Of the coils and the beam, and of what has no process of its own.
    detector_process, board_process : subprocess.Popen
    """

    process: subprocess.Popen[str]
    detector_process: subprocess.Popen[str]
    board_process: subprocess.Popen[str]

    def __init__(
        self,
        prefix: str | None = None,
        *,
        separate_detector: bool = False,
        separate_board: bool = False,
        stream: str = "",
        **options: object,
    ) -> None:
        self.prefix = prefix or f"SIM{uuid.uuid4().hex[:8]}:"
        self._parts: tuple[str, ...] = ("column", "detector") if separate_detector else ("all",)
        own = {}
        if separate_board:
            own = {"board": options.pop("board"), "tap": stream}
            if not stream:
                options["tap"] = own["tap"] = f"tcp://127.0.0.1:{_free_port()}"
            self._parts += ("board",)
        self._options = {
            part: [f"--{name.replace('_', '-')}={value}" for name, value in of.items()]
            for part, of in ((part, {**options, **(own if part == "board" else {})}) for part in self._parts)
        }
        # A server each: two on one UDP port of the loopback address would take each other's searches.
        self._ports = [_free_port() for _ in self._parts]
        self.client_env = {
            "EPICS_CA_ADDR_LIST": " ".join(f"127.0.0.1:{port}" for port in self._ports),
            "EPICS_CA_AUTO_ADDR_LIST": "NO",
            "EPICS_CA_SERVER_PORT": str(self._ports[0]),
            "EPICS_CA_REPEATER_PORT": str(_free_port()),
        }
        self._processes: list[subprocess.Popen[str]] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def start(self) -> MicroscopeProcess:
        """Start, and wait until clients may connect.

        Raises
        ------
        RuntimeError
            A process ended, or was not ready in time.
        """
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        try:
            for part, port in zip(self._parts, self._ports, strict=True):
                self._processes.append(self._start(part, port, folder))
        except BaseException:
            self.stop()
            raise
        by_part = dict(zip(self._parts, self._processes, strict=True))
        self.process = self._processes[0]
        self.detector_process, self.board_process = (by_part.get(p, self.process) for p in ("detector", "board"))
        return self

    def _start(self, part: str, port: int, folder: Path) -> subprocess.Popen[str]:
        env = {
            **os.environ,
            **self.client_env,
            "EPICS_CA_SERVER_PORT": str(port),
            "EPICS_CAS_SERVER_PORT": str(port),
            "EPICS_CAS_INTF_ADDR_LIST": "127.0.0.1",
            "EPICS_CAS_BEACON_ADDR_LIST": "127.0.0.1",
            "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
        }
        command = [sys.executable, "-m", f"{__package__}.ioc", "--prefix", self.prefix, "--die-with-parent"]
        command += ["--part", part, "--line", str(folder / "trigger"), *self._options[part]]
        if "board" in self._parts:
            command += ["--queue", str(folder / "queue")]
        # A Ctrl-C in the terminal is for the one that started it, who then ends it in order.
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdout is not None
        deadline = time.monotonic() + START_TIMEOUT
        while select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            said = process.stdout.readline()
            if said.startswith(READY):
                return process
            if not said:
                raise RuntimeError(f"the simulated microscope ended at its start, exit code {process.wait()}")
        _end(process)
        raise RuntimeError(f"the simulated microscope was not ready within {START_TIMEOUT:g} s")

    def stop(self) -> None:
        """End the processes; does nothing where they have ended."""
        for process in self._processes:
            _end(process)
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> MicroscopeProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
