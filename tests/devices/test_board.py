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
from bluesky_edgestem.fpga.results import COLUMNS


@pytest.fixture
def board(monkeypatch):
    """A board whose PVs are not asked."""
    made = InferenceBoard("NONE:Board:", name="board")
    quick = SimpleNamespace(set=lambda value: SimpleNamespace(wait=lambda: None))
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


def test_a_monitor_that_was_lost_is_made_up_for_by_the_next(board):
    board.expect(1, 0, 1e4)
    rows = [(1, k, 1e4, k / 10) for k in range(6)]
    board._take(monitor(*rows[:2]))
    board._take(monitor(*rows))
    assert read(board, range(6))[1] == [True] * 6


def test_a_result_for_another_number_of_electrons_is_not_used(board):
    board.expect(1, 0, 1e4)
    board._take(monitor((1, 0, 1e4, 0.1), (1, 1, 5e3, 0.2)))
    assert read(board, range(2)) == ([0.1], [True, False])


def test_a_frame_that_the_board_missed_is_not_waited_for(board, caplog):
    board.expect(1, 0, 1e4)
    board._take(monitor((1, 0, 1e4, 0.1), (1, 2, 1e4, 0.3)))
    began = time.monotonic()
    assert read(board, range(3)) == ([0.1, 0.3], [True, False, True])
    assert time.monotonic() - began < 0.2
    assert not caplog.messages


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


def test_rows_do_not_keep_what_monitors_brought(board):
    board.expect(1, 0, 1e4)
    brought = monitor(*[(1, k, 1e4, 0.0) for k in range(5)])
    board._take(brought)
    assert all(row.base is None for row in board._rows.values())


def test_it_adds_positions_to_flights_of_its_own_microscope_only(board):
    with pytest.raises(ValueError, match="board is the board of no microscope"):
        board.adds(3)
