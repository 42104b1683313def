"""Run in .venv-tickit: tickit-devices' simulated Eiger. Takes its configuration, a YAML file.

tickit connects the socket of a stream to itself beside binding it, and a PUSH socket deals its messages out in turn: in
most processes every other one goes where nobody takes it. Here the socket is bound only.
"""

import sys

import aiozmq
from tickit.cli import main

create_zmq_stream = aiozmq.create_zmq_stream


async def bound(kind: int, *, bind: str, connect: str) -> aiozmq.ZmqStream:
    return await create_zmq_stream(kind, bind=bind)


if __name__ == "__main__":
    aiozmq.create_zmq_stream = bound
    main(["--log-level", "WARNING", "all", sys.argv[1]])
