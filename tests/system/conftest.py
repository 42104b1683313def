"""Real processes on the loopback address: the simulated microscope, and clients of it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from bluesky_edgestem.sim.launch import MicroscopeProcess

HERE = Path(__file__).parent

_spec = importlib.util.spec_from_file_location("system_client", HERE / "client.py")
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
Client = _module.Client


@pytest.fixture(scope="session")
def client_class() -> type:
    """Runs the functions of a script in a process with an EPICS environment of its own."""
    return Client


@pytest.fixture(scope="module")
def ioc() -> Iterator[MicroscopeProcess]:
    """A simulated microscope with the fast frames, for tests that leave it whole."""
    with MicroscopeProcess(source="disks", pixels=64) as process:
        yield process


@pytest.fixture
def fresh_ioc() -> Iterator[MicroscopeProcess]:
    """A simulated microscope with the fast frames, to be broken."""
    with MicroscopeProcess(source="disks", pixels=64) as process:
        yield process


@pytest.fixture
def split_ioc() -> Iterator[MicroscopeProcess]:
    """A simulated microscope whose detector has a process of its own."""
    with MicroscopeProcess(source="disks", pixels=64, separate_detector=True) as process:
        yield process


@pytest.fixture(params=["pyepics", "caproto"], scope="module")
def layer(request: pytest.FixtureRequest) -> str:
    """ophyd's control layer."""
    return request.param


@pytest.fixture(scope="module")
def client(ioc: MicroscopeProcess, layer: str) -> Iterator:
    """A client of `ioc` that calls the functions of flights.py."""
    with_layer = Client(str(HERE / "flights.py"), {**ioc.client_env, "OPHYD_CONTROL_LAYER": layer})
    yield with_layer
    with_layer.close()


@pytest.fixture
def fresh_client(fresh_ioc: MicroscopeProcess, layer: str) -> Iterator:
    """A client of `fresh_ioc`."""
    with_layer = Client(str(HERE / "flights.py"), {**fresh_ioc.client_env, "OPHYD_CONTROL_LAYER": layer})
    yield with_layer
    with_layer.close()


@pytest.fixture
def split_client(split_ioc: MicroscopeProcess, layer: str) -> Iterator:
    """A client of `split_ioc`."""
    with_layer = Client(str(HERE / "flights.py"), {**split_ioc.client_env, "OPHYD_CONTROL_LAYER": layer})
    yield with_layer
    with_layer.close()


@pytest.fixture
def caget() -> Callable:
    """Reads a PV of a simulated microscope by a client independent of ophyd: value, and alarm severity."""
    from caproto.sync.client import read

    def get(process: MicroscopeProcess, name: str):
        with patch.dict(os.environ, process.client_env):
            answer = read(process.prefix + name, data_type="time", repeater=False, timeout=10)
        value = answer.data
        if len(value) == 1:
            value = value[0]
        elif value.dtype == "uint8" or value.dtype == "S1":
            value = bytes(value).split(b"\0")[0].decode()
        return value, answer.metadata.severity

    return get


@pytest.fixture
def caput() -> Callable:
    """Writes a PV by a client independent of ophyd, and waits for its completion; the error, or ""."""
    from caproto.sync.client import write

    def put(process: MicroscopeProcess, name: str, value) -> str:
        with patch.dict(os.environ, process.client_env):
            try:
                write(process.prefix + name, value, notify=True, repeater=False, timeout=10)
            except Exception as error:
                return str(error)
        return ""

    return put
