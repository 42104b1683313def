"""Which frames a board's results are of, without its IOC."""

from __future__ import annotations

import logging
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from bluesky_edgestem.devices import board as board_module
from bluesky_edgestem.devices.board import InferenceBoard
from bluesky_edgestem.devices.statuses import NamedStatus
from bluesky_edgestem.fpga.results import COLUMNS


@pytest.fixture
def board(monkeypatch):
    """A board whose PVs are not asked."""
    made = InferenceBoard("NONE:Board:", name="board")
    quick = SimpleNamespace(set=lambda value, timeout: SimpleNamespace(wait=lambda: None))
    monkeypatch.setitem(made._signals, "electrons", quick)
    monkeypatch.setitem(made._signals, "phases", SimpleNamespace(latest="MoS2 WS2"))
    monkeypatch.setattr(board_module, "PATIENCE", 0.2)
    yield made
    monkeypatch.undo()
    made.destroy()


def monitor(*rows):
    """What a monitor brings: series, frame, electrons and exx of each row."""
    values = np.zeros((len(rows), len(COLUMNS)))
    for row, (series, frame, electrons, exx) in zip(values, rows, strict=True):
        row[:4] = series, frame, electrons, exx
    return values.ravel()


def read(board, numbers):
    found, came = board.results(numbers)
    return found.strain[:, 0].tolist(), came.tolist()


def test_results_are_matched_by_series_over_flights(board):
    board.expect(7, 0, 1e4)
    board.expect(9, 2, 2e4)  # 8 was somebody else's
    board._take(monitor((7, 0, 1e4, 0.1), (7, 1, 1e4, 0.2), (8, 0, 2e4, 9.0), (9, 0, 2e4, 0.3)))
    board._take(monitor((9, 0, 2e4, 0.3), (9, 1, 2e4, 0.4)))
    assert read(board, range(4)) == ([0.1, 0.2, 0.3, 0.4], [True] * 4)


def test_its_counters_are_waited_for_before_they_are_recorded(board, monkeypatch):
    """They come after the results: a run that ends by these would record counts that lack the last of them."""
    board._take(monitor((7, 0, 1e4, 0.1), (7, 1, 1e4, 0.2)))
    asked = []

    def wait_until(signal, accept, what, timeout):
        asked.append((signal.pvname, accept(1), accept(2)))
        status = NamedStatus(what)
        status.finish()
        return status

    with monkeypatch.context() as patch:
        patch.setattr(board_module, "wait_until", wait_until)
        board.trigger().wait(1)
    assert asked == [("NONE:Board:ResultsOut_RBV", False, True), ("NONE:Board:FramesIn_RBV", False, True)]
    board.trigger().wait(1)  # it is gone: nothing is waited for, and nothing fails


def test_a_monitor_that_was_lost_is_made_up_for_by_the_next(board):
    board.expect(1, 0, 1e4)
    rows = [(1, k, 1e4, k / 10) for k in range(6)]
    board._take(monitor(*rows[:2]))
    board._take(monitor(*rows))
    assert read(board, range(6))[1] == [True] * 6


def test_a_result_for_another_number_of_electrons_is_not_used(board, caplog):
    board.expect(1, 0, 1e4)
    board._take(monitor((1, 0, 1e4, 0.1), (1, 1, 5e3, 0.2), (1, 2, 5e3, 0.2)))
    assert read(board, range(3)) == ([0.1], [True, False, False])
    assert caplog.messages == [
        "board has no result of frame 1, the board was set for 5000 electrons when it made that; its fallback reads "
        "such frames"
    ]


def test_a_frame_that_the_board_missed_is_not_waited_for(board, caplog):
    board.expect(1, 0, 1e4)
    board._take(monitor((1, 0, 1e4, 0.1), (1, 2, 1e4, 0.3)))
    began = time.monotonic()
    assert read(board, range(3)) == ([0.1, 0.3], [True, False, True])
    assert time.monotonic() - began < 0.2
    assert read(board, range(3)) == ([0.1, 0.3], [True, False, True])
    (told,) = caplog.messages  # once a series
    assert told.startswith("board has no result of frame 1, it was lost on the way, refused, or")


