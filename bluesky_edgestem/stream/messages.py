"""Messages as they come off a socket: one behind the other in one buffer, all that wait taken at once."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import zmq

from ..analysis.kernels import kernel
from .foreign import addresses, call

PARTS = 1024
"""Parts that are taken in one go; a message of more is put together."""
SLOT = 64
"""Bytes of a ``zmq_msg_t``, by libzmq's stable interface."""
LIBZMQ = addresses(
    sys.modules[zmq.backend.Socket.__module__],
    *("zmq_msg_init", "zmq_msg_recv", "zmq_msg_size", "zmq_msg_more", "zmq_msg_data", "zmq_msg_close", "zmq_errno"),
    "memcpy",
)
"""Addresses of the functions that are called, or None."""
INIT, RECV, SIZE, MORE, DATA, CLOSE, ERRNO, MEMCPY = range(8)


@dataclass(frozen=True, eq=False)
class Messages:
    """Messages of one part or several.

    Parameters
    ----------
    data : numpy.ndarray
        (bytes,) uint8, all parts one behind the other.
    ends : numpy.ndarray
        (parts,) int64, where each ends in `data`.
    firsts : numpy.ndarray
        (messages + 1,) int64, which part is the first of each message, and in the end their number.
    """

    data: np.ndarray
    ends: np.ndarray
    firsts: np.ndarray

    @classmethod
    def of(cls, messages: Sequence[Sequence[bytes]]) -> Messages:
        """Messages that are there as bytes."""
        parts = [part for message in messages for part in message]
        return cls(
            np.frombuffer(bytearray().join(parts), np.uint8),
            np.cumsum([len(part) for part in parts], dtype=np.int64),
            np.cumsum([0, *(len(message) for message in messages)], dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.firsts) - 1

    def part(self, k: int) -> bytes:
        """Part `k` of all."""
        return self.data[self.ends[k - 1] if k else 0 : self.ends[k]].tobytes()

    def __getitem__(self, k: int) -> list[bytes]:
        """The parts of message `k`."""
        return [self.part(at) for at in range(self.firsts[k], self.firsts[k + 1])]


class Inbox:
    """Takes messages off a PULL socket; of one thread.

    They are taken by compiled code that calls libzmq itself, without the interpreter's lock, and one by one where
    pyzmq's library cannot be reached from outside.

    Parameters
    ----------
    socket : zmq.Socket
    most : int
        Messages that are taken at once.
    room : int
        Bytes after which no further message is taken at once.
    """

    def __init__(self, socket: zmq.Socket, most: int, room: int) -> None:
        self.socket, self._most, self._room = socket, most, room
        self._slots = np.zeros((PARTS, SLOT // 8), np.uint64)
        self._sizes, self._more = np.zeros(PARTS, np.int64), np.zeros(PARTS, np.bool_)

    def take(self) -> Messages:
        """What waits now, if anything.

        Raises
        ------
        zmq.ZMQError
        """
        if LIBZMQ is None:
            return Messages.of(list(self._one_by_one()))
        pieces = [self._piece(LIBZMQ, False)]
        while len(pieces[-1][2]) and pieces[-1][2][-1]:  # the rest of a message is there when its beginning is
            pieces.append(self._piece(LIBZMQ, True))
        data, sizes, more = pieces[0] if len(pieces) == 1 else map(np.concatenate, zip(*pieces, strict=True))
        return Messages(data, np.cumsum(sizes), np.append(0, np.flatnonzero(~more) + 1))

    def _piece(self, libzmq: tuple, begun: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bytes, sizes of parts, and whether more of its message comes after each."""
        socket = np.uint64(self.socket.underlying)
        most = 1 if begun else self._most  # no more than what has begun
        parts, error = _receive(libzmq, socket, self._slots, self._sizes, self._more, begun, most, self._room)
        sizes = self._sizes[:parts].copy()
        try:
            data = np.empty(sizes.sum(), np.uint8)
        except MemoryError:
            _copy(libzmq, self._slots, sizes, np.empty(0, np.uint8))
            raise
        _copy(libzmq, self._slots, sizes, data)
        if error not in (0, errno.EAGAIN) and not parts:  # else it is met again, when what came is handed over
            raise zmq.ZMQError(int(error))
        return data, sizes, self._more[:parts].copy()

    def _one_by_one(self) -> Iterator[list[bytes]]:
        nbytes = 0
        with contextlib.suppress(zmq.Again):
            for _ in range(self._most):
                parts = self.socket.recv_multipart(zmq.NOBLOCK)
                yield parts
                nbytes += sum(map(len, parts))
                if nbytes >= self._room:
                    return


@kernel
def _receive(libzmq, socket, slots, sizes, more, begun, most, room):  # pragma: no cover
    """Receive into `slots` what waits; the number of parts, and the error that ended it, 0 where none did."""
    nbytes = messages = 0
    for k in range(sizes.size):
        if not begun and (messages == most or nbytes >= room):
            return k, 0
        slot = np.uint64(slots.ctypes.data + k * SLOT)
        call(libzmq[INIT], (slot,))
        while np.int32(call(libzmq[RECV], (slot, socket, np.int32(zmq.DONTWAIT)))) < 0:
            error = np.int32(call(libzmq[ERRNO], ()))
            if error != errno.EINTR:
                return k, error
        sizes[k] = call(libzmq[SIZE], (slot,))
        begun = more[k] = np.int32(call(libzmq[MORE], (slot,))) != 0
        nbytes += sizes[k]
        messages += not begun
    return sizes.size, 0


@kernel
def _copy(libzmq, slots, sizes, data):  # pragma: no cover
    """Put what was received one behind the other, as far as there is room, and let libzmq have its memory back."""
    at, end = np.uint64(data.ctypes.data), np.uint64(data.ctypes.data + data.size)
    for k in range(sizes.size):
        slot = np.uint64(slots.ctypes.data + k * SLOT)
        size = np.uint64(sizes[k])
        if at + size <= end:
            call(libzmq[MEMCPY], (at, np.uint64(call(libzmq[DATA], (slot,))), size))
        call(libzmq[CLOSE], (slot,))
        at += size
