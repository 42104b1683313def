"""The IOC guards itself against any client: what it refuses moves nothing, raises an alarm and says why."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.system


@pytest.mark.parametrize(
    ("name", "value", "readback", "message", "why"),
    [
        ("Scan:X", 60.5, "Scan:X_RBV", "Scan:Message_RBV", "-60.0 and 60.0"),
        ("Scan:Y", -1e9, "Scan:Y_RBV", "Scan:Message_RBV", "-60.0 and 60.0"),
        ("Scan:SettleTime", -1.0, "Scan:SettleTime_RBV", "Scan:Message_RBV", "0 and 10"),
        ("Scan:PositionsX", [0.0, 61.0, 62.0], "Scan:PositionsX_RBV", "Scan:Message_RBV", "position 1 is 61 nm"),
        ("Scan:PositionsY", [float("nan"), 0.0], "Scan:PositionsY_RBV", "Scan:Message_RBV", "position 0 is nan nm"),
        ("Beam:Current", -1.0, "Beam:Current_RBV", "Beam:Message_RBV", "0 and 10000.0"),
        ("cam1:AcquireTime", -1e-3, "cam1:AcquireTime_RBV", "cam1:StatusMessage_RBV", "1e-06 and 100"),
        ("cam1:NumTriggers", 0, "cam1:NumTriggers_RBV", "cam1:StatusMessage_RBV", "1 and 1000000"),
        ("cam1:TriggerMode", 3, "cam1:TriggerMode_RBV", "cam1:StatusMessage_RBV", "'External Enable' is not simulated"),
        ("HDF1:NumCapture", -1, "HDF1:NumCapture_RBV", "HDF1:WriteMessage", "0 and 1000000000"),
        ("HDF1:Compression", 2, "HDF1:Compression_RBV", "HDF1:WriteMessage", "'szip' is not simulated"),
    ],
)
def test_a_bad_value_is_refused(ioc, caget, caput, name, value, readback, message, why):
    before = caget(ioc, readback)[0]
    assert caput(ioc, name, value) != ""
    assert str(caget(ioc, readback)[0]) == str(before)
    assert caget(ioc, name)[1] == 2, "MAJOR alarm"
    text = caget(ioc, message)[0]
    assert text.startswith(ioc.prefix + name) and why in text
    assert caget(ioc, readback)[1] == 0, "the alarm is that record's alone"


def test_a_flight_of_lists_that_differ_is_refused(ioc, caget, caput):
    assert caput(ioc, "Scan:PositionsX", [1.0, 2.0]) == ""
    assert caput(ioc, "Scan:PositionsY", [1.0]) == ""
    assert "PositionsX has 2 positions but PositionsY has 1" in caput(ioc, "Scan:Fly", 1)
    assert caget(ioc, "Scan:State_RBV")[0] == 0


def test_a_capture_into_a_folder_that_is_not_there_is_refused(ioc, caget, caput):
    assert caput(ioc, "HDF1:FilePath", b"/no/such/folder") == ""
    assert caget(ioc, "HDF1:FilePathExists_RBV")[0] == 0
    assert "cannot write /no/such/folder/" in caput(ioc, "HDF1:Capture", 1)
    assert caget(ioc, "HDF1:WriteStatus")[0] == 1
    assert "No such file or directory" in caget(ioc, "HDF1:WriteMessage")[0]
    assert caget(ioc, "HDF1:Capture_RBV")[0] == 0


def test_limits_and_units_reach_clients(ioc):
    import os
    from unittest.mock import patch

    from caproto.sync.client import read

    with patch.dict(os.environ, ioc.client_env):
        control = read(ioc.prefix + "Scan:X", data_type="control", repeater=False, timeout=3).metadata
    assert (control.units, control.lower_ctrl_limit, control.upper_ctrl_limit) == (b"nm", -60.0, 60.0)


def test_a_put_completes_when_the_probe_has_settled(ioc, caget, caput):
    import time

    caput(ioc, "Scan:SettleTime", 0.2)
    started = time.monotonic()
    assert caput(ioc, "Scan:X", 12.5) == ""
    assert time.monotonic() - started >= 0.2
    assert caget(ioc, "Scan:X_RBV")[0] == 12.5
