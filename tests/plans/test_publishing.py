"""What a callback derives becomes a stream of the run, in a real RunEngine."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import pytest
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted
from event_model import DocumentNames, schema_validators

from bluesky_edgestem.callbacks.derived import DerivedStream, number
from bluesky_edgestem.devices.statuses import LostConnection, NamedStatus
from bluesky_edgestem.plans.publishing import declare, publish, wait_for


def run(plan):
    """Run `plan`; gives its documents, each valid."""
    documents = []
    engine = RunEngine({}, call_returns_result=True)
    engine.subscribe(lambda name, doc: documents.append((name, doc)))
    result = engine(plan)
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)
    return documents, result.plan_result


def test_rows_put_by_a_thread_become_one_stream():
    stream = DerivedStream("squares", {"x": number("test"), "square": number("test")})

    def work():
        for x in (1.0, 2.0, 3.0):
            stream.put({"x": x, "square": x * x})
            time.sleep(0.01)
        return "done"

    def plan():
        yield from bps.open_run()
        yield from declare([stream])
        with ThreadPoolExecutor(1) as pool:
            result = yield from publish(stream, pool.submit(work))
        yield from bps.close_run()
        return result

    documents, result = run(plan())
    assert result == "done"
    assert [name for name, _ in documents] == ["start", "descriptor", "event_page", "stop"]
    assert documents[1][1]["name"] == "squares"
    assert documents[2][1]["data"] == {"x": [1.0, 2.0, 3.0], "square": [1.0, 4.0, 9.0]}
    assert documents[3][1]["num_events"] == {"squares": 3}


@pytest.mark.parametrize("delay", [0.1, 0.0], ids=["while it waits", "before"])
def test_what_is_lost_ends_the_wait(delay):
    future: Future[None] = Future()
    lost = NamedStatus("watch the IOC")
    failing = threading.Timer(delay, lost.fail, [LostConnection("lost the connection to SIM:Scan:State_RBV")])
    failing.start()
    if not delay:
        failing.join()
    engine = RunEngine({})
    stops = []
    engine.subscribe(lambda _, doc: stops.append(doc), "stop")
    with pytest.raises(LostConnection, match="SIM:Scan:State_RBV"):
        engine(bpp.run_wrapper(wait_for(future, lost)))
    assert stops[0]["exit_status"] == "fail"
    assert "SIM:Scan:State_RBV" in stops[0]["reason"]


def test_what_ends_well_while_the_plan_waits_does_not_end_the_wait():
    future: Future[str] = Future()
    over = NamedStatus("watch the IOC")
    over.finish()
    threading.Timer(0.1, future.set_result, ["answer"]).start()
    _, result = run(wait_for(future, over))
    assert result == "answer"


def test_rows_are_in_the_run_while_the_rest_is_waited_for(monkeypatch):
    monkeypatch.setattr("bluesky_edgestem.plans.publishing.COLLECT_PERIOD", 0.02)
    stream = DerivedStream("squares", {"x": number("test")})
    future: Future[None] = Future()

    def plan():
        yield from bps.open_run()
        yield from declare([stream])
        stream.put({"x": 1.0})
        yield from publish(stream, future)
        yield from bps.close_run()

    pages = []
    engine = RunEngine({})

    def follow(name, doc):
        if name == "event_page":
            pages.append(doc["data"]["x"])
            if not future.done():  # the second row, and the end, come only once the first is in the run
                stream.put({"x": 2.0})
                future.set_result(None)

    engine.subscribe(follow)
    engine(plan())
    assert pages == [[1.0], [2.0]]


def test_an_exception_in_the_worker_fails_the_run_with_its_message():
    future: Future[None] = Future()
    future.set_exception(RuntimeError("no such phase"))
    engine = RunEngine({})
    stops = []
    engine.subscribe(lambda _, doc: stops.append(doc), "stop")
    with pytest.raises(RuntimeError, match="no such phase"):
        engine(bpp.run_wrapper(wait_for(future)))
    assert stops[0]["exit_status"] == "fail"
    assert "no such phase" in stops[0]["reason"]


def test_a_pause_while_waiting_can_be_resumed():
    future: Future[int] = Future()
    engine = RunEngine({}, call_returns_result=True)
    threading.Timer(0.3, engine.request_pause).start()
    with pytest.raises(RunEngineInterrupted):
        engine(bpp.run_wrapper(wait_for(future)))
    threading.Timer(0.3, future.set_result, (7,)).start()
    assert engine.resume().exit_status == "success"
    assert future.done()


def test_a_row_with_the_wrong_columns_is_refused():
    stream = DerivedStream("squares", {"x": number("test"), "square": number("test")})
    with pytest.raises(ValueError, match=r"stream 'squares'.*missing \['square'\], unknown \['sqare'\]"):
        stream.put({"x": 1.0, "sqare": 1.0})
