"""Starts the simulated DECTRIS detector in a process of its own, and ends it."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import TracebackType
from typing import Any

from .ioc import READY

START_TIMEOUT = 60.0


class SimplonProcess:
    """The simulated detector as a context manager: ready inside, gone after; on free ports of the loopback address.

    Parameters
    ----------
    **options : object
        Options of ``edgestem sim simplon`` by name, e.g. ``rate=5000``, ``drop=[3, 4]``, ``no_end=True``.

    Attributes
    ----------
    address : str
        Of the stream.
    port, api_port : int
        Of the stream and of REST.
    tap : str
        Address of the stream's copy, with ``tap_port=0``; else "".
    """

    address: str
    tap: str
    port: int
    api_port: int

    def __init__(self, **options: object) -> None:
        self._version = str(options.get("api_version", "1.8.0"))
        self._options = ["--port=0", "--api-port=0", "--die-with-parent"]
        for name, value in options.items():
            flag = "--" + name.replace("_", "-")
            if isinstance(value, bool):
                self._options += [flag] if value else []
            else:
                self._options += [f"{flag}={one}" for one in (value if isinstance(value, list) else [value])]

    def __enter__(self) -> SimplonProcess:
        command = [sys.executable, "-m", f"{__package__}.simplon", *self._options]
        # A Ctrl-C in the terminal is for the one that started it, who then ends it in order.
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_TIMEOUT
        while select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            said = self.process.stdout.readline()
            if said.startswith(READY):
                words = said.split()
                self.address = words[2]
                self.tap = words[-1] if words[-2] == "tap" else ""
                self.port, self.api_port = (int(word.rsplit(":", 1)[1]) for word in (words[2], words[4]))
                return self
            if not said:
                raise RuntimeError(f"the simulated detector ended at its start, exit code {self.process.wait()}")
        self.__exit__(None, None, None)
        raise RuntimeError(f"the simulated detector was not ready within {START_TIMEOUT:g} s")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def get(self, path: str) -> Any:
        """The value of e.g. ``detector/config/nimages``."""
        return self._request("GET", path, None)["value"]

    def put(self, path: str, value: object = None) -> Any:
        """Set e.g. ``detector/config/nimages``, or give a command, e.g. ``detector/command/arm``."""
        return self._request("PUT", path, {} if value is None else {"value": value})

    def _request(self, method: str, path: str, body: object) -> Any:
        module, _, rest = path.partition("/")
        url = f"http://127.0.0.1:{self.api_port}/" + (
            path if module == "simulator" else f"{module}/api/{self._version}/{rest}"
        )
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error.code} {error.read().decode()}") from None
