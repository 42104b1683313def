"""A tap on the detector's link: a copy of the stream for the inference board, which nothing waits for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import zmq

from ..stream.encoding import compress
from ..stream.messages import Messages
from .simplon_config import detector_config
from .simplon_messages import MessagesV1
from .simplon_outbox import send, serve


class StreamTap:
    """What goes over the link a second time, as an optical splitter has it: lost where nobody takes it.

    Parameters
    ----------
    address : str
        To serve on; a port 0 finds a free one, see `address`.
    buffer : int
        Messages that wait for one who is slow.

    Raises
    ------
    OSError
        The address is taken, or is none.
    """

    def __init__(self, address: str = "tcp://127.0.0.1:0", buffer: int = 1000) -> None:
        self._context = zmq.Context()
        self._socket = serve(self._context, address, buffer)
        self.address: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    @property
    def listened(self) -> bool:
        """Whether there is room for a message: somebody takes the stream. He may know of it a little earlier."""
        return bool(self._socket.poll(0, zmq.POLLOUT))

    def send(self, messages: Messages) -> None:
        """Send what there is room for."""
        send(self._socket, messages)

    def close(self) -> None:
        """End the stream; what was not taken is lost."""
        self._context.destroy(0)


class TappedSeries:
    """The stream, version 1, of a detector whose frames do not come from a simulated DECTRIS one.

    Parameters
    ----------
    tap : StreamTap
    number : int
        Of the series.
    shape : tuple[int, int]
        Of a frame [pixels].
    bits : int
        Of a pixel.
    triggers, each : int
        Triggers that will come, and frames at each.
    exposure : float
        Of a frame [s].

    Attributes
    ----------
    sent : int
        Number of the next frame.
    """

    def __init__(
        self, tap: StreamTap, number: int, shape: tuple[int, int], bits: int, triggers: int, each: int, exposure: float
    ) -> None:
        self._tap, self._number, self._exposure = tap, number, exposure
        self.sent = 0
        self._type = np.dtype(f"u{bits // 8}")
        self._messages = MessagesV1()
        parameters = detector_config("1.8.0", shape, bits, triggers, exposure)
        config = {name: parameter.value for name, parameter in parameters.items()}
        config |= {"nimages": each, "trigger_mode": "exts"}
        self._send(self._messages.start(number, "basic", config, triggers * each))

    def _send(self, parts: Sequence[bytes]) -> None:
        self._tap.send(Messages.of([parts]))

    def frame(self, image: np.ndarray) -> None:
        """The next frame (ny, nx)."""
        chunk = compress(image.astype(self._type, copy=False))
        start = self.sent * self._exposure
        self._send(self._messages.frame(self._number, self.sent, [chunk], start, start + self._exposure))
        self.sent += 1

    def end(self) -> None:
        """Nothing more comes."""
        self._send(self._messages.end(self._number))
