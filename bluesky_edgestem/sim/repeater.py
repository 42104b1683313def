"""A Channel Access repeater: hands the beacons that one client of this machine can receive to all of them.

EPICS clients look for one on their port and complain after 50 tries without an answer. caproto's does not answer the
empty datagram that the C library registers with, which is why there is one here. The protocol is that of the "CA
repeater" in EPICS's Channel Access Protocol Specification.
"""

from __future__ import annotations

import socket
import struct

Address = tuple[str, int]
BEACON, CONFIRM, REGISTER = 13, 17, 24
_HEADER = struct.Struct(">HHHHI4s")
"""Command, payload size, data type, data count, first parameter, and an address as second."""


def repeat(port: int, host: str = "127.0.0.1") -> None:
    """Repeat on `port` of the address `host` for ever, or return at once where another repeater has that port."""
    clients: dict[Address, socket.socket] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        try:
            own.bind((host, port))
        except OSError:
            return
        while True:
            message, sender = own.recvfrom(0xFFFF)
            address = socket.inet_aton(sender[0])
            if not message or message[:2] == REGISTER.to_bytes(2):
                if sender not in clients:
                    # A socket for each: only a connected one is told that its client has gone.
                    clients[sender] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    clients[sender].connect(sender)
                message = _HEADER.pack(CONFIRM, 0, 0, 0, 0, address)
                _send(message, [sender], clients)
                continue
            if len(message) == _HEADER.size and message[:2] == BEACON.to_bytes(2) and not any(message[-4:]):
                message = message[:-4] + address  # a server may leave it to the repeater to say where it is
            _send(message, [client for client in clients if client != sender], clients)


def _send(message: bytes, receivers: list[Address], clients: dict[Address, socket.socket]) -> None:
    for receiver in receivers:
        try:
            clients[receiver].send(message)
        except OSError:
            clients.pop(receiver).close()
