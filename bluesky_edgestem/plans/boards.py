"""The inference board in a run: staged beside the microscope, and what went through it recorded."""

from __future__ import annotations

from collections.abc import Sequence

import bluesky.plan_stubs as bps
from bluesky.utils import MsgGenerator

from ..callbacks.descriptors import Descriptors
from ..devices.board import InferenceBoard


def boards_of(describing: Descriptors) -> list[InferenceBoard]:
    """The board that reads the frames, to be staged; none where a network does."""
    return [describing.board] if isinstance(describing.board, InferenceBoard) else []


def read_boards(boards: Sequence[InferenceBoard]) -> MsgGenerator[None]:
    """Record what went through each: frames, results, losses and the latency histogram, in the stream ``board``."""
    for board in boards:
        yield from bps.trigger_and_read([board], name="board")
