"""The next client makes safe what a killed one left behind; and PVs that are absent are named."""

from __future__ import annotations

import re
import time
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 -- registers bitshuffle
import numpy as np
import pytest

pytestmark = pytest.mark.system

MANY = np.random.default_rng(3).uniform(-50, 50, (2000, 2))
FEW = MANY[:7]
STATES = {"flying": 2, "paused": 3}
BLANKED = 1


def positions_in(folder: Path) -> np.ndarray:
    (path,) = folder.glob("*.h5")
    with h5py.File(path, "r", swmr=True) as file:
        attributes = file["/entry/instrument/NDAttributes"]
        return np.column_stack([attributes["ScanX"][:], attributes["ScanY"][:]])


@pytest.mark.parametrize("state", STATES)
def test_a_run_begins_where_a_killed_client_left_off(
    fresh_ioc, fresh_client, layer, client_class, tmp_path, caget, state
):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
    fresh_client.start("paused", fresh_ioc.prefix, str(old), MANY, "stay")
    while fresh_client.told(60)[1] < 20:
        pass
    if state == "paused":
        fresh_client.interrupt()
        time.sleep(0.2)
        fresh_client.interrupt()
        while fresh_client.told(60)[0] != "paused":
            pass
    fresh_client.process.kill()
    fresh_client.process.wait()
    assert caget(fresh_ioc, "Scan:State_RBV")[0] == STATES[state], "else this test shows nothing"
    assert caget(fresh_ioc, "HDF1:Capture_RBV")[0] == 1, "else this test shows nothing"
    assert (caget(fresh_ioc, "Beam:Blank_RBV")[0] == BLANKED) == (state == "paused")

    here = str(Path(__file__).parent / "flights.py")
    following = client_class(here, {**fresh_ioc.client_env, "OPHYD_CONTROL_LAYER": layer})
    try:
        documents, error, _ = following.call("run", fresh_ioc.prefix, str(new), [FEW])
    finally:
        following.close()
    assert error == ""
    assert documents[-1][1]["exit_status"] == "success"
    np.testing.assert_array_equal(positions_in(new), FEW)
    (path,) = new.glob("*.h5")
    assert {d["uri"] for n, d in documents if n == "stream_resource"} == {f"file://localhost{path}"}
    before = positions_in(old)
    assert len(before) >= 20, "its frames are readable"
    np.testing.assert_array_equal(before, MANY[: len(before)])
    assert caget(fresh_ioc, "Beam:Blank_RBV")[0] == BLANKED


def test_a_microscope_that_does_not_answer_is_named_in_a_line(ioc, client):
    error, took = client.call("connect", "NOPE:", "NOPE:Beam:", 1.0)
    assert re.fullmatch(
        r"TimeoutError: no PV under NOPE: answers \(\d\d missing, first NOPE:Scan:X_RBV\): "
        r"is the IOC running, and does EPICS_CA_ADDR_LIST reach it\?",
        error,
    )
    # One timeout of a second, not one for each of the PVs.
    assert took < 8


def test_pvs_that_are_missing_are_named(ioc, client):
    error, _ = client.call("connect", ioc.prefix, "NOPE:", 1.0)
    assert error == (
        "TimeoutError: no answer from NOPE:Blank_RBV, NOPE:Blank, NOPE:Current_RBV, NOPE:Current, NOPE:Energy_RBV "
        "and 6 more: is the IOC running, and does EPICS_CA_ADDR_LIST reach it?"
    )
