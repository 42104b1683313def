"""A Tiled server in a process of its own, over a catalog directory that stays on disk.

The directory holds everything: `catalog.db` (SQLite), `tables.duckdb` and `arrays/` (data of event streams), `api_key`,
`frames.json` (folders from which the frames of any run so far are read), `server.log`, and `server.json` (where the
running server is). Frames stay where the detector wrote them.
"""

import contextlib
import fcntl
import json
import os
import secrets
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bluesky_edgestem.catalog.connection import connect, running_server
from bluesky_edgestem.catalog.errors import CatalogError

if TYPE_CHECKING:
    from bluesky_tiled_plugins.clients.catalog_of_bluesky_runs import CatalogOfBlueskyRuns

LOOPBACK = "127.0.0.1"
LOG_TAIL_LINES = 12


class CatalogServer:
    """One Tiled server over one catalog directory; a context manager.

    The server listens on the loopback address only, for one user who has the API key kept in the directory, and ends
    with the process that started it, however that ends.

    Parameters
    ----------
    directory : str or Path
        The catalog directory; made if it is not there.
    frames : iterable of str or Path
        Folders that hold the detector's files. They are remembered: a later server over the same directory reads
        the frames of every earlier run too.
    port : int
        0 takes a free port.
    timeout : float
        How long the start may take [s]. It takes about 3 s once the disk is warm.

    Raises
    ------
    CatalogError
        From `start`: the directory cannot be written, the port is taken, another server serves this catalog, or the
        server ended or was not ready in time (with the end of its log).
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        frames: Iterable[str | Path] = (),
        port: int = 0,
        timeout: float = 60.0,
    ) -> None:
        self.directory = Path(directory).absolute()
        self.port = port
        self._frames = [Path(folder).absolute() for folder in frames]
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Where the server listens, for `tiled.client.from_uri(uri, api_key=api_key)`."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def api_key(self) -> str:
        """The key that every client must show."""
        return (self.directory / "api_key").read_text().strip()

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise CatalogError("The catalog server is not running: call start() first.")
        return self._process.pid

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start the server and wait until it answers."""
        if self._process is not None:
            raise CatalogError(f"The catalog server at {self.uri} is already running.")
        with contextlib.ExitStack() as opened:
            lock = opened.enter_context(self._prepare_directory())
            listening = opened.enter_context(self._listen())
            ready, ready_in_child = os.pipe()
            opened.callback(os.close, ready)
            log = opened.enter_context(open(self.directory / "server.log", "wb"))
            orders: dict[str, Any] = {
                "directory": str(self.directory),
                "api_key": self.api_key,
                "readable": self._remembered_frames(),
                "socket_fd": listening.fileno(),
                "ready_fd": ready_in_child,
                "parent_pid": os.getpid(),
            }
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", "bluesky_edgestem.catalog.serving"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # The child inherits the lock, so that it is held exactly as long as the server lives.
                pass_fds=[listening.fileno(), ready_in_child, lock.fileno()],
                # A Ctrl-C in the terminal must not reach the server: the run's last documents are still to come.
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if not name.startswith("TILED_")},
            )
            os.close(ready_in_child)
            try:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
                    stdin.write(json.dumps(orders).encode())
                self._wait_until_ready(process, ready)
            except BaseException:
                self.stop()
                raise
        _write_private(self.directory / "server.json", json.dumps({"uri": self.uri, "pid": process.pid}))
        return self

    def stop(self, timeout: float = 10.0) -> None:
        """End the server; requests under way are finished first, within `timeout` [s].

        Where another thread is in `start`, that raises.
        """
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        (self.directory / "server.json").unlink(missing_ok=True)

    def client(self) -> "CatalogOfBlueskyRuns":
        """A new Tiled client of this server, at the root of the catalog."""
        return connect(self.uri, self.api_key)

    @contextlib.contextmanager
    def _prepare_directory(self) -> Iterator[Any]:
        try:
            (self.directory / "arrays").mkdir(parents=True, exist_ok=True)
            if not (self.directory / "api_key").exists():
                _write_private(self.directory / "api_key", secrets.token_hex(32))
            self._remember_frames()
            lock = open(self.directory / "server.lock", "w")  # noqa: SIM115 - closed below
        except OSError as error:
            raise CatalogError(
                f"The catalog directory {self.directory} cannot be written ({error}). "
                "Give a directory that you may write to and that has space left."
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                server = running_server(self.directory)
                where = f" at {server[0]}" if server else ""
                raise CatalogError(
                    f"The catalog {self.directory} is already served{where}. Use that server, or end it first."
                ) from None
            yield lock

    @contextlib.contextmanager
    def _listen(self) -> Iterator[socket.socket]:
        with socket.socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listening.bind((LOOPBACK, self.port))
                listening.listen(128)
            except (OSError, OverflowError) as error:
                raise CatalogError(
                    f"The catalog server cannot listen on {LOOPBACK}, port {self.port} ({error}). "
                    "Choose another port, or 0 for a free one."
                ) from error
            self.port = listening.getsockname()[1]
            yield listening

    def _remember_frames(self) -> None:
        # Both the name given and what it points to: a detector may report either as its file's path.
        known = set(self._remembered_frames())
        given = {str(path) for folder in self._frames for path in (folder, folder.resolve())}
        if not given <= known:
            _write_private(self.directory / "frames.json", json.dumps(sorted(known | given), indent=1))

    def _remembered_frames(self) -> list[str]:
        try:
            return json.loads((self.directory / "frames.json").read_text())
        except FileNotFoundError:
            return []

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]", ready: int) -> None:
        readable, _, _ = select.select([ready], [], [], self._timeout)
        if readable and os.read(ready, 16):
            return
        # Without an answer: the pipe closed because the server ended, or the time is up.
        what = f"was not ready within {self._timeout:g} s"
        if readable:
            what = f"ended while starting (exit status {process.wait()})"
        log = self.directory / "server.log"
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
        raise CatalogError(f"The catalog server over {self.directory} {what}. The end of its log, {log}:\n{tail}")


