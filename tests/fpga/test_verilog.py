"""The Verilog of students of random numbers, clock by clock."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bluesky_edgestem.fpga import area, fixed_point, logic
from bluesky_edgestem.fpga.frontend import Frontend
from bluesky_edgestem.fpga.icarus import simulate as by_icarus
from bluesky_edgestem.fpga.programs import ToolMissing, run, tool
from bluesky_edgestem.fpga.rule import Rule
from bluesky_edgestem.fpga.student import OUTPUTS, Layer, Student
from bluesky_edgestem.fpga.verification import Mismatches
from bluesky_edgestem.fpga.verilated import Simulation

#: Clocks from the last beat to the result: of a board with one hidden layer, whatever its input is like.
TAIL = 18


@pytest.fixture(scope="module")
def board(tmp_path_factory, make_student) -> tuple[Student, Simulation]:
    student = make_student(Frontend(48))
    folder = tmp_path_factory.mktemp("board")
    return student, Simulation(folder, logic.write(student, folder, 8))


def test_alkaid_reads_the_student_bit_for_bit(make_student):
    student = make_student(Frontend(48))
    features = np.random.default_rng(0).integers(-64, 64, (2000, 6))
    assert np.array_equal(fixed_point.DenseLayers.of(student)(features), student.tail(features))


@pytest.mark.parametrize(("gaps", "stalls"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.5), (0.2, 0.9)])
def test_the_board_is_the_student_bit_for_bit_whatever_the_streams_do(board, gaps, stalls, make_frames):
    student, simulation = board
    frames = make_frames(student.frontend, 25)
    # Most electrons where they count as background: the normaliser is negative.
    frames[3].flat[:] = np.where(student.normaliser < 0, 200, 10)
    words, status = student.outputs(frames)
    assert status[3] == 3 and student.features(student.frontend(frames[[3]]))[1] == 0
    left = simulation.send(list(frames.reshape(len(frames), -1)), gaps, stalls, seed=1)
    assert np.array_equal(left.words, words)
    assert np.array_equal(left.status, status)
    assert np.array_equal(left.number, np.arange(len(frames)))
    if gaps == stalls == 0:
        assert set(left.latency) == {288 + TAIL}  # 2304 pixels, 8 a clock
        assert set(np.diff(left.taken)) == {288}  # frames follow each other without a clock between


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("output", range(9))
def test_the_rule_is_that_of_the_whole_numbers(board, output, inside, make_frames):
    student, simulation = board
    frames = make_frames(student.frontend, 12)
    flat = frames.reshape(len(frames), -1)
    words, status = student.outputs(frames)
    low, high = np.quantile(words[:, output], [0.3, 0.7]).astype(int).tolist()
    sd = words[:, 7]
    rule = Rule(output, low, high, inside, int(np.median(sd)))
    left = simulation.send([*flat, flat[20][:800]], 0.2, 0.4, seed=2, rule=rule)
    expected = rule(words, status)
    assert np.array_equal(left.holds[:-1], expected)
    assert 0 < expected.sum() < len(frames) - (sd > rule.most_log_sd).sum()
    assert not left.holds[-1] and left.status[-1] == 1  # a frame that is too short
    assert not simulation.send(list(flat)).holds.any()  # nor without a rule


def test_frames_too_short_and_too_long_are_told_and_spoil_no_other(board, make_frames):
    student, simulation = board
    frames = make_frames(student.frontend, 4)[4:14]
    flat = frames.reshape(len(frames), -1)
    words, _ = student.outputs(frames)
    packets = [flat[0], flat[1][:800], flat[2], np.concatenate([flat[3], flat[3][:80]]), flat[4]]
    packets += [flat[5][:8], flat[6][:8], flat[7][:2296], flat[8]]
    for gaps, stalls in ((0.0, 0.0), (0.3, 0.6)):
        left = simulation.send(packets, gaps, stalls)
        assert list(left.status) == [0, 1, 0, 2, 0, 1, 1, 1, 0]
        assert list(left.number) == list(range(9))
        whole = left.status == 0
        assert np.array_equal(left.words[whole], words[[0, 2, 4, 8]])
        assert not left.words[~whole].any()


def test_a_reset_in_mid_frame_begins_anew(board, make_frames):
    student, simulation = board
    frames = make_frames(student.frontend, 2)[:6]
    left = simulation.send(list(frames.reshape(6, -1)), reset_after=2 * 288 + 100)
    assert np.array_equal(left.words, student.outputs(frames)[0])
    # Two were through when it was reset; from then on it counts anew.
    assert list(left.number) == [0, 1, 0, 1, 2, 3]


def test_a_second_simulator_agrees(board, make_frames):
    student, simulation = board
    frames = make_frames(student.frontend, 1)
    words, status = student.outputs(frames)
    said = np.column_stack([words, np.arange(len(frames)), status])
    assert np.array_equal(by_icarus(simulation.folder, simulation.stream, frames), said)


def test_bits_that_are_unknown_are_told(board, make_frames, tmp_path):
    """As Verilator cannot: it takes the weights that are missing for some number."""
    student, simulation = board
    for source in (*simulation.folder.glob("*.sv"), simulation.folder / "weights.hex"):
        (tmp_path / source.name).write_text(source.read_text())
    weights = (tmp_path / "weights.hex").read_text().splitlines()
    (tmp_path / "weights.hex").write_text("\n".join(weights[: len(weights) // 2]))
    with pytest.raises(RuntimeError, match=r"result 0 has unknown bits: .*x"):
        by_icarus(tmp_path, simulation.stream, make_frames(student.frontend, 1)[:1])


def test_weights_that_are_wrong_are_noticed(board, make_frames, tmp_path):
    student, simulation = board
    frames = make_frames(student.frontend, 1)
    for source in (*simulation.folder.glob("*.sv"), simulation.folder / "weights.hex"):
        (tmp_path / source.name).write_text(source.read_text())
    weights = (tmp_path / "weights.hex").read_text().splitlines()
    middle = len(weights) // 2
    weights[middle] = f"{int(weights[middle], 16) ^ int('f' * len(weights[middle]), 16):x}"  # of the bins of one beat
    (tmp_path / "weights.hex").write_text("\n".join(weights) + "\n")
    found = by_icarus(tmp_path, simulation.stream, frames)
    assert Mismatches.between(student.outputs(frames)[0], found[:, : len(OUTPUTS)]).words > 0


@pytest.mark.parametrize(
    ("n_pixels", "bin_", "pixels_a_clock"), [(128, 2, 16), (112, 2, 1), (192, 4, 8)], ids=["cut", "1 a clock", "by 4"]
)
def test_crops_and_bins_on_the_fly(n_pixels, bin_, pixels_a_clock, tmp_path, make_student, make_frames):
    student = make_student(Frontend(n_pixels, bin_, pixel_bits=16, bin_bits=8), filters=3, hidden=4)
    simulation = Simulation(tmp_path, logic.write(student, tmp_path, pixels_a_clock))
    frames = make_frames(student.frontend, 3)
    for shift in (0, 3):
        left = simulation.send(list(frames.reshape(len(frames), -1)), gaps=0.1, stalls=0.1, shift=shift)
        assert np.array_equal(left.words, student.outputs(frames, shift)[0])
    assert left.tail_latency.min() <= TAIL  # less where the last rows are cut off


def test_layers_of_any_shape_are_the_student_bit_for_bit(tmp_path, make_student, make_frames):
    plain, rng = make_student(Frontend(48), filters=7), np.random.default_rng(5)

    def layer(rows, columns, weight_fraction, *leaving):
        weights = rng.integers(-31, 32, (rows, columns)) << rng.integers(0, 4, columns)  # neurons in units of their own
        return Layer(weights.astype(np.int32), 1 | rng.integers(-9999, 9999, columns), weight_fraction, *leaving)

    layers = (layer(7, 13, 6, 5, 5, False), layer(13, 6, 7, 5, 5, False), layer(6, 9, 6, 16, 8, True))
    for at in (0, 1):
        layers[at].weights[:, 0] = 0  # neurons that read nothing
    layers[0].weights[:, 1] = 4  # of which but the lowest bit is dropped that any weight reaches
    layers[2].weights[:5, 3] = 0
    student = replace(plain, layers=layers)
    simulation = Simulation(tmp_path, logic.write(student, tmp_path, 8))
    frames = make_frames(student.frontend, 20)
    left = simulation.send(list(frames.reshape(len(frames), -1)))
    words = student.outputs(frames)[0]
    assert np.array_equal(left.words, words)
    assert set(left.tail_latency) == {23}  # two hidden layers
    assert len(np.unique(words, axis=0)) > 15
    features = rng.integers(-64, 64, (2000, 7))
    assert np.array_equal(fixed_point.DenseLayers.of(student)(features), student.tail(features))


def test_a_packet_that_fills_no_whole_beats_is_refused(board):
    with pytest.raises(ValueError, match="does not fill beats of 8"):
        board[1].send([np.zeros(13, np.uint8)])


def test_no_multipliers_are_used(tmp_path, make_student):
    logic.write(make_student(Frontend(48), filters=2, hidden=2), tmp_path, 1)
    cells = area.xilinx(tmp_path)
    assert cells["DSP"] == 0
    assert cells["BRAM36"] >= 1  # the filters' memory
    assert 100 < cells["LUT"] < 3000


def test_a_missing_program_is_told_with_what_it_costs(tmp_path, monkeypatch, make_student):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(ToolMissing, match="iverilog is not installed: no second simulator"):
        tool("iverilog")
    student = make_student(Frontend(48), filters=2, hidden=2)
    with pytest.raises(ToolMissing, match="verilator-cli is not installed: the Verilog is not verified"):
        Simulation(Path(tmp_path), logic.write(student, tmp_path, 8))


def test_a_program_that_does_not_end_is_stopped_and_named(tmp_path):
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=r"sleep had not ended after 0\.2 s and was stopped"):
        run(["sleep", "60"], tmp_path, "sleep.log", limit=0.2)
    assert time.monotonic() - began < 30
