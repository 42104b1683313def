"""The simulated microscope's list of PVs, which help and reference are made from."""

from __future__ import annotations

import argparse
from dataclasses import replace
from unittest.mock import AsyncMock, patch

import numpy as np
import pytest

from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.geometry import FieldOfView
from bluesky_edgestem.sim import ioc
from bluesky_edgestem.sim.frames import Renderer
from bluesky_edgestem.sim.ioc import add_arguments, main, pv_help, pv_list, run


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


@pytest.mark.parametrize("bad", ["-1", "1.5", "one"])
def test_a_seed_is_a_whole_number_not_below_0(bad, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--seed", bad])
    assert ended.value.code == 2
    assert f"argument --seed: '{bad}' is not a whole number of 0 or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    "bad",
    ["http://localhost:5555", "tcp://localhost", "tcp://:5555", "tcp://host:65536", "tcp://host:0", "tcp://*:5555"],
)
def test_an_address_that_is_no_streams_is_refused(bad, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--part", "board", "--board", "shipped", "--tap", bad])
    assert ended.value.code == 2
    assert f"--tap: '{bad}' is no address of a stream; give tcp://HOST:PORT" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--scan-range", "--field"])
@pytest.mark.parametrize("bad", ["0", "-5", "inf", "nan", "wide"])
def test_a_length_that_is_none_is_refused(option, bad, capsys):
    with pytest.raises(SystemExit):
        main([f"{option}={bad}"])
    assert f"{option}: '{bad}' is not a length [nm], a number above 0" in capsys.readouterr().err


def served_optics(*argv):
    """The optics that these options of the command line serve."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    serving = AsyncMock()
    with patch.object(ioc, "serve", serving), patch.object(ioc, "_served_already", return_value=False):
        assert run(parser.parse_args(argv)) == 0
    return serving.call_args.kwargs["optics"]


def test_the_detector_is_as_the_options_say():
    assert served_optics() == Optics()
    assert served_optics("--psf", "1.5", "--background", "0.2") == replace(Optics(), psf_px=1.5, background=0.2)


def test_beside_a_board_the_detector_is_its_build_s_unless_asked_for_another():
    own = served_optics("--board", "shipped")
    assert (own.n_pixels, own.pixel_mrad) == (48, pytest.approx(64 / 48)) and own.psf_px == Optics().psf_px
    assert served_optics("--board", "shipped", "--pixels", "96").n_pixels == 96


def test_point_spread_and_background_reach_the_frames():
    """A wide point spread blurs the disks; a background that is nearly all fills the space between them."""
    renderer = Renderer("specimen", 0, FieldOfView.centred(100.0), 1)
    try:
        plain, blurred, foggy = (
            renderer.submit((0.0, 0.0), 1e6, replace(Optics(n_pixels=64, pixel_mrad=1.0), **change), 0).result(60)
            for change in ({"psf_px": 0.0, "background": 0.0}, {"psf_px": 3.0, "background": 0.0}, {"background": 0.9})
        )
    finally:
        renderer.close()
    assert blurred.max() < 0.5 * plain.max()
    assert np.count_nonzero(foggy) > 1.2 * np.count_nonzero(plain)
