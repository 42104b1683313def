"""Positions that take seconds: Ctrl-C still blanks the beam at once, and nothing gives up too early."""

from __future__ import annotations

import time

import h5py
import hdf5plugin  # noqa: F401 -- registers bitshuffle
import numpy as np
import pytest

pytestmark = pytest.mark.system

POSITIONS = np.random.default_rng(2).uniform(-50, 50, (4, 2))
FLYING, BLANKED = 2, 1


def wait_for(what, timeout: float = 10.0) -> float:
    """Time [s] until `what` is true."""
    started = time.monotonic()
    while not what():
        assert time.monotonic() - started < timeout
        time.sleep(0.02)
    return time.monotonic() - started


def interrupt_in_flight(ioc, client, caget) -> float:
    """Ctrl-C within the first position; the time [s] until the beam is blanked."""
    wait_for(lambda: caget(ioc, "Scan:State_RBV")[0] == FLYING)
    time.sleep(0.2)
    assert caget(ioc, "Beam:Blank_RBV")[0] != BLANKED, "else this test shows nothing"
    client.interrupt()
    time.sleep(0.2)
    client.interrupt()
    return wait_for(lambda: caget(ioc, "Beam:Blank_RBV")[0] == BLANKED)


@pytest.mark.parametrize(("exposure", "settle"), [(5.0, 1e-3), (1e-3, 5.0)])
def test_ctrl_c_in_a_long_dwell_blanks_at_once_and_aborts(ioc, client, tmp_path, caget, exposure, settle):
    client.start("paused", ioc.prefix, str(tmp_path), POSITIONS, "abort", exposure, settle)
    assert interrupt_in_flight(ioc, client, caget) < 1.0
    documents = client.result(20)
    assert (documents[-1][0], documents[-1][1]["exit_status"]) == ("stop", "abort")
    assert caget(ioc, "Beam:Blank_RBV")[0] == BLANKED
    assert caget(ioc, "cam1:Armed")[0] == caget(ioc, "HDF1:Capture_RBV")[0] == 0


def test_a_long_dwell_is_resumed_at_the_next_position(ioc, client, tmp_path, caget):
    client.start("paused", ioc.prefix, str(tmp_path), POSITIONS, "resume", 1.5, 1e-3)
    assert interrupt_in_flight(ioc, client, caget) < 1.0
    documents = client.result(20)
    assert documents[-1][1]["exit_status"] == "success"
    (path,) = tmp_path.glob("*.h5")
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["/entry/instrument/NDAttributes/ScanX"][:], POSITIONS[:, 0])


def test_a_step_waits_for_coils_that_settle_slowly(ioc, client, tmp_path, caget):
    assert client.call("attempt", ioc.prefix, str(tmp_path), "coils.settle_time.set", 4.0) == ""
    try:
        assert client.call("attempt", ioc.prefix, str(tmp_path), "coils.set", (1.0, 2.0)) == ""
        assert (caget(ioc, "Scan:X_RBV")[0], caget(ioc, "Scan:Y_RBV")[0]) == (1.0, 2.0)
    finally:
        client.call("attempt", ioc.prefix, str(tmp_path), "coils.settle_time.set", 1e-3)
