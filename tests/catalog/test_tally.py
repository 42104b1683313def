"""A run is counted from its documents."""

from bluesky_edgestem.catalog.delivery import Tally

DOCUMENTS = [
    ("start", {"uid": "run", "time": 1.0}),
    ("descriptor", {"uid": "d0", "run_start": "run", "name": "primary", "time": 2.0}),
    ("descriptor", {"uid": "d1", "run_start": "run", "name": "energetics", "time": 2.0}),
    ("stream_resource", {"uid": "r0", "run_start": "run", "data_key": "detector"}),
    ("stream_datum", {"descriptor": "d0", "stream_resource": "r0", "indices": {"start": 0, "stop": 5}}),
    ("stream_datum", {"descriptor": "d0", "stream_resource": "r0", "indices": {"start": 5, "stop": 7}}),
    ("event", {"descriptor": "d1", "seq_num": 1, "time": 3.0}),
    ("event_page", {"descriptor": "d1", "seq_num": [2, 3], "time": [4.0, 9.0]}),
]


def test_rows_and_frames() -> None:
    tally = Tally()
    for name, doc in DOCUMENTS:
        tally.add(name, doc)

    assert tally.rows == {"energetics": 3}
    assert tally.frames == {("primary", "detector"): 7}
    assert not tally.stop


def test_a_run_that_was_never_closed_is_closed_as_aborted() -> None:
    tally = Tally()
    for name, doc in DOCUMENTS:
        tally.add(name, doc)
    stop = tally.closing()

    assert stop["run_start"] == "run"
    assert stop["exit_status"] == "abort"
    assert stop["time"] == 9.0
    assert stop["num_events"] == {"primary": 7, "energetics": 3}
