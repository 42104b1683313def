"""Descriptors become energies: one row a position, in order, and a failure is a row too."""

from concurrent.futures import Future

import event_model
import numpy as np
import pytest

from bluesky_edgestem.callbacks.derived import DerivedStream
from bluesky_edgestem.callbacks.descriptors import Descriptors
from bluesky_edgestem.callbacks.energetics import Energetics
from bluesky_edgestem.energetics import EnergyResult


class Asked:
    """Energies that the test answers when and how it likes."""

    method_name = "test"

    def __init__(self):
        self.calls = []

    def submit(self, formula, strain):
        self.calls.append((formula, strain, Future()))
        return self.calls[-1][2]


def result(energy=0.01, gradient=(1.0, 0.0, 0.0), state="converged", reason=""):
    return EnergyResult("MoS2", (0.0, 0.0, 0.0), energy, gradient, state, reason, False, 2.0, "test")


ROW = {
    "frame": 0, "x": 0.0, "y": 0.0, "exx": 0.01, "eyy": 0.0, "exy": 0.0, "exx_sd": 1e-3, "eyy_sd": 2e-3, "exy_sd": 3e-3,
    "cov_exx_eyy": 0.0, "cov_exx_exy": 0.0, "cov_eyy_exy": 0.0, "rotation": 0.0, "rotation_sd": 1e-3, "centre_x": 0.1,
    "centre_y": -0.2, "centre_x_sd": 0.01, "centre_y_sd": 0.01, "phase": "MoS2", "phase_probability": 1.0,
    "flagged": "",
}  # fmt: skip


def play(callback: Energetics, rows: list[dict]) -> None:
    """The documents of a run whose stream ``descriptors`` has `rows`."""
    stream: DerivedStream = Descriptors(None).stream  # type: ignore[arg-type]
    run = event_model.compose_run()
    callback("start", run.start_doc)
    descriptor = run.compose_descriptor(name="descriptors", data_keys=stream.describe_collect())
    callback("descriptor", descriptor.descriptor_doc)
    for row in rows:
        callback("event", descriptor.compose_event(data=row, timestamps=dict.fromkeys(row, 0.0)))


def rows_of(callback: Energetics) -> list[dict]:
    callback.finished().result(10)
    return [event["data"] for event in callback.stream.collect()]


def test_rows_come_in_the_order_of_positions_not_of_completion():
    asked = Asked()
    callback = Energetics(asked)
    play(callback, [{**ROW, "frame": i, "exx": 0.01 * i} for i in range(3)])
    for i in (2, 0, 1):
        asked.calls[i][2].set_result(result(energy=float(i)))
    rows = rows_of(callback)
    assert [(row["frame"], row["energy"]) for row in rows] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert (callback.submitted, callback.done) == (3, 3)


def test_a_row_comes_as_soon_as_all_before_it_have_theirs():
    asked = Asked()
    callback = Energetics(asked)
    play(callback, [{**ROW, "frame": i} for i in range(3)])
    finished = callback.finished()
    counts = []
    for i in (1, 0, 2):
        asked.calls[i][2].set_result(result())
        counts.append(len(callback.stream))
    assert counts == [0, 2, 3]
    assert finished.done()


def test_strain_is_handed_over_in_crystal_axes():
    asked = Asked()
    # A crystal turned by 30° and stretched along x by 1 %.
    play(Energetics(asked), [{**ROW, "rotation": np.pi / 6}])
    formula, strain, _ = asked.calls[0]
    assert formula == "MoS2"
    assert strain == pytest.approx((0.0075, 0.0025, -0.01 * np.sqrt(3) / 4), abs=1e-12)


def test_energy_sd_follows_the_gradient():
    asked = Asked()
    callback = Energetics(asked)
    play(callback, [ROW])
    asked.calls[0][2].set_result(result(gradient=(2.0, 1.0, 0.0)))
    (row,) = rows_of(callback)
    assert row["energy_sd"] == pytest.approx(np.hypot(2.0 * 1e-3, 1.0 * 2e-3), rel=1e-9)


def test_a_flagged_descriptor_is_not_computed_and_says_why():
    asked = Asked()
    callback = Energetics(asked)
    play(callback, [{**ROW, "flagged": "no electrons"}])
    (row,) = rows_of(callback)
    assert asked.calls == []
    assert row["state"] == "failed"
    assert row["reason"] == "the descriptor is flagged: no electrons"
    assert np.isnan(row["energy"])


def test_a_failed_calculation_is_a_row_with_its_reason():
    asked = Asked()
    callback = Energetics(asked)
    play(callback, [ROW])
    nan = float("nan")
    asked.calls[0][2].set_result(result(nan, (nan, nan, nan), "failed", "no convergence in 100 steps"))
    (row,) = rows_of(callback)
    assert (row["state"], row["reason"]) == ("failed", "no convergence in 100 steps")
    assert np.isnan(row["energy_sd"])


def test_calculations_still_waiting_are_cancelled_when_the_run_ends():
    asked = Asked()
    callback = Energetics(asked)
    play(callback, [ROW])
    callback("stop", {})
    assert asked.calls[0][2].cancelled()