@contextlib.contextmanager
def open_catalog(directory: str | Path, *, frames: Iterable[str | Path] = ()) -> Iterator["CatalogOfBlueskyRuns"]:
    """Give a client of the catalog in this directory: of the server that runs, else of one started for the while.

    Parameters
    ----------
    directory : str or Path
        A catalog directory that exists.
    frames : iterable of str or Path
        As for `CatalogServer`.

    Raises
    ------
    CatalogError
        There is no catalog in `directory`, or it cannot be served.
    """
    if server := running_server(directory):
        yield connect(*server)
        return
    if not Path(directory, "catalog.db").exists():
        raise CatalogError(
            f"There is no catalog in {Path(directory).absolute()}. Give the directory that a run has written to, "
            "or start a new catalog with `edgestem catalog serve --folder FOLDER`."
        )
    with CatalogServer(directory, frames=frames) as started:
        yield started.client()


def serve(directory: str | Path, *, frames: Iterable[str | Path] = (), port: int = 0) -> None:
    """Serve a catalog until interrupted (Ctrl-C), and print where it is.

    Raises
    ------
    CatalogError
        As `CatalogServer.start`, or the server ended by itself.
    """
    with CatalogServer(directory, frames=frames, port=port) as server:
        print(f"The catalog in {server.directory} is served at {server.uri} (Ctrl-C ends it). In Python:")
        print(f"  from tiled.client import from_uri; catalog = from_uri({server.uri!r}, api_key={server.api_key!r})")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            while server._process is not None and server._process.poll() is None:
                time.sleep(0.5)
            raise CatalogError(f"The catalog server ended by itself; its log is {server.directory / 'server.log'}.")


def _write_private(path: Path, text: str) -> None:
    # In one step, so that no reader sees half of it; readable by the owner only, from its first moment.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    unfinished.replace(path)