def test_a_result_is_waited_for(board):
    board.expect(1, 0, 1e4)
    threading.Timer(0.05, board._take, (monitor((1, 0, 1e4, 0.1)),)).start()
    assert read(board, range(1)) == ([0.1], [True])


def test_a_silent_board_is_waited_for_once_and_told_when_it_answers(board, caplog):
    caplog.set_level(logging.WARNING)
    board.expect(1, 0, 1e4)
    assert read(board, range(2)) == ([], [False, False])
    began = time.monotonic()
    assert read(board, range(2, 4)) == ([], [False, False])
    assert time.monotonic() - began < 0.1
    board._take(monitor((1, 4, 1e4, 0.5)))
    assert read(board, range(4, 5)) == ([0.5], [True])
    assert caplog.messages == [
        "board has given no result for frame 0 within 0.2 s; its fallback reads on until it answers",
        "board answers again",
    ]


def test_frames_of_a_flight_that_was_not_announced_are_not_the_boards(board):
    board._take(monitor((1, 0, 1e4, 0.1)))
    assert read(board, range(1)) == ([], [False])


def refuse(board, monkeypatch, error):
    def wait():
        raise error

    monkeypatch.setitem(
        board._signals, "electrons", SimpleNamespace(set=lambda value, timeout: SimpleNamespace(wait=wait))
    )


def test_a_flight_that_could_not_be_announced_is_not_taken_for_the_one_before(board, monkeypatch, caplog):
    board.expect(1, 0, 1e4)
    refuse(board, monkeypatch, ConnectionError("gone"))
    with pytest.raises(ConnectionError):
        board.expect(2, 2, 1e4)
    # The board saw more frames of the first flight than are in the file, and goes on with the second.
    board._take(monitor(*[(1, k, 1e4, 0.1) for k in range(4)], (2, 0, 1e4, 0.9), (2, 1, 1e4, 0.9)))
    began = time.monotonic()
    assert read(board, range(4)) == ([0.1, 0.1], [True, True, False, False])
    assert time.monotonic() - began < 0.2 and not caplog.messages


def test_a_series_number_that_comes_again_is_not_trusted(board):
    board.expect(1, 0, 1e4)
    board._take(monitor((1, 0, 1e4, 0.1), (1, 1, 1e4, 0.1)))
    with pytest.raises(ValueError, match="series 1 has been flown already, the detector was initialised since"):
        board.expect(1, 2, 1e4)
    board._take(monitor((1, 0, 1e4, 0.9), (1, 1, 1e4, 0.9)))
    assert read(board, range(4)) == ([0.1, 0.1], [True, True, False, False])


def test_a_staging_that_was_ended_meanwhile_leaves_nothing_behind(board, monkeypatch):
    said, testing = [], threading.Event()

    def signal_called(name):
        def set_value(value):
            said.append((name, value))
            return SimpleNamespace(wait=lambda: None)

        return SimpleNamespace(set=set_value, connection_timeout=1.0, subscribe=said.append, clear_sub=lambda _: None)

    for name in ("run", "rule", "latest"):
        monkeypatch.setitem(board._signals, name, signal_called(name))
    monkeypatch.setattr(board, "wait_for_connection", lambda **_: None)
    monkeypatch.setattr(board, "_test", lambda: testing.wait(10))
    staging = board.stage()
    board.unstage().wait(5)
    testing.set()
    with pytest.raises(RuntimeError, match="board was unstaged before it was ready"):
        staging.wait(5)
    assert ("run", "Running") not in said and board._take not in said
    assert said.count(("run", "Stopped")) == 2  # by both


def test_rows_do_not_keep_what_monitors_brought(board):
    board.expect(1, 0, 1e4)
    brought = monitor(*[(1, k, 1e4, 0.0) for k in range(5)])
    board._take(brought)
    assert all(row.base is None for row in board._rows.values())


def test_it_adds_positions_to_flights_of_its_own_microscope_only(board):
    with pytest.raises(ValueError, match="board is the board of no microscope"):
        board.adds(3)
