"""What is taken off a socket, by compiled code or by pyzmq."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
import zmq

from bluesky_edgestem.stream import messages as module
from bluesky_edgestem.stream.messages import PARTS, Inbox, Messages

SENT = [
    [b"one part"],
    [b""],
    [b"", b"more", b""],
    [bytes([k % 256]) * k for k in range(PARTS)],
    [b"x"] * (2 * PARTS + 1),
    [b"a", bytes(100_000), b"b", b"c"],
    [b"the last"],
]
"""Messages that end with a go, before it or after it; parts that libzmq holds in different ways."""


@pytest.fixture(params=["compiled", "pyzmq"])
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[zmq.Socket, zmq.Socket]]:
    """Sockets that push and pull, their messages taken in either way."""
    if request.param == "pyzmq":
        monkeypatch.setattr(module, "LIBZMQ", None)
    with zmq.Context() as context, context.socket(zmq.PUSH) as push, context.socket(zmq.PULL) as pull:
        for socket in (push, pull):
            socket.set_hwm(0)
            socket.setsockopt(zmq.LINGER, 0)
        pull.connect(f"tcp://127.0.0.1:{push.bind_to_random_port('tcp://127.0.0.1')}")
        yield push, pull


def take(pull: zmq.Socket, inbox: Inbox, count: int) -> list[Messages]:
    """What is taken at once, until there are `count` messages."""
    taken: list[Messages] = []
    while sum(map(len, taken)) < count:
        assert pull.poll(60_000)
        taken.append(inbox.take())
    return taken


def test_libzmq_can_be_reached() -> None:
    """Where it cannot, nothing fails, and everything is slow."""
    assert module.LIBZMQ is not None and all(module.LIBZMQ)


def test_messages_come_as_they_were_sent(pair: tuple[zmq.Socket, zmq.Socket]) -> None:
    push, pull = pair
    inbox = Inbox(pull, 3, 1 << 20)
    assert len(inbox.take()) == 0
    for _ in range(2):
        for message in SENT:
            push.send_multipart(message)
        taken = take(pull, inbox, len(SENT))
        assert [messages[k] for messages in taken for k in range(len(messages))] == SENT
        assert max(map(len, taken)) <= 3
        for messages in taken:
            assert messages.data.nbytes == sum(len(part) for k in range(len(messages)) for part in messages[k])


def test_a_message_of_many_parts_brings_no_more_messages_than_were_asked_for(
    pair: tuple[zmq.Socket, zmq.Socket],
) -> None:
    push, pull = pair
    sent = [[b"a"], [b"b"], [b"x"] * (PARTS + 1), [b"c"], [b"d"], [b"e"]]
    for message in sent:
        push.send_multipart(message)
    time.sleep(0.3)  # all are there when the first is taken
    taken = take(pull, Inbox(pull, 3, 1 << 20), len(sent))
    assert [messages[k] for messages in taken for k in range(len(messages))] == sent
    assert list(map(len, taken)) == [3, 3]


def test_no_more_bytes_are_taken_at_once_than_there_is_room_for_but_for_the_last_message(
    pair: tuple[zmq.Socket, zmq.Socket],
) -> None:
    push, pull = pair
    for _ in range(50):
        push.send_multipart([b"head", bytes(600)])
    push.send(bytes(5000))
    taken = take(pull, Inbox(pull, 64, 1000), 51)
    assert sum(map(len, taken)) == 51
    assert all(len(messages) <= 2 for messages in taken)
    assert taken[-1].part(len(taken[-1].ends) - 1) == bytes(5000)


def test_messages_of_bytes() -> None:
    messages = Messages.of(SENT)
    assert len(messages) == len(SENT)
    assert [messages[k] for k in range(len(SENT))] == SENT
    assert messages.part(1) == b"" and messages.part(3) == b"more"
    assert len(Messages.of([])) == 0
    np.testing.assert_array_equal(Messages.of([]).firsts, [0])
