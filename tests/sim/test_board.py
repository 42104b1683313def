"""The inside of the simulated board, on a stream of its own."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from bluesky_edgestem.fpga import fixed_point, golden, results, student
from bluesky_edgestem.fpga.frontend import Frontend
from bluesky_edgestem.sim.board import Board, Model
from bluesky_edgestem.sim.simplon_messages import MessagesV1
from bluesky_edgestem.sim.stream_tap import StreamTap, TappedSeries
from bluesky_edgestem.stream.encoding import compress
from bluesky_edgestem.stream.messages import Messages

FRONTEND = Frontend(48, pixel_bits=16)


@pytest.fixture
def tap():
    made = StreamTap()
    yield made
    made.close()


@pytest.fixture
def board(tmp_path, tap, make_build):
    make_build(tmp_path, FRONTEND)
    made = Board(Model.load(tmp_path), tap.address)
    made.start()
    until(lambda: made.connected and tap.listened)
    yield made
    made.stop()


def until(condition, seconds=10.0):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def series(tap, images, number=1, **changed):
    settings = {"shape": images[0].shape, "bits": 16, "triggers": len(images), "each": 1, "exposure": 1e-3, **changed}
    stream = TappedSeries(tap, number, **settings)
    for image in images:
        stream.frame(image)
    stream.end()
    return stream


def test_each_frame_has_the_result_that_the_student_gives(tap, board, make_frames):
    frames = make_frames(FRONTEND, 30)
    board.electrons = 3e6
    series(tap, frames, 5)
    until(lambda: board.counts.results_out == len(frames))
    own = board.model.student
    shift = own.frontend.shift_for(3e6, own.brightest)
    assert shift > 0
    expected = results.rows(5, np.arange(len(frames)), 3e6, own.described(*own.outputs(frames, shift)))
    # Whole numbers and strain, which is one of them times a constant, to the bit; exponentials and angles are rounded
    # differently by where in a batch a frame is, by a unit in the last place or two.
    np.testing.assert_array_equal(board.latest[:, :6], expected[:, :6])
    np.testing.assert_allclose(board.latest, expected, rtol=1e-15, atol=0)
    until(lambda: board.counts.frames_in == len(frames))
    assert (board.counts.dropped, board.counts.refused) == (0, 0)
    assert board.counts.latency.sum() == len(frames)


@pytest.mark.parametrize(("side", "told"), [(40, "the frame was too short"), (64, "the frame was too long")])
def test_frames_of_another_size_have_results_that_say_so(tap, board, side, told):
    series(tap, np.ones((3, side, side), np.uint16))
    until(lambda: board.counts.results_out == 3)
    found = results.descriptors(board.latest, ("MoS2", "WS2"))
    assert list(found.flagged) == [told] * 3
    assert not found.strain.any()


def test_frames_that_never_came_and_damaged_ones_are_counted(tap, board, make_frames):
    frames = make_frames(FRONTEND, 3)[:10]
    stream = TappedSeries(tap, 1, (48, 48), 16, 12, 1, 1e-3)
    for k, frame in enumerate(frames):
        if k in (2, 3):
            stream.sent += 1
        elif k == 6:
            chunk = compress(frame)
            damaged = chunk._replace(data=chunk.data[:-20])
            tap.send(Messages.of([MessagesV1().frame(1, 6, [damaged], 0.0, 1e-3)]))
            stream.sent += 1
        else:
            stream.frame(frame)
    stream.end()
    until(lambda: board.counts.frames_in == 8)
    assert (board.counts.results_out, board.counts.dropped, board.counts.refused) == (7, 2, 1)
    assert "allowed is what its block lengths add up to" in board.counts.refusal
    assert board.latest[:, 1].tolist() == [0, 1, 4, 5, 7, 8, 9]


def test_a_damaged_frame_that_comes_alone_is_refused_and_the_next_is_read(tap, board, make_frames):
    frame = make_frames(FRONTEND, 1)[0]
    stream = TappedSeries(tap, 1, shape=frame.shape, bits=16, triggers=2, each=1, exposure=1e-3)
    chunk = compress(frame)
    tap.send(Messages.of([MessagesV1().frame(1, 0, [chunk._replace(data=chunk.data[:-20])], 0.0, 1e-3)]))
    stream.sent += 1
    until(lambda: board.counts.refused == 1)
    stream.frame(frame)
    stream.end()
    until(lambda: board.counts.results_out == 1)
    assert board.latest[:, 1].tolist() == [1] and board.failure == ""


def test_no_frames_have_no_words(board):
    words, status = board.model.outputs(np.zeros((0, 48, 48), np.uint16), 1e5)
    assert words.shape == (0, 9) and status.shape == (0,)


def test_without_alkaid_it_says_what_to_install(tmp_path, make_build, monkeypatch):
    make_build(tmp_path, FRONTEND)
    monkeypatch.setitem(sys.modules, "alkaid._binary", None)
    with pytest.raises(ValueError, match=r"computes with alkaid.*pip install 'bluesky-edgestem\[fpga\]'"):
        Model.load(tmp_path)


def test_to_run_again_begins_anew(tap, board, make_frames):
    series(tap, make_frames(FRONTEND, 2))
    until(lambda: board.counts.results_out == 10)
    board.start()
    assert (board.counts.results_out, len(board.latest)) == (0, 0)
    until(lambda: board.connected and tap.listened)
    series(tap, make_frames(FRONTEND, 1)[:4], 2)
    until(lambda: board.counts.results_out == 4)


def test_a_tap_that_nobody_listens_to_holds_nothing_up(make_frames):
    tap = StreamTap(buffer=1)
    began = time.monotonic()
    series(tap, np.concatenate([make_frames(FRONTEND, 100)] * 4))
    assert time.monotonic() - began < 20  # it would wait for ever
    tap.close()


def test_golden_frames_that_are_altered_or_missing_fail_the_test(tmp_path, make_build):
    make_build(tmp_path, FRONTEND)
    assert Model.load(tmp_path).test() == ""
    data = bytearray((tmp_path / golden.NAME).read_bytes())
    data[-5] ^= 1
    (tmp_path / golden.NAME).write_bytes(data)
    assert "cut short or altered" in Model.load(tmp_path).test()
    (tmp_path / golden.NAME).unlink()
    assert "No such file" in Model.load(tmp_path).test()


def test_dense_layers_that_are_of_another_build_altered_or_missing_are_told(tmp_path, make_build):
    make_build(tmp_path / "other", FRONTEND, seed=1)
    make_build(tmp_path, FRONTEND)
    (tmp_path / "other" / fixed_point.NAME).rename(tmp_path / fixed_point.NAME)
    with pytest.raises(ValueError, match=r"dense.alkaid is of student \w+, student.weights beside it is \w+: make"):
        Model.load(tmp_path)
    data = bytearray((tmp_path / fixed_point.NAME).read_bytes())
    data[-5] ^= 1
    (tmp_path / fixed_point.NAME).write_bytes(data)
    with pytest.raises(ValueError, match=r"dense.alkaid: cut short or altered .*fpga build --student"):
        Model.load(tmp_path)
    (tmp_path / fixed_point.NAME).unlink()
    with pytest.raises(ValueError, match=r"dense.alkaid: No such file.*fpga build --student"):
        Model.load(tmp_path)


def test_a_folder_that_is_no_build_is_refused(tmp_path):
    with pytest.raises(ValueError, match=rf"{student.NAME}: No such file.*build the board anew"):
        Model.load(tmp_path)
