"""Frames of any type of number as the counts that networks read."""

from __future__ import annotations

import numpy as np

#: Why a frame is flagged that holds none.
NO_COUNTS = "no counts: a pixel is negative, not a whole number, or not a number at all"


def check_numbers(dtype: np.dtype) -> None:
    """Raise TypeError where frames of a type cannot be counts."""
    if dtype.kind not in "uif":
        raise TypeError(f"frames are {dtype}; electrons counted are integers, or floating point with whole values")


def saturated_marked(frames: np.ndarray, saturation: int | None) -> np.ndarray:
    """Frames of integers whose saturated pixels have the largest value of their type, by which networks know them.

    Parameters
    ----------
    frames : array (n, ny, nx)
        Returned as they are if they are no integers.
    saturation : int, optional
        Counts at which a pixel saturates, for a detector that keeps fewer bits than the frames have.
    """
    if saturation is None or frames.dtype.kind not in "iu" or saturation >= np.iinfo(frames.dtype).max:
        return frames
    return np.where(frames >= saturation, frames.dtype.type(np.iinfo(frames.dtype).max), frames)


def as_counts(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts, and which frames hold none.

    Parameters
    ----------
    frames : array (n, ny, nx)
        Integers or floating point.

    Returns
    -------
    counts : array (n, ny, nx), unsigned
        `frames` themselves where they are unsigned and of this machine's byte order; zeros in frames that hold no
        counts. What was the largest value of a signed type is the largest of the unsigned one: a saturated pixel stays
        one.
    broken : array (n,), bool
        Whether a pixel is negative, not whole or not finite.

    Raises
    ------
    TypeError
        If frames are not numbers.
    """
    check_numbers(frames.dtype)
    frames = frames.astype(frames.dtype.newbyteorder("="), copy=False)  # files from elsewhere keep the other
    if frames.dtype.kind == "u":
        return frames, np.zeros(len(frames), bool)
    if frames.dtype.kind == "i":
        unsigned = np.dtype(f"u{frames.dtype.itemsize}")
        broken = (frames < 0).any((1, 2))
        counts = frames.astype(unsigned)
        counts[frames == np.iinfo(frames.dtype).max] = np.iinfo(unsigned).max
    else:
        with np.errstate(invalid="ignore"):
            broken = ~((frames >= 0) & (frames < 2**32 - 1) & (frames == np.rint(frames))).all((1, 2))
            counts = frames.astype(np.uint32)
    counts[broken] = 0
    return counts, broken
