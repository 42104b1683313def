"""The catalog's server process: how it starts, what it refuses, and how it ends."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bluesky_edgestem.catalog.connection import check_answers, connect, running_server
from bluesky_edgestem.catalog.errors import CatalogError
from bluesky_edgestem.catalog.server import CatalogServer, open_catalog

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CatalogServer]:
    with CatalogServer(tmp_path_factory.mktemp("served") / "catalog") as running:
        yield running


def test_it_listens_on_the_loopback_address_only(server: CatalogServer) -> None:
    listening = subprocess.run(["cat", "/proc/net/tcp"], capture_output=True, text=True, check=True).stdout
    port = f":{server.port:04X} "
    local = {line.split()[1] for line in listening.splitlines()[1:] if port in line and line.split()[3] == "0A"}
    assert local == {f"0100007F:{server.port:04X}"}
    assert server.client().metadata == {}


def test_the_api_key_is_private_and_asked_for(server: CatalogServer) -> None:
    assert stat.S_IMODE((server.directory / "api_key").stat().st_mode) == 0o600
    assert server.api_key.encode() not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
    with pytest.raises(CatalogError, match="does not let this client in: 401"):
        connect(server.uri, "wrong")


def test_a_second_server_over_the_same_catalog_is_refused(server: CatalogServer) -> None:
    with pytest.raises(CatalogError, match=f"{server.directory} is already served at {server.uri}"):
        CatalogServer(server.directory).start()


def test_a_taken_port_is_one_clear_error(server: CatalogServer, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=f"port {server.port} .*Address already in use.*or 0 for a free one"):
        CatalogServer(tmp_path, port=server.port).start()


def test_an_impossible_port_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"port 70000 .*Choose another port"):
        CatalogServer(tmp_path, port=70000).start()


def test_an_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CatalogError, match=f"directory {tmp_path}/file/catalog cannot be written"):
        CatalogServer(tmp_path / "file" / "catalog").start()


def test_a_server_that_dies_at_its_start_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_bytes(b"this is no database" * 1000)
    with pytest.raises(
        CatalogError, match=r"(?s)ended while starting \(exit status \d\).*file is not a database"
    ) as error:
        CatalogServer(tmp_path).start()
    assert str(tmp_path / "server.log") in str(error.value)
    assert running_server(tmp_path) is None


def test_a_start_is_ended_by_a_stop_from_elsewhere(tmp_path: Path) -> None:
    server = CatalogServer(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(server.start)
        while server._process is None:
            time.sleep(0.01)
        server.stop()
        with pytest.raises(CatalogError, match="ended while starting"):
            starting.result(30)
    assert running_server(tmp_path) is None


def test_open_catalog_takes_the_server_that_runs(server: CatalogServer) -> None:
    with open_catalog(server.directory) as client:
        assert str(client.context.api_uri).startswith(server.uri)
    check_answers(server.uri)


def test_open_catalog_refuses_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=f"There is no catalog in {tmp_path}"), open_catalog(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_no_server_is_one_clear_error() -> None:
    with pytest.raises(CatalogError, match=r"No Tiled server answers at http://127.0.0.1:9 .*edgestem catalog serve"):
        connect("http://127.0.0.1:9", "key")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path, end: signal.Signals) -> None:
    # Where the tests run in the background of a shell, Ctrl-C is ignored, and children inherit that.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    script = f"{heard}; from bluesky_edgestem.catalog.server import serve; serve({str(tmp_path)!r})"
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert parent.stdout is not None
        assert f"The catalog in {tmp_path} is served at http://127.0.0.1:" in parent.stdout.readline()
        found = running_server(tmp_path)
        assert found is not None
        check_answers(found[0])
        parent.send_signal(end)
        _, errors = parent.communicate(timeout=120)
        deadline = time.monotonic() + 10
        while running_server(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert running_server(tmp_path) is None
        with pytest.raises(CatalogError, match="No Tiled server answers"):
            check_answers(found[0])
        assert parent.returncode == (0 if end == signal.SIGINT else -signal.SIGKILL)
        assert errors == ""
    finally:
        if parent.poll() is None:
            os.kill(parent.pid, signal.SIGKILL)
            parent.wait()
