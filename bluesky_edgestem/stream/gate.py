"""What lets a frame into its series: the header's word, and an image that can be decoded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .blobs import verify
from .encoding import decompress
from .frames import Frames, Layout
from .series import Frame, ProtocolError, Series

Reduce = Callable[[Series, Frames], Sequence[str]]
"""Decodes frames of a series, all at once, and makes of them what it will; gives "" for each, or why it is refused.

It is called by several threads at a time, so it should let go of the interpreter's lock.
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

    def admit(self, frames: Frames) -> tuple[Frames, list[Refusal]]:
        """Those that belong to the series, and why the others are refused."""
        refused: list[Refusal] = []
        count = self.series.frames
        if count is not None and frames.numbers.max(initial=-1) >= count:
            good = frames.numbers < count
            for number in frames.numbers[~good].tolist():
                error = ProtocolError("frame number", number, f"below {count}, the count in the series' header")
                refused.append(Refusal(str(error), frames.series, number))
            frames = frames[good]
        if not len(frames):
            return frames, refused
        try:
            self._check(frames.layouts)
        except ProtocolError as error:
            refused += [Refusal(str(error), frames.series, number) for number in frames.numbers.tolist()]
            return frames[:0], refused
        reasons = self._reduce(self.series, frames) if self._reduce is not None else ()
        if not any(reasons):
            return frames, refused
        for number, reason in zip(frames.numbers.tolist(), reasons, strict=True):
            if reason:
                refused.append(Refusal(reason, frames.series, number))
        return frames[np.array([not reason for reason in reasons])], refused

    def _check(self, layouts: Sequence[Layout]) -> None:
        names = [layout.channel for layout in layouts]
        if len(names) != len(self._channels) or not self._channels.issuperset(names):
            raise ProtocolError("channels", names, ", ".join(self.series.channels))
        for _, shape, dtype, *_ in layouts:
            if self.shape is None or self.dtype is None:
                self._settle(shape, dtype)
            if (shape, dtype.newbyteorder("=")) != (self.shape, self.dtype):
                given, allowed = (f"{x} x {y} {t}" for (y, x), t in ((shape, dtype), self._agreed()))
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

    def __call__(self, series: Series, frames: Frames) -> list[str]:
        """Decode; see `Reduce`."""
        if self._inspect is None:
            return verify(frames)
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
