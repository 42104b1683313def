"""Rows of two streams become points; a run ends at its target or its budget, and says which."""

import event_model
import numpy as np
import pytest

from bluesky_edgestem.callbacks.recommender import Recommender
from bluesky_edgestem.geometry import FieldOfView, ScanGrid


class Halving:
    """An optimizer whose standard deviation halves with each batch."""

    target_sd = 0.01
    resolution = 0.85
    map_grid = ScanGrid(FieldOfView.centred(100.0), 3, 2)

    def __init__(self):
        self.points, self.sd = [], 0.04

    def ingest(self, points):
        self.points += points
        self.sd /= 2

    def suggest(self, num_points):
        return np.arange(2.0 * num_points).reshape(num_points, 2)

    def should_stop(self):
        return "target reached" if self.sd <= self.target_sd else None

    def posterior(self):
        return np.zeros((2, 3)), np.full((2, 3), self.sd)


SECONDS = {"acquire_s": 1.0, "descriptors_s": 0.25, "energetics_s": 2.0}


def play(callback, frames):
    """A batch: each of `frames` described, then each with its energy."""
    run = event_model.compose_run()
    callback("start", run.start_doc)
    for name, row in (
        ("descriptors", {"x": 1.0, "exx": 0.01}),
        (
            "energetics",
            {"energy": 0.1, "state": "converged", "gradient_exx": 1.0, "gradient_eyy": 2.0, "gradient_exy": 3.0},
        ),
    ):
        keys = {k: {"source": "test", "dtype": "string" if k == "state" else "number", "shape": []} for k in row}
        keys["frame"] = {"source": "test", "dtype": "integer", "shape": []}
        descriptor = run.compose_descriptor(name=name, data_keys=keys)
        callback("descriptor", descriptor.descriptor_doc)
        for frame in frames:
            data = {**row, "frame": frame}
            callback("event", descriptor.compose_event(data=data, timestamps=dict.fromkeys(data, 0.0)))


def test_points_join_both_streams_and_the_loop_goes_on_until_the_target():
    optimizer = Halving()
    callback = Recommender(optimizer)
    first = callback.initial(4).result(10)
    assert first.positions.shape == (4, 2)
    assert first.stop == ""

    play(callback, [0, 1])
    second = callback.recommend(3, "", SECONDS).result(10)
    assert second.positions.shape == (3, 2)
    assert [p["gradient"] for p in optimizer.points] == [[1.0, 2.0, 3.0]] * 2
    assert all(p["exx"] == 0.01 and p["energy"] == 0.1 for p in optimizer.points)

    play(callback, [2, 3, 4])
    third = callback.recommend(3, "", SECONDS).result(10)
    assert third.positions.shape == (0, 2)
    assert third.stop == "target reached"

    rows = [event["data"] for event in callback.stream.collect()]
    assert [(r["batch"], r["positions"], r["converged"], r["max_sd"], r["stop"]) for r in rows] == [
        (1, 2, 2, 0.02, ""),
        (2, 5, 5, 0.01, "target reached"),
    ]
    assert rows[0]["energy_sd"] == pytest.approx(np.full((2, 3), 0.02))
    assert rows[0]["acquire_s"] == 1.0


def test_a_spent_budget_ends_the_run_and_is_named():
    callback = Recommender(Halving())
    play(callback, [0])
    choice = callback.recommend(3, "the budget of 1 positions is spent", SECONDS).result(10)
    assert choice.stop == "the budget of 1 positions is spent"
    assert len(choice.positions) == 0


class Exhausted(Halving):
    """An optimizer whose field is measured as closely as the probe resolves."""

    def suggest(self, num_points):
        return np.empty((0, 2))


NOTHING_LEFT = "no position is left farther than the probe's resolution, 0.85 nm, from those measured"


def test_a_field_without_a_position_left_ends_the_run_with_that_reason():
    callback = Recommender(Exhausted())
    play(callback, [0])
    choice = callback.recommend(3, "", SECONDS).result(10)
    assert choice.stop == NOTHING_LEFT
    assert choice.positions.shape == (0, 2)
    (event,) = callback.stream.collect()
    assert event["data"]["stop"] == NOTHING_LEFT


def test_an_earlier_run_that_left_nothing_to_measure_is_not_resumed():
    callback = Recommender(Exhausted())
    play(callback, [0])
    with pytest.raises(RuntimeError, match=f"there is nothing to measure: {NOTHING_LEFT}"):
        callback.initial(3).result(10)


