"""Reach a Tiled server: the one that serves a catalog directory, or any by its address."""

import fcntl
import json
from pathlib import Path
from typing import TYPE_CHECKING

from bluesky_edgestem.catalog.errors import CatalogError

if TYPE_CHECKING:
    from bluesky_tiled_plugins.clients.catalog_of_bluesky_runs import CatalogOfBlueskyRuns


def connect(uri: str, api_key: str, *, timeout: float = 5.0) -> "CatalogOfBlueskyRuns":
    """Return a Tiled client of a server that is up.

    Parameters
    ----------
    uri, api_key : str
        As `CatalogServer.uri` and `CatalogServer.api_key`.
    timeout : float
        How long to wait for a first answer [s].

    Raises
    ------
    CatalogError
        No server answers there, or it refuses the key.
    """
    import httpx
    from tiled.client import from_uri

    check_answers(uri, timeout=timeout)
    try:
        # Without the environment's proxies: the server is on this machine.
        return from_uri(uri, api_key=api_key, trust_env=False)
    except (httpx.HTTPError, ValueError) as error:
        raise CatalogError(f"The Tiled server at {uri} does not let this client in: {error}") from error


def check_answers(uri: str, *, timeout: float = 5.0) -> None:
    """Raise `CatalogError` unless a Tiled server answers at `uri` within `timeout` [s]."""
    import httpx

    try:
        httpx.get(httpx.URL(uri).join("/healthz"), timeout=timeout, trust_env=False).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CatalogError(
            f"No Tiled server answers at {uri} ({error}). Start one with `edgestem catalog serve --folder FOLDER`."
        ) from error


def running_server(directory: str | Path) -> tuple[str, str] | None:
    """Return (uri, API key) of the server that serves this catalog directory now, or None."""
    directory = Path(directory)
    try:
        with open(directory / "server.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except FileNotFoundError:
        return None
    except BlockingIOError:
        try:
            return json.loads((directory / "server.json").read_text())["uri"], (directory / "api_key").read_text()
        except FileNotFoundError:  # it is starting
            return None
