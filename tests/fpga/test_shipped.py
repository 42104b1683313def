"""The build that ships with the package."""

import json
from pathlib import Path

import pytest

from bluesky_edgestem.fpga import fixed_point, golden, report, shipped, student
from bluesky_edgestem.fpga.golden import GoldenFrames
from bluesky_edgestem.fpga.student import Student


@pytest.fixture(scope="module")
def made() -> Student:
    return Student.load(shipped.FOLDER / student.NAME)


def test_it_gives_the_words_that_it_was_verified_with(made):
    frames = GoldenFrames.load(shipped.FOLDER / golden.NAME)
    assert len(frames.frames) >= 20
    dense = fixed_point.DenseLayers.load(shipped.FOLDER / fixed_point.NAME)
    assert frames.complaint(made) == frames.complaint(made, dense) == ""


def test_report_and_card_are_of_this_student(made, capsys):
    said = report.load(shipped.FOLDER)
    assert said["hash"] == made.hash
    assert report.disagreeing(said) == []
    assert {name: row["frames"] for name, row in said["agreement"].items()} == {
        "QKeras": 10_000, "hls4ml, io_parallel": 10_000, "hls4ml, io_stream": 10_000, "alkaid": 10_000,
        "Verilog, frames back to back": 10_000, "Verilog, gaps, stalls, shifted": 10_000,
        "Verilog, frame numbers and status": 10_000, "Verilog, rule": 10_000,
        "Verilog, between frames cut short and too long": 2000, "Verilog, reset in mid-frame": 1000,
        "Verilog, by Icarus": 9,
    }  # fmt: skip
    card = (shipped.FOLDER / "board.md").read_text()
    assert made.hash in card
    least = {dose: f"{min(of_kind.values()):.1%}" for dose, of_kind in said["flagged_foreign"].items()}
    assert (
        "Of frames without a lattice it flags, of each kind, {1e3} at least at 1e3 electrons, {1e4} at 1e4, {1e5} at "
        "1e5 and {1e6} at 1e6."
    ).format(**least) in card
    assert report.main(["shipped"]) == 0
    told = capsys.readouterr().out
    assert f"student {made.hash}" in told
    own, its = (said["accuracy"]["1e5"][who] for who in ("student", "teacher"))
    assert (
        f"; {own['centre_rms']:.3f}, {own['centre_coverage']:.1%} ({its['centre_rms']:.3f}, "
        f"{its['centre_coverage']:.1%}); ".replace("%", " %")
    ) in told
    assert f"{own['centre_rms']:.3f} ({its['centre_rms']:.3f}), {own['centre_coverage']:.1%}" in card


@pytest.fixture(scope="module")
def measured() -> dict:
    results = json.loads((Path(__file__).parents[2] / "benchmarks/results.json").read_text())
    return {name: results[name]["result"] for name in ("board", "board_clock", "board_cpu", "board_ioc")}


@pytest.mark.parametrize("benchmark", ["board", "board_clock", "board_cpu"])
def test_figures_that_are_quoted_are_of_this_student(made, measured, benchmark):
    assert measured[benchmark]["hash"] == made.hash


def test_its_report_has_the_figures_of_the_benchmarks(measured):
    said, board = report.load(shipped.FOLDER), measured["board"]
    assert said["routed_clock_MHz"] == measured["board_clock"]["routed_clock_MHz"]
    for key in ("accuracy", "beyond", "agreement", "cycles", "area", "versions"):
        assert said[key] == board[key]


def test_what_was_asked_of_the_board_is_what_was_measured(measured):
    board = measured["board"]
    clock = min(measured["board_clock"]["placements_MHz"])  # of a proxy, the slowest; cycles over it are µs
    assert board["mismatches"] == 0
    assert {dose for dose, row in board["accuracy"].items() if row["ratio"] <= 1.5} == {"1e3", "1e4", "1e5", "1e6"}
    assert board["area"]["LUT"] <= 30_000 and board["area"]["DSP"] == 0
    assert board["cycles"]["latency"] <= 306 and board["cycles"]["latency"] / clock <= 4
    assert min(row["frames"] for name, row in board["agreement"].items() if "Verilog" not in name) == 10_000
    assert board["agreement"]["Verilog, gaps, stalls, shifted"]["frames"] == 10_000
    assert measured["board_ioc"]["48 px"]["frames_per_s"] >= 5000
    others = board["detectors"]
    assert others["96 px, 16 a clock"]["interval_cycles"] / clock <= 8.3
    assert others["192 px, 16 a clock"]["latency_cycles"] / clock < 50
    assert others["192 px, 16 a clock"]["frames"] == 10_000


def test_its_name_is_told_from_a_folder(tmp_path, monkeypatch):
    assert shipped.folder_of("shipped") == shipped.FOLDER
    monkeypatch.chdir(tmp_path)
    assert shipped.folder_of("board") == tmp_path / "board"
