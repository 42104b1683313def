"""The repeater answers whoever registers, in either way, and hands on beacons to those who are there."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from bluesky_edgestem.sim.repeater import repeat

HEADER = struct.Struct(">HHHHI4s")
LOOPBACK = socket.inet_aton("127.0.0.1")
CONFIRMED = HEADER.pack(17, 0, 0, 0, 0, LOOPBACK)
BEACON = HEADER.pack(13, 0, 13, 5064, 7, bytes(4))


def new() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    made.settimeout(10)
    return made


@pytest.fixture
def repeater() -> Iterator[tuple[str, int]]:
    """Address of a repeater that listens."""
    with new() as free:
        address = free.getsockname()
    threading.Thread(target=repeat, args=(address[1],), daemon=True).start()
    with new() as early:
        early.settimeout(0.1)
        for _ in range(100):
            with contextlib.suppress(TimeoutError):
                early.sendto(b"", address)
                assert early.recv(100) == CONFIRMED
                break
    yield address


@pytest.mark.parametrize("registers", [b"", HEADER.pack(24, 0, 0, 0, 0, LOOPBACK)], ids=["C library", "caproto"])
def test_a_client_is_confirmed_and_hears_beacons_with_the_servers_address(repeater, registers):
    with new() as client, new() as server:
        client.sendto(registers, repeater)
        assert client.recv(100) == CONFIRMED
        server.sendto(BEACON, repeater)
        assert client.recv(100) == BEACON[:-4] + LOOPBACK


def test_a_client_that_went_away_keeps_no_other_from_its_beacons(repeater):
    with new() as stays, new() as server:
        with new() as goes:
            goes.sendto(b"", repeater)
            assert goes.recv(100) == CONFIRMED
        stays.sendto(b"", repeater)
        assert stays.recv(100) == CONFIRMED
        for _ in range(3):
            server.sendto(BEACON, repeater)
            assert stays.recv(100) == BEACON[:-4] + LOOPBACK


def test_a_second_repeater_on_the_port_leaves_it_to_the_first(repeater):
    repeat(repeater[1])
