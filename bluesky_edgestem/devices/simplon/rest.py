"""SIMPLON's REST interface, from the client: every request has an end, and an error says what was asked of whom."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import httpx

from ..statuses import LostConnection

TIMEOUT = 2.0
"""Time [s] for a detector to answer what takes it no work."""
ARM_TIMEOUT = 20.0
"""Time [s] for `arm`: thresholds that changed are loaded into each pixel then."""


class DetectorRefused(ValueError):
    """The detector answered, with an error."""


class Simplon:
    """The REST interface of one detector. All methods may be called from several threads.

    Parameters
    ----------
    host : str
        ``HOST``, ``HOST:PORT`` or ``http://HOST:PORT`` of the detector's control unit.

    Attributes
    ----------
    url : str
        Scheme, host and port.
    """

    def __init__(self, host: str) -> None:
        self.url = (host if "//" in host else f"http://{host}").rstrip("/")
        try:
            self.host = urlsplit(self.url).hostname or ""
            urlsplit(self.url).port  # noqa: B018 -- raises where it is none
        except ValueError:
            self.host = ""
        if not self.host or urlsplit(self.url).path:
            raise ValueError(f"host is {host!r}; allowed is HOST, HOST:PORT or http://HOST:PORT")
        # no proxy from the environment: a detector has a network of its own
        self._client = httpx.Client(base_url=self.url, timeout=TIMEOUT, trust_env=False)
        self._version = ""

    def find(self) -> str:
        """The version of the interface, asked for anew: the detector may have been updated.

        Raises
        ------
        LostConnection
            Nobody answers.
        DetectorRefused
            Who answers is no such detector.
        """
        answer = self._request("GET", "/detector/api/version/", None, TIMEOUT)
        self._version = str(answer.get("value", ""))
        if not self._version:
            raise DetectorRefused(
                f"{self.url} is no SIMPLON detector: it answers {answer!r} when asked for its version"
            )
        return self._version

    def path(self, name: str) -> str:
        """The path of e.g. ``detector/config/nimages``."""
        module, _, rest = name.partition("/")
        return f"/{module}/api/{self._version or self.find()}/{rest}"

    def get(self, name: str) -> dict[str, Any]:
        """What the detector says of a parameter: ``value``, and ``min``, ``max``, ``unit``, ``allowed_values`` if any.

        Raises
        ------
        LostConnection, DetectorRefused
        """
        return self._request("GET", self.path(name), None, TIMEOUT)

    def value(self, name: str) -> Any:
        """The value of a parameter; raises as `get` does."""
        return self.get(name).get("value")

    def has(self, name: str) -> bool:
        """Whether the detector has a parameter.

        Raises
        ------
        LostConnection
        """
        try:
            self.get(name)
        except DetectorRefused:
            return False
        return True

    def put(self, name: str, value: object) -> None:
        """Set a parameter; raises as `get` does."""
        self._request("PUT", self.path(name), {"value": value}, TIMEOUT)

    def command(self, name: str, timeout: float | None = TIMEOUT, value: float | None = None) -> dict[str, Any]:
        """Give a command, ``arm``, ``trigger``, ``disarm``, ``abort``; raises as `get` does.

        `value` is the time [s] that a trigger exposes for in the mode ``inte``.
        """
        body = {} if value is None else {"value": value}
        return self._request("PUT", self.path(f"detector/command/{name}"), body, timeout)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _request(self, method: str, path: str, body: object, timeout: float | None) -> dict[str, Any]:
        given = f" with {body['value']!r}" if isinstance(body, dict) and "value" in body else ""
        what = f"{method} {self.url}{path}{given}"
        limits = httpx.Timeout(timeout, connect=TIMEOUT)
        try:
            answer = self._client.request(method, path, json=body, timeout=limits)
        except httpx.TimeoutException:
            raise LostConnection(
                f"{what}: no answer within {timeout or TIMEOUT:g} s; is the detector on, its address right?"
            ) from None
        except httpx.TransportError as error:
            raise LostConnection(f"{what}: lost the detector ({error}); is it on, its address right?") from None
        if answer.is_error:
            raise DetectorRefused(f"{what} was refused with {answer.status_code}: {answer.text.strip()[:300]}")
        try:
            decoded = answer.json() if answer.content.strip() else {}
        except ValueError:
            raise DetectorRefused(f"{what}: the answer is no JSON: {answer.text[:100]!r}") from None
        return decoded if isinstance(decoded, dict) else {"value": decoded}
