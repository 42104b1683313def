"""What lets a frame into its series: the header's word, and an image that can be decoded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .blobs import verify
from .encoding import decompress
from .series import Frame, ProtocolError, Series

Reduce = Callable[[Series, Sequence[Frame]], Sequence[str]]
"""Decodes frames of a series, all at once, and makes of them what it will; gives "" for each, or why it is refused.

It is called by several threads at a time, so it should let go of the interpreter's lock; batches are up to 64 frames.
"""


@dataclass(frozen=True)
class Refusal:
    """A message or frame that was not taken; `number` where it was a frame of `series`."""

    reason: str
    series: int | None = None
    number: int | None = None


class Gate:
    """Checks the frames of one series. Several threads may call `admit`.

    Parameters
    ----------
    series : Series
        What the header said; shape and type of the first frame count where it said nothing.
    reduce : callable, optional
        Decodes what has passed the other checks; None believes the blobs as they are.
    """

    def __init__(self, series: Series, reduce: Reduce | None) -> None:
        self.series = series
        self.shape = series.shape
        self.dtype = series.dtype
        self._channels = frozenset(series.channels)
        self._reduce = reduce
        self._lock = threading.Lock()

    def admit(self, frames: Sequence[Frame]) -> list[Frame | Refusal]:
        """Each frame, or why it is refused."""
        checked: list[Frame | Refusal] = []
        for frame in frames:
            try:
                self._check(frame)
                checked.append(frame)
            except ProtocolError as error:
                checked.append(Refusal(str(error), frame.series, frame.number))
        if self._reduce is None:
            return checked
        good = [frame for frame in checked if isinstance(frame, Frame)]
        reasons = iter(self._reduce(self.series, good) if good else ())
        return [self._judged(item, next(reasons)) if isinstance(item, Frame) else item for item in checked]

    def _judged(self, frame: Frame, reason: str) -> Frame | Refusal:
        return Refusal(reason, frame.series, frame.number) if reason else frame

    def _check(self, frame: Frame) -> None:
        series = self.series
        if series.frames is not None and frame.number >= series.frames:
            raise ProtocolError("frame number", frame.number, f"below {series.frames}, the count in the series' header")
        if len(frame.chunks) != len(self._channels) or any(c.channel not in self._channels for c in frame.chunks):
            raise ProtocolError("channels", [c.channel for c in frame.chunks], ", ".join(series.channels))
        for chunk in frame.chunks:
            if self.shape is None or self.dtype is None:
                self._settle(chunk.shape, chunk.dtype)
            if chunk.shape != self.shape or (
                chunk.dtype is not self.dtype and chunk.dtype.newbyteorder("=") != self.dtype
            ):
                given, allowed = (f"{x} x {y} {t}" for (y, x), t in ((chunk.shape, chunk.dtype), self._agreed()))
                raise ProtocolError("frame", given, f"{allowed}, as the series began")

    def _agreed(self) -> tuple[tuple[int, int], np.dtype]:
        assert self.shape is not None and self.dtype is not None
        return self.shape, self.dtype

    def _settle(self, shape: tuple[int, int], dtype: np.dtype) -> None:
        with self._lock:
            self.shape = self.shape or shape
            self.dtype = self.dtype or dtype.newbyteorder("=")


class Decoder:
    """A `Reduce` that decodes each image: what is damaged is refused now, not found in the file years later.

    Parameters
    ----------
    inspect : callable, optional
        Called with each frame and its images (ny, nx); the next frame overwrites them. Without it images are unpacked,
        which is all that can fail, but their pixels are not put together.
    """

    def __init__(self, inspect: Callable[[Frame, tuple[np.ndarray, ...]], object] | None = None) -> None:
        self._inspect = inspect
        self._scratch = threading.local()  # an image for each thread and channel

    def __call__(self, series: Series, frames: Sequence[Frame]) -> list[str]:
        """Decode; see `Reduce`."""
        if self._inspect is None:
            reasons = verify([chunk for frame in frames for chunk in frame.chunks])
            if not any(reasons):
                return reasons[: len(frames)]
            each = iter(reasons)
            return [next(filter(None, [next(each) for _ in frame.chunks]), "") for frame in frames]
        reasons = []
        for frame in frames:
            try:
                images = tuple(self._image(frame, k) for k in range(len(frame.chunks)))
            except ProtocolError as error:
                reasons.append(str(error))
                continue
            reasons.append("")
            self._inspect(frame, images)
        return reasons

    def _image(self, frame: Frame, k: int) -> np.ndarray:
        chunk = frame.chunks[k]
        shape = chunk.shape[::-1] if chunk.column_major else chunk.shape
        kept: dict = self._scratch.__dict__
        image = kept.get(k)
        if image is None or image.shape != shape or image.dtype != chunk.dtype:
            image = kept[k] = np.empty(shape, chunk.dtype)
        decompress(chunk, image)
        return image.T if chunk.column_major else image
