"""What the terminal says follows the documents."""

import io
import re

import event_model

from bluesky_edgestem.callbacks.derived import integer, number, text
from bluesky_edgestem.callbacks.progress import Progress

COLUMNS = {
    "batch": integer("t"), "positions": integer("t"), "converged": integer("t"), "max_sd": number("t"),
    "target_sd": number("t"), "stop": text("t"),
}  # fmt: skip


def play(progress, rows):
    run = event_model.compose_run(metadata={"plan_name": "adaptive_map", "target_sd": 0.003, "budget": {"time": 100.0}})
    progress("start", run.start_doc)
    descriptor = run.compose_descriptor(name="optimization", data_keys=COLUMNS)
    progress("descriptor", descriptor.descriptor_doc)
    for row in rows:
        data = dict(zip(COLUMNS, row, strict=True))
        progress("event", descriptor.compose_event(data=data, timestamps=dict.fromkeys(data, 0.0)))
    progress("stop", run.compose_stop())


def test_a_line_a_batch_with_the_maximum_against_the_target_and_why_it_ended():
    out = io.StringIO()
    play(Progress(file=out), [(1, 32, 31, 0.0081, 0.003, ""), (2, 48, 47, 0.0029, 0.003, "target reached")])
    lines = out.getvalue().splitlines()
    assert re.fullmatch(r"run \w{8} \(adaptive_map\) has begun", lines[0])
    first = r"batch 1: 32 positions, 31 energies, max sd 8\.10 meV \(target 3\.00 meV\); at most (\d+) s left"
    assert float(re.fullmatch(first, lines[1])[1]) <= 100
    assert lines[2] == "batch 2: 48 positions, 47 energies, max sd 2.90 meV (target 3.00 meV); target reached"
    assert re.fullmatch(r"run ended \(success\) after \d+ s", lines[3])


def test_the_time_left_goes_by_the_pace_so_far_and_has_a_batch_to_confirm(monkeypatch):
    import time

    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    out = io.StringIO()
    progress = Progress(file=out)

    def tick(row):
        clock[0] += 10
        return row

    rows = [(1, 32, 32, 0.012, 0.003, ""), (2, 48, 48, 0.006, 0.003, ""), (3, 64, 64, 0.003, 0.003, "")]
    play(progress, map(tick, rows))
    # Ten seconds a batch, each of which halves the maximum: one more to the target, and one that confirms it.
    assert [line.rpartition("; ")[2] for line in out.getvalue().splitlines()[2:4]] == [
        "about 20 s left",
        "about 10 s left",
    ]


def test_jobs_are_counted_while_they_run():
    class Watched(io.StringIO):
        def isatty(self):
            return True

    import time

    out = Watched()
    progress = Progress(lambda: (3, 16), file=out, period=0.05)
    run = event_model.compose_run()
    progress("start", run.start_doc)
    deadline = time.monotonic() + 5
    while "DFT" not in out.getvalue() and time.monotonic() < deadline:
        time.sleep(0.02)
    progress("stop", run.compose_stop())
    assert re.search(r"DFT 3 of 16, \d+ s, time left unknown", out.getvalue())


def test_an_estimate_that_has_run_out_is_never_below_zero(monkeypatch):
    import time

    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    out = io.StringIO()
    progress = Progress(file=out)

    def late(row):
        clock[0] += 60  # of a budget of 100 s
        return row

    play(progress, map(late, [(1, 32, 32, 0.012, 0.003, ""), (2, 48, 48, 0.006, 0.003, "")]))
    assert out.getvalue().splitlines()[2].endswith("; about 0 s left")
