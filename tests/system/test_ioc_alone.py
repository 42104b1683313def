"""The simulated microscope alone, as `edgestem sim` runs it for any EPICS client."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bluesky_edgestem.sim.launch import MicroscopeProcess

pytestmark = pytest.mark.system

COMMAND = [sys.executable, "-m", "bluesky_edgestem.sim.ioc", "--source", "disks", "--prefix", "ALONE:"]


@pytest.fixture
def env() -> dict[str, str]:
    epics = MicroscopeProcess().client_env  # free ports, without starting it
    return {**os.environ, **epics, "EPICS_CAS_BEACON_ADDR_LIST": "127.0.0.1", "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO"}


@pytest.fixture
def alone(env) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(COMMAND, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 30)[0]
    assert process.stdout.readline().split()[:2] == ["ready", "ALONE:"]
    yield process
    process.kill()
    process.communicate()


def test_ctrl_c_ends_it_without_a_word(alone):
    alone.send_signal(signal.SIGINT)
    _, errors = alone.communicate(timeout=120)
    assert (alone.returncode, errors) == (0, "")


def test_a_prefix_is_served_once(alone, env):
    second = subprocess.run(COMMAND, env=env, capture_output=True, text=True, timeout=120)
    assert second.returncode == 1
    assert second.stderr == "another IOC serves ALONE: already; end it, or choose another --prefix\n"


def test_help_lists_the_pvs():
    shown = subprocess.run([*COMMAND[:3], "--help"], capture_output=True, text=True, timeout=120, check=True).stdout
    for name in ("Scan:X(_RBV)", "Beam:Blank(_RBV)", "cam1:TriggerMode(_RBV)", "HDF1:NumCaptured_RBV"):
        assert f"SIM:{name}" in shown
