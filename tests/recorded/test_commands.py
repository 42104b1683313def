"""`edgestem train strain` and `edgestem analyse strain`, of files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from bluesky_edgestem.cli import main
from bluesky_edgestem.recorded import analyse_strain
from bluesky_edgestem.recorded.scan import Given, open_file

PEER = Path(__file__).parents[2] / ".venv-libertem/bin/python"
READ = np.arange(96) != 50


def test_training_writes_weights_and_tells_how_far_it_is(write, network, tmp_path, capsys):
    weights = tmp_path / "w.pt"
    assert main(["train", "strain", str(write(lost=[2])), "--out", str(weights), "--seed", "4"]) == 0
    assert weights.read_text() == "EDGESTEM-4"
    said = capsys.readouterr().out
    assert "95 of 96 frames of" in said and "step 1 of 1" in said and "disk radius: 4.2 px" in said


def test_a_network_that_has_not_converged_says_so(write, network, tmp_path, capsys):
    assert main(["train", "strain", str(write()), "--out", str(tmp_path / "w.pt"), "--seed", "13"]) == 1
    assert "has not converged, its strain is not to be trusted: the disks were not found" in capsys.readouterr().err


def test_what_was_not_learned_replaces_no_weights(write, network, tmp_path, capsys):
    weights = tmp_path / "w.pt"
    words = ["train", "strain", str(write()), "--out", str(weights), "--seed"]
    assert main([*words, "14"]) == 1
    assert not weights.exists()
    weights.write_text("EDGESTEM-4")
    assert main([*words, "14"]) == 1 and main([*words, "13"]) == 1
    assert weights.read_text() == "EDGESTEM-4"
    assert (tmp_path / "w-not-converged.pt").read_text() == "EDGESTEM-13"
    assert f"weights: {tmp_path / 'w-not-converged.pt'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("", "is a folder: name a file to write"),
        ("run.h5", "holds something else than weights, which it would replace: name another file"),
        ("run.h5/w.pt", "run.h5 is no folder that can be written to"),
    ],
)
def test_weights_that_cannot_be_written_are_refused_before_training(output, said, write, network, tmp_path, capsys):
    scan = write()
    before = scan.read_bytes()
    assert main(["train", "strain", str(scan), "--out", str(tmp_path / output)]) == 1
    told = capsys.readouterr()
    assert said in told.err and "step 1 of 1" not in told.out
    assert scan.read_bytes() == before


def test_scans_of_one_name_keep_their_results_apart(write, network, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pt").write_text("4")
    long = "2026-11-30_MoS2_flake3_regionA_200kV_scan"
    for number in (1, 2):
        assert main(["analyse", "strain", str(write(f"{long}0{number}.h5")), "--weights", "w.pt"]) == 0
    assert {f.name for f in tmp_path.glob("strain_*")} == {f"strain_{long}01", f"strain_{long}02"}
    again = tmp_path / f"{long}01.h5"
    assert main(["analyse", "strain", again.name, "--weights", "w.pt"]) == 0
    (tmp_path / "other").mkdir()
    moved = again.rename(tmp_path / "other" / again.name)
    capsys.readouterr()
    assert main(["analyse", "strain", str(moved), "--weights", "w.pt"]) == 1
    assert "choose another folder by --out" in capsys.readouterr().err


def test_an_analysis_is_a_picture_and_a_file_with_all_that_it_takes_to_understand_it(write, network, truth, tmp_path):
    (tmp_path / "w.pt").write_text("4")
    out = tmp_path / "out"
    words = ["--weights", str(tmp_path / "w.pt"), "--out", str(out), "--reference", "3,4,0.5,0.5"]
    assert main(["analyse", "strain", str(write(lost=[7])), *words]) == 0
    assert (out / "strain.png").read_bytes().startswith(b"\x89PNG")
    with h5py.File(out / "strain.h5") as file:
        entry = file["entry"]
        exx = entry["exx/data"][:]
        gaps = [7, 50]
        assert np.flatnonzero(np.isnan(exx)).tolist() == gaps
        # The region holds one position: its crystal is the reference.
        (at,) = np.flatnonzero((truth.grid.positions == [3.0, 4.0]).all(axis=1))
        assert exx.ravel()[at] == pytest.approx(0, abs=1e-12)
        assert entry["rotation/data"][:].ravel()[at + 1] == pytest.approx(
            truth.rotation[at + 1] - truth.rotation[at], abs=2e-4
        )
        assert entry["exx/y"][:].tolist() == truth.grid.y.tolist()
        assert entry["exx"].attrs["axes"].tolist() == ["y", "x"]
        assert entry["covariance"].shape == (8, 12, 4, 4)
        sd = np.sqrt(entry["covariance"][..., 2, 2])
        assert entry["exy/errors"][:] == pytest.approx(sd, nan_ok=True)
        flagged = entry["flagged"].asstr()[:].ravel().tolist()
        assert entry["flagged"].shape == (8, 12) and flagged[8] == ""
        assert flagged[7] == "no frame" and "no electrons" in flagged[50]
        told = dict(entry["process"].attrs)
        assert told["reference"] == "the region x 3 to 3.5 nm, y 4 to 4.5 nm"
        assert told["convention"].startswith("F = (1 + strain) R(rotation)")
        assert len(told["weights_sha256"]) == 64 and told["scan"].endswith("run.h5")
        assert told["converged"] and not told["mirrored"]


@pytest.mark.skipif(not PEER.exists(), reason="scripts/peers has not made HyperSpy's environment")
def test_hyperspy_opens_the_maps_with_their_axes(write, network, truth, tmp_path):
    (tmp_path / "w.pt").write_text("4")
    words = ["--weights", str(tmp_path / "w.pt"), "--out", str(tmp_path)]
    assert main(["analyse", "strain", str(write()), *words]) == 0
    script = Path(__file__).parents[1] / "peers/open_strain.py"
    subprocess.run([PEER, script, tmp_path / "strain.h5", tmp_path / "out.npz"], check=True)
    found = np.load(tmp_path / "out.npz")
    assert found["names"].tolist() == ["exx", "exy", "eyy", "rotation"]
    assert found["axes"] == pytest.approx(np.array([[0.0, 2.0], [-5.0, 2.0]]))
    assert found["units"].tolist() == ["nm", "nm"]
    with h5py.File(tmp_path / "strain.h5") as file:
        assert np.array_equal(found["exx"], file["/entry/exx/data"][:], equal_nan=True)


def test_without_weights_a_network_is_trained_and_kept(write, network, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["analyse", "strain", str(write()), "--seed", "6", "--measure", "Lagrangian"]) == 0
    assert (tmp_path / "strain_run" / "strain.pt").read_text() == "EDGESTEM-6"
    said = capsys.readouterr().out
    assert "strain relative to the median of the scan; 95 of 96 patterns read" in said
    assert "not read, 1: no electrons: the frame is empty" in said
    assert main(["analyse", "strain", str(write()), "--seed", "13"]) == 1
    assert "has not converged" in capsys.readouterr().err
    kept = {file.name: file.read_text() for file in (tmp_path / "strain_run").glob("*.pt")}
    assert kept == {"strain.pt": "EDGESTEM-6", "strain-not-converged.pt": "EDGESTEM-13"}


def test_why_a_training_failed_is_told_before_reading_fails_for_it(write, network, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def nothing(*_):
        raise ValueError("the median of the scan holds no pattern that could be read")

    monkeypatch.setattr(analyse_strain, "read_scan", nothing)
    assert main(["analyse", "strain", str(write()), "--seed", "13"]) == 1
    told = capsys.readouterr().err
    assert told.index("has not converged, its strain is not to be trusted") < told.index(
        "no pattern that could be read"
    )


def test_results_do_not_go_to_a_file(write, network, tmp_path, capsys):
    (tmp_path / "w.pt").write_text("4")
    words = ["--weights", str(tmp_path / "w.pt"), "--out", str(tmp_path / "w.pt")]
    assert main(["analyse", "strain", str(write()), *words]) == 1
    assert "w.pt is a file: name a folder by --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--reference", "adamantium"], "unknown material 'adamantium'"),
        (["--reference", "1,2,3"], "'1,2,3' is no reference"),
        (["--reference", "0,0,-1,1"], "a width and a height above 0 nm"),
        (["--reference", "0,0,5"], "a region is four numbers, got 3"),
        (["--rotation", "45"], "'45' is no angle in rad"),
        (["--rotation", "nan"], "'nan' is no angle in rad"),
        (["--seed", "-1"], "is not a whole number of 0 or more"),
    ],
)
def test_what_cannot_be_is_refused_by_the_command_line(words, said, write, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["analyse", "strain", str(write()), *words])
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--reference", "Si"], "needs the detector's calibration, which this scan lacks; give the optics"),
        (["--step", "-1", "--shape", "8", "12"], "is more than 0 nm; got -1"),
        (["--reference", "90,90,1,1"], "holds none of the 96 patterns, which are at"),
    ],
)
def test_a_reference_that_cannot_be_is_refused_before_training(words, said, write, network, tmp_path, capsys):
    assert main(["analyse", "strain", str(write()), *words, "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr()
    assert said in told.err and "step 1 of 1" not in told.out
    assert not (tmp_path / "out").exists()


def test_a_raster_with_more_positions_than_frames_is_said_to_have_gaps(write, network, tmp_path, capsys):
    (tmp_path / "w.pt").write_text("4")
    words = ["--weights", str(tmp_path / "w.pt"), "--out", str(tmp_path), "--shape", "9", "12", "--step", "1"]
    assert main(["analyse", "strain", str(write()), *words]) == 0
    assert "the recording has 96 frames of the 108 that its raster takes" in capsys.readouterr().err
    main(["train", "strain", str(write()), "--out", str(tmp_path / "new.pt"), "--shape", "9", "12", "--step", "1"])
    assert "the recording has 96 frames of the 108 that its raster takes" in capsys.readouterr().err


def test_errors_are_one_line(write, network, tmp_path, capsys):
    (tmp_path / "w.pt").write_text("4")
    weights = ["--weights", str(tmp_path / "w.pt"), "--out", str(tmp_path / "out")]
    assert main(["analyse", "strain", str(tmp_path / "absent.h5"), *weights]) == 1
    assert capsys.readouterr().err == f"edgestem: there is no file {tmp_path / 'absent.h5'}\n"
    assert main(["analyse", "strain", str(write()), "--reference", "Si", *weights]) == 1
    assert "needs the detector's calibration" in capsys.readouterr().err
    words = ["--reference", "Si", "--energy", "200", "--pixel", "9"]
    assert main(["analyse", "strain", str(write()), *words, *weights]) == 1
    told = capsys.readouterr()
    assert "is not that of Si" in told.err and "frames read" not in told.out
    assert main(["train", "strain", "0000", "--folder", str(tmp_path)]) == 1
    assert "There is no catalog in" in capsys.readouterr().err


@pytest.mark.parametrize(("seed", "told"), [(4, ""), (15, "the lattice is +5.0 % wider on the detector")])
def test_weights_of_another_scale_are_told(seed, told, write, network, tmp_path, capsys):
    (tmp_path / "w.pt").write_text(f"EDGESTEM-{seed}")
    out = tmp_path / "out"
    assert main(["analyse", "strain", str(write()), "--weights", str(tmp_path / "w.pt"), "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert told in said and ("wider" in said) == bool(told)


def test_an_analysis_that_fails_leaves_no_folder(write, network, tmp_path):
    (tmp_path / "w.pt").write_text("EDGESTEM-4")
    out = tmp_path / "out"
    words = ["--weights", str(tmp_path / "w.pt"), "--out", str(out), "--reference", "900,900,1,1"]
    assert main(["analyse", "strain", str(write()), *words]) == 1
    assert not out.exists()


@pytest.mark.parametrize("by", ["option", "file"])
def test_pixels_that_saturate_below_their_types_largest_value_are_marked(by, write, tmp_path):
    more = {"/entry/instrument/detector/saturation_value": 90} if by == "file" else {}
    given = Given(saturation=90) if by == "option" else None
    with open_file(write(**more), given) as scan:
        first = scan.frames[:][:, 0, 0]
    assert first.tolist() == [*range(1, 90), *[65535] * 7]
