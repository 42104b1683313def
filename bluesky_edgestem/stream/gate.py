"""What lets a frame into its series: the header's word, and an image that can be decoded."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from .encoding import decompress
from .series import Frame, ProtocolError, Series

Inspect = Callable[[Frame, tuple[np.ndarray, ...]], object]
"""Called with each frame that is let in and its images, (ny, nx) each, which are overwritten by the next frame."""


class Gate:
    """Checks the frames of one series. Several threads may call `admit`.

    Parameters
    ----------
    series : Series
        What the header said; shape and type of the first frame count where it said nothing.
    verify : bool
        Decode each image: what is damaged is refused here, instead of being found in the file years later.
    inspect : callable, optional
        Gets each frame and its decoded images in the thread that decoded them, which shares nothing with the others.
    """

    def __init__(self, series: Series, *, verify: bool = True, inspect: Inspect | None = None) -> None:
        self.series = series
        self.shape = series.shape
        self.dtype = series.dtype
        self._channels = frozenset(series.channels)
        self._decode = verify or inspect is not None
        self._inspect = inspect
        self._lock = threading.Lock()
        self._scratch = threading.local()

    def admit(self, frame: Frame) -> None:
        """Check `frame`.

        Raises
        ------
        ProtocolError
            It does not belong here, or cannot be decoded.
        """
        series = self.series
        if series.frames is not None and frame.number >= series.frames:
            raise ProtocolError("frame number", frame.number, f"below {series.frames}, the count in the series' header")
        if len(frame.chunks) != len(self._channels) or any(c.channel not in self._channels for c in frame.chunks):
            raise ProtocolError("channels", [c.channel for c in frame.chunks], ", ".join(series.channels))
        for chunk in frame.chunks:
            if self.shape is None or self.dtype is None:
                self._settle(chunk.shape, chunk.dtype)
            if chunk.shape != self.shape or chunk.dtype.newbyteorder("=") != self.dtype:
                given, allowed = (f"{x} x {y} {t}" for (y, x), t in ((chunk.shape, chunk.dtype), self._agreed()))
                raise ProtocolError("frame", given, f"{allowed}, as the series began")
        if self._decode:
            images = tuple(self._image(frame, k) for k in range(len(frame.chunks)))
            if self._inspect is not None:
                self._inspect(frame, images)

    def _agreed(self) -> tuple[tuple[int, int], np.dtype]:
        assert self.shape is not None and self.dtype is not None
        return self.shape, self.dtype

    def _settle(self, shape: tuple[int, int], dtype: np.dtype) -> None:
        with self._lock:
            self.shape = self.shape or shape
            self.dtype = self.dtype or dtype.newbyteorder("=")

    def _image(self, frame: Frame, k: int) -> np.ndarray:
        chunk = frame.chunks[k]
        shape = chunk.shape[::-1] if chunk.column_major else chunk.shape
        kept: dict = self._scratch.__dict__
        key = k, shape, chunk.dtype
        if key not in kept:
            kept[key] = np.empty(shape, chunk.dtype)
        image = decompress(chunk, kept[key])
        return image.T if chunk.column_major else image
