"""Statuses in order, and what they say."""

from __future__ import annotations

import threading

import pytest

from bluesky_edgestem.devices.statuses import NamedStatus, in_order, together


def test_steps_start_one_after_the_other():
    first, second, started = NamedStatus("first"), NamedStatus("second"), []

    def step(status):
        started.append(status)
        return status

    whole = in_order("both", lambda: step(first), lambda: step(second))
    assert started == [first] and not whole.done
    first.finish()
    first.wait(1)
    assert started == [first, second] and not whole.done
    second.finish()
    whole.wait(1)
    assert whole.success


def test_a_failed_step_ends_the_whole_and_the_rest_does_not_start():
    failing, started = NamedStatus("failing"), []
    whole = in_order("both", lambda: failing, lambda: started.append(1) or NamedStatus("never"))
    failing.fail(OSError("the disk is full"))
    with pytest.raises(OSError, match="the disk is full"):
        whole.wait(1)
    assert started == []
    assert str(whole) == "both: the disk is full", "what the RunEngine puts into the stop document"


def test_a_step_that_raises_fails_the_whole():
    def step():
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        in_order("one", step).wait(1)


def test_together_waits_for_all():
    a, b = NamedStatus("a"), NamedStatus("b")
    both = together("both", a, b)
    b.finish()
    assert not both.done
    a.finish()
    both.wait(1)
    assert both.success


def test_the_first_end_counts():
    status = NamedStatus("raced")
    status.fail(OSError("first"))
    status.finish()
    status.fail(OSError("last"))
    with pytest.raises(OSError, match="first"):
        status.wait(1)


def test_a_timer_fires_only_while_it_is_waited_for():
    late, done = threading.Event(), NamedStatus("done")
    done.after(0.05, late.set)
    done.finish()
    assert not late.wait(0.2)
    waiting = NamedStatus("waiting")
    waiting.after(0.01, lambda: waiting.fail(TimeoutError("too long")))
    with pytest.raises(TimeoutError, match="too long"):
        waiting.wait(1)
