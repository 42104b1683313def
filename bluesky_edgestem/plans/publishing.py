"""Bring what a callback derived into the run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TypeVar

import bluesky.plan_stubs as bps
from bluesky.utils import Msg, MsgGenerator

from ..callbacks.derived import DerivedStream

Result = TypeVar("Result")


def declare(streams: Sequence[DerivedStream]) -> MsgGenerator[None]:
    """Announce derived streams in the run that is open."""
    for stream in streams:
        yield Msg("declare_stream", None, stream, name=stream.name, collect=True)


def wait_for(future: Future[Result]) -> MsgGenerator[Result]:
    """Wait for `future`, the RunEngine free to pause, abort and suspend; gives its result or raises its exception."""
    yield from bps.checkpoint()
    # After a pause and resume wait_for comes back although nothing is done: hence the loop.
    while not future.done():
        yield from bps.wait_for([lambda: _awaitable(future)])
    return future.result()


def _awaitable(future: Future) -> asyncio.Future:
    waited = asyncio.wrap_future(future)
    # Its exception is raised from `future`; asyncio reports one that nobody asked for.
    waited.add_done_callback(lambda done: done.cancelled() or done.exception())
    return waited


def publish(stream: DerivedStream, future: Future[Result]) -> MsgGenerator[Result]:
    """Wait for `future`, then save the rows of `stream` in the run; gives the future's result."""
    result = yield from wait_for(future)
    yield Msg("collect", stream, name=stream.name)
    return result
