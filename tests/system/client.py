"""A process that runs functions of a script for a test, with an EPICS environment and a control layer of its own.

Channel Access is set up once in a process, from its environment: a test that talks to an IOC of its own, or to both of
ophyd's control layers, needs a process for it.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any


class ClientError(AssertionError):
    """A function raised in the client; the text ends with its traceback."""


class Client:
    """Calls functions of the script at `path` in a process with `env` added to the environment."""

    def __init__(self, path: str, env: dict[str, str]) -> None:
        ours, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno()), path],
            env={**os.environ, **env},
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self._connection = Connection(ours.detach())

    def start(self, function: str, *args: Any) -> None:
        """Begin a call; `result` gets what it returns."""
        while self._connection.poll():
            self._connection.recv()  # told after the call before had returned
        self._connection.send((function, args))

    def told(self, timeout: float = 120.0) -> Any:
        """What the running function sends by `tell`."""
        kind, value = self._receive(timeout)
        assert kind == "told", value
        return value

    def result(self, timeout: float = 120.0) -> Any:
        """What the call returns; what it told before is skipped."""
        while True:
            kind, value = self._receive(timeout)
            if kind == "returned":
                return value
            if kind == "raised":
                raise ClientError(value)

    def _receive(self, timeout: float) -> tuple[str, Any]:
        if not self._connection.poll(timeout):
            raise TimeoutError(f"nothing from the client for {timeout:g} s")
        return self._connection.recv()

    def call(self, function: str, *args: Any, timeout: float = 120.0) -> Any:
        """`start` and `result` in one."""
        self.start(function, *args)
        return self.result(timeout)

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._connection.close()


_connection: Connection | None = None


def _serve() -> None:
    global _connection
    _connection = Connection(int(sys.argv[1]))
    spec = importlib.util.spec_from_file_location("script", sys.argv[2])
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.tell = lambda value: _connection.send(("told", value))  # type: ignore[attr-defined]
    while True:
        try:
            function, args = _connection.recv()
        except EOFError:
            return
        try:
            _connection.send(("returned", getattr(script, function)(*args)))
        except BaseException:
            _connection.send(("raised", traceback.format_exc()))


if __name__ == "__main__":
    _serve()
