"""The inference board in a run: staged beside the microscope, and what went through it recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import MsgGenerator

from ..callbacks.descriptors import Descriptors
from ..devices.board import InferenceBoard


def boards_of(describing: Descriptors) -> list[InferenceBoard]:
    """The board that reads the frames, to be staged; none where a network does."""
    return [describing.board] if isinstance(describing.board, InferenceBoard) else []


def describe_boards(boards: Sequence[InferenceBoard]) -> dict[str, Any]:
    """For the run's start document: which build reads its frames."""
    if not boards:
        return {}
    return {"board": {"build": boards[0].model.get(), "hash": boards[0].model_hash.get()}}


def read_boards(boards: Sequence[InferenceBoard]) -> MsgGenerator[None]:
    """Record what went through each: frames, results, losses and the latency histogram, in the stream ``board``."""
    for board in boards:
        yield from bps.trigger_and_read([board], name="board")