def test_an_earlier_run_played_in_counts_as_measured():
    optimizer = Halving()
    callback = Recommender(optimizer)
    play(callback, [0, 1, 2])
    callback.initial(4).result(10)
    assert len(optimizer.points) == 3
    play(callback, [0])
    callback.recommend(4, "", SECONDS).result(10)
    (event,) = callback.stream.collect()
    assert event["data"]["positions"] == 4


def test_a_run_in_which_nothing_gets_an_energy_is_ended_with_the_reason():
    callback = Recommender(Halving())
    run = event_model.compose_run()
    callback("start", run.start_doc)
    keys = {"frame": {"source": "test", "dtype": "integer", "shape": []}}
    described = run.compose_descriptor(name="descriptors", data_keys=keys)
    failed_keys = {
        **keys,
        **{
            k: {"source": "test", "dtype": "number", "shape": []}
            for k in ("gradient_exx", "gradient_eyy", "gradient_exy")
        },
        **{k: {"source": "test", "dtype": "string", "shape": []} for k in ("state", "reason")},
    }
    failed = run.compose_descriptor(name="energetics", data_keys=failed_keys)
    callback("descriptor", described.descriptor_doc)
    callback("descriptor", failed.descriptor_doc)
    nan = float("nan")
    for frame in range(24):
        row = {"frame": frame}
        callback("event", described.compose_event(data=row, timestamps={"frame": 0.0}))
        row |= {
            "gradient_exx": nan,
            "gradient_eyy": nan,
            "gradient_exy": nan,
            "state": "failed",
            "reason": "no disk left",
        }
        callback("event", failed.compose_event(data=row, timestamps=dict.fromkeys(row, 0.0)))
    with pytest.raises(RuntimeError, match=r"none of the last 24 positions gave an energy; .*: no disk left"):
        callback.recommend(3, "", SECONDS).result(10)


def test_positions_of_an_interrupted_batch_count_as_visited():
    optimizer = Halving()
    callback = Recommender(optimizer)
    run = event_model.compose_run()
    callback("start", run.start_doc)
    keys = {k: {"source": "test", "dtype": "number", "shape": []} for k in ("x", "exx")}
    keys["frame"] = {"source": "test", "dtype": "integer", "shape": []}
    described = run.compose_descriptor(name="descriptors", data_keys=keys)
    callback("descriptor", described.descriptor_doc)
    for frame in range(30):
        row = {"frame": frame, "x": float(frame), "exx": 0.01}
        callback("event", described.compose_event(data=row, timestamps=dict.fromkeys(row, 0.0)))
    callback.initial(4).result(10)
    assert [p["x"] for p in optimizer.points] == [float(i) for i in range(30)]
    assert all("energy" not in p for p in optimizer.points)


def test_positions_of_several_interrupted_runs_all_count_as_visited():
    optimizer = Halving()
    callback = Recommender(optimizer)
    for x in (1.0, 2.0):  # each run's only frame is its number 0
        run = event_model.compose_run()
        callback("start", run.start_doc)
        keys = {"x": {"source": "test", "dtype": "number", "shape": []}}
        keys["frame"] = {"source": "test", "dtype": "integer", "shape": []}
        described = run.compose_descriptor(name="descriptors", data_keys=keys)
        callback("descriptor", described.descriptor_doc)
        callback("event", described.compose_event(data={"frame": 0, "x": x}, timestamps={"frame": 0.0, "x": 0.0}))
    callback.initial(4).result(10)
    assert [p["x"] for p in optimizer.points] == [1.0, 2.0]


def test_strains_are_taken_in_before_their_energies():
    class Counting(Halving):
        def ingest(self, points):
            super().ingest([dict(p) for p in points])

    optimizer = Counting()
    callback = Recommender(optimizer)
    run = event_model.compose_run()
    callback("start", run.start_doc)
    keys = {"frame": {"source": "test", "dtype": "integer", "shape": []}}
    described = run.compose_descriptor(name="descriptors", data_keys=keys)
    callback("descriptor", described.descriptor_doc)
    callback("event", described.compose_event(data={"frame": 7}, timestamps={"frame": 0.0}))
    callback.anticipate()
    callback.recommend(3, "", SECONDS).result(10)
    assert optimizer.points == [{"frame": 7}]
    (event,) = callback.stream.collect()
    assert event["data"]["positions"] == 0, "a position counts once its energy is known, or is known to fail"
