"""The simulated microscope's list of PVs, which help and reference are made from."""

from __future__ import annotations

from bluesky_edgestem.sim.ioc import pv_help, pv_list


def test_every_pv_says_what_it_is():
    pvs = pv_list("T:")
    assert len({pv.name for pv in pvs}) == len(pvs) > 60
    assert all(pv.doc for pv in pvs)
    by_name = {pv.name: pv for pv in pvs}
    assert (by_name["T:Scan:X"].units, by_name["T:Scan:X"].access) == ("nm", "read, write")
    assert (by_name["T:cam1:AcquireTime_RBV"].units, by_name["T:cam1:AcquireTime_RBV"].access) == ("s", "read")
    assert by_name["T:Beam:Blank"].values == ("Unblanked", "Blanked")


def test_trigger_modes_are_adeigers_in_its_order():
    modes = {pv.name: pv.values for pv in pv_list("")}["cam1:TriggerMode"]
    assert modes == ("Internal Series", "Internal Enable", "External Series", "External Enable", "External Gate")


def test_help_shows_a_setting_and_its_readback_in_one_line():
    lines = pv_help("T:").splitlines()
    assert any(line.split()[0] == "T:Scan:X(_RBV)" and line.endswith("[nm]") for line in lines)
    assert not any(line.split()[0] == "T:Scan:X_RBV" for line in lines[1:])
    assert any("T:HDF1:NumCaptured_RBV" in line and line.endswith("(read only)") for line in lines)
