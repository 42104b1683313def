"""Bring what a callback derived into the run."""

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TypeVar

import bluesky.plan_stubs as bps
from bluesky.utils import Msg, MsgGenerator
from ophyd.status import StatusBase

from ..callbacks.derived import DerivedStream

Result = TypeVar("Result")


def declare(streams: Sequence[DerivedStream]) -> MsgGenerator[None]:
    """Announce derived streams in the run that is open."""
    for stream in streams:
        yield Msg("declare_stream", None, stream, name=stream.name, collect=True)


COLLECT_PERIOD = 1.0
"""Time [s] between the documents of rows that come while a plan waits for all of them."""


def wait_for(
    future: Future[Result], lost: StatusBase | None = None, growing: DerivedStream | None = None
) -> MsgGenerator[Result]:
    """Wait for `future`, the RunEngine free to pause, abort and suspend; gives its result or raises its exception.

    Parameters
    ----------
    future : Future
    lost : StatusBase, optional
        Its failure ends the wait and is raised: of what a plan needs again once the future is done, and would otherwise
        miss only then; see `Microscope.watched`.
    growing : DerivedStream, optional
        Its rows are saved in the run as they come.
    """
    yield from bps.checkpoint()
    # After a pause and resume wait_for comes back although nothing is done: hence the loop.
    while not future.done():
        if lost is not None and lost.done and (error := lost.exception()) is not None:
            raise error
        yield from bps.wait_for([lambda: _first(future, lost, None if growing is None else COLLECT_PERIOD)])
        if growing:
            yield Msg("collect", growing, name=growing.name)
    return future.result()


def _first(future: Future, lost: StatusBase | None, period: float | None) -> asyncio.Future:
    """Done once one of both is, or after `period` [s]."""
    loop = asyncio.get_running_loop()
    first = loop.create_future()

    def done(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the RunEngine's loop is over
            loop.call_soon_threadsafe(lambda: first.done() or first.set_result(None))

    future.add_done_callback(done)
    if lost is not None and not lost.done:
        lost.add_callback(done)
    if period is not None:
        loop.call_later(period, done, None)
    return first


def publish(stream: DerivedStream, future: Future[Result], lost: StatusBase | None = None) -> MsgGenerator[Result]:
    """As `wait_for`, saving the rows of `stream` in the run as they come; gives the future's result."""
    result = yield from wait_for(future, lost, stream)
    if stream:
        yield Msg("collect", stream, name=stream.name)
    return result
