"""What can go wrong between a detector and its receiver, on request."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..stream.series import Chunk


@dataclass(frozen=True)
class Faults:
    """By frame number.

    Parameters
    ----------
    drop, duplicate, corrupt, wrong_shape : frozenset[int]
        Frames that are not sent, sent twice, sent with damaged bytes, sent as if they had one row less.
    delay : dict[int, float]
        Time [s] to wait before a frame.
    cut : int, optional
        First frame that is not sent, nor any after it.
    no_end : bool
        Leave the end message out.
    wrong_header : bool
        Announce twice the rows that the frames have.
    """

    drop: frozenset[int] = frozenset()
    duplicate: frozenset[int] = frozenset()
    corrupt: frozenset[int] = frozenset()
    wrong_shape: frozenset[int] = frozenset()
    delay: dict[int, float] = field(default_factory=dict)
    cut: int | None = None
    no_end: bool = False
    wrong_header: bool = False

    def sent(self, number: int, chunk: Chunk) -> list[Chunk]:
        """What is sent of frame `number`: nothing, it, or something else."""
        if number in self.drop or (self.cut is not None and number >= self.cut):
            return []
        if number in self.corrupt:
            chunk = damaged(chunk)
        if number in self.wrong_shape:
            chunk = chunk._replace(shape=(chunk.shape[0] - 1, chunk.shape[1]))
        return [chunk, chunk] if number in self.duplicate else [chunk]


def damaged(chunk: Chunk) -> Chunk:
    """`chunk` with its second half inverted."""
    half = len(chunk.data) // 2
    return chunk._replace(data=chunk.data[:half] + bytes(b ^ 0xFF for b in chunk.data[half:]))
