"""What the scripts of clients have in common: a microscope that is connected once, and a run with its documents."""

from __future__ import annotations

from collections.abc import Callable

from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted

from bluesky_edgestem.devices.microscope import Microscope

_made: dict[str, Microscope] = {}


def microscope(prefix: str, directory: str) -> Microscope:
    if prefix not in _made:
        _made[prefix] = Microscope(prefix, name="microscope", directory=directory)
        _made[prefix].wait_for_connection(timeout=10)
        _made[prefix].beam.current.set(100.0).wait()
    return _made[prefix]


def run(plan, watch: Callable | None = None):
    """Documents, and what was raised; `watch(engine, name, doc)` sees each document, and a pause is an abort."""
    documents: list = []
    engine = RunEngine({})
    engine.subscribe(lambda name, doc: documents.append((name, doc)))
    if watch is not None:
        engine.subscribe(lambda name, doc: watch(engine, name, doc))
    error = ""
    try:
        engine(plan)
    except RunEngineInterrupted:
        engine.abort("test")
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    return documents, error
