"""Sends many messages at once, so that what is measured with a simulated detector is its receiver."""

from __future__ import annotations

import contextlib
import errno
import sys

import numpy as np
import zmq

from ..analysis.kernels import kernel
from ..stream.foreign import addresses, call
from ..stream.messages import Messages

LIBZMQ = addresses(sys.modules[zmq.backend.Socket.__module__], "zmq_send", "zmq_errno")
"""Addresses of the functions that are called, or None: then pyzmq sends message by message."""


def serve(context: zmq.Context, address: str, buffer: int) -> zmq.Socket:
    """A socket that deals messages out at `address`, with room for `buffer` of them.

    Raises
    ------
    OSError
        The address is taken, or is none; the context is destroyed then.
    """
    socket = context.socket(zmq.PUSH)
    socket.set_hwm(buffer)
    socket.setsockopt(zmq.LINGER, 0)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        context.destroy(0)
        raise OSError(f"cannot stream on {address}: {error}") from None
    send(socket, Messages.of([]))  # loads the compiled code: before frames are due
    return socket


def send(socket: zmq.Socket, messages: Messages, done: int = 0) -> int:
    """Send messages from number `done` on while there is room for them; how many are sent then.

    Raises
    ------
    zmq.ZMQError
    """
    if LIBZMQ is None:
        with contextlib.suppress(zmq.Again):
            while done < len(messages):
                socket.send_multipart(messages[done], zmq.NOBLOCK)
                done += 1
        return done
    address = np.uint64(socket.underlying)
    done, error = _send(LIBZMQ, address, messages.data, messages.ends, messages.firsts, done)
    if error not in (0, errno.EAGAIN, errno.EINTR):
        raise zmq.ZMQError(int(error))
    return done


@kernel
def _send(libzmq, socket, data, ends, firsts, done):  # pragma: no cover
    """Messages that are sent by now, and the error that ended it, 0 where none did."""
    source = np.uint64(data.ctypes.data)
    for message in range(done, firsts.size - 1):
        for k in range(firsts[message], firsts[message + 1]):
            begin = ends[k - 1] if k else 0
            flags = zmq.DONTWAIT if k == firsts[message + 1] - 1 else zmq.DONTWAIT | zmq.SNDMORE
            given = socket, source + np.uint64(begin), np.uint64(ends[k] - begin), np.int32(flags)
            # Only a first part can find no room: the others belong to what was let in with it.
            if np.int32(call(libzmq[0], given)) < 0:
                return message, np.int32(call(libzmq[1], ()))
    return firsts.size - 1, 0
