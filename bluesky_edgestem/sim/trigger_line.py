"""The TTL line and the beam between two processes, where the detector's IOC runs apart from the column's."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import asdict
from pathlib import Path

from ..analysis.optics import Optics
from .column import Column


async def send_triggers(column: Column, path: Path) -> asyncio.Server:
    """Let the detector's process plug into the column's trigger line, at the Unix socket `path`.

    Each pulse carries what the beam brings. Without a detector, or with one that has died, pulses are lost as they
    are on a real line.
    """

    async def plugged_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def pulse() -> None:
            state = {
                "x": column.x,
                "y": column.y,
                "blanked": column.blanked or column.parked,
                "current": column.current,
            }
            try:
                writer.write(json.dumps({**state, "optics": asdict(column.optics)}).encode() + b"\n")
                ready = await reader.readline()
            except OSError:
                ready = b""
            if not ready:
                column.listen(None)

        column.listen(pulse)

    return await asyncio.start_unix_server(plugged_in, path)


async def take_triggers(column: Column, path: Path) -> asyncio.Task:
    """Follow the line at `path`: at each pulse, `column` takes what the beam brings and triggers what listens to it."""
    reader, writer = await asyncio.open_unix_connection(path)

    async def follow() -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                state = json.loads(line)
                column.x, column.y = state["x"], state["y"]
                column.blanked, column.current = state["blanked"], state["current"]
                column.optics = Optics(**state["optics"])
                # The column must not hear of the detector's troubles but by its silence.
                with contextlib.suppress(Exception):
                    await column.trigger()
                writer.write(b"ready\n")

    return asyncio.create_task(follow())
