"""The line from the inference board to the scan coils, on which it asks for more positions; nothing else is on it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path

Ask = Callable[[int, int, float], bool]
Request = Callable[[int, int, float], None]
"""Called with the detector's number of a series, a frame in it, and the distance [nm] of the positions around it."""


class QueueLine:
    """The board's end. What nobody listens to is lost, as on a real line.

    Parameters
    ----------
    path : Path
        Unix socket of the coils' end.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def ask(self, series: int, frame: int, spacing: float) -> bool:
        """Ask for four positions around that of a frame; gives whether the line took it."""
        try:
            self._socket.sendto(json.dumps([series, frame, spacing]).encode(), self._path)
        except OSError:  # nobody there, or more than they have taken off it
            return False
        return True

    def close(self) -> None:
        """Leave the line."""
        self._socket.close()


async def take_requests(path: Path, request: Request) -> asyncio.DatagramTransport:
    """The coils' end, at the Unix socket `path`: `request` is called with each that comes, until it is closed.

    Raises
    ------
    ValueError
        There can be no socket.
    """

    class Requests(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            request(*json.loads(data))

    if path.is_socket():  # of an IOC that is gone
        path.unlink()
    line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        line.bind(str(path))
    except OSError as error:
        line.close()
        raise ValueError(
            f"--queue {path}: there can be no Unix socket ({error.strerror}); give a path of a folder that "
            "can be written to"
        ) from None
    line.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Requests, sock=line)
    return transport
