"""Dead and hot pixels of a detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Counts that a gap would hold, if it were none, at least; and what the line beside it has at least of the next one, on
#: one side: with nothing between disks, lines beside their edges have about half.
_EXPECTED, _LEVEL = 100.0, 0.8
_MAY_BE_HOT = 2  #: pixels of a line


@dataclass(frozen=True)
class PixelDefects:
    """Which pixels of a detector do not count electrons; the same in all its frames."""

    dead: np.ndarray  #: (n, n) bool, always 0
    hot: np.ndarray  #: (n, n) float, counts that a pixel adds to every frame on average; 0 for a good one

    @classmethod
    def draw(
        cls, n_pixels: int, rng: np.random.Generator, dead: float = 1e-3, hot: float = 5e-4, hot_counts: float = 100.0
    ) -> PixelDefects:
        """A detector's defects by chance.

        Parameters
        ----------
        n_pixels : int
            Pixels along each side.
        rng : Generator
            Source of the draws.
        dead, hot : float
            Fractions of the pixels, 0 to 0.1.
        hot_counts : float
            Mean over hot pixels of what they add to a frame [counts]; exponentially distributed.
        """
        for name, fraction in (("dead", dead), ("hot", hot)):
            if not 0 <= fraction <= 0.1:
                raise ValueError(f"the fraction of {name} pixels is 0 to 0.1, got {fraction}")
        shape = (n_pixels, n_pixels)
        rate = np.where(rng.uniform(size=shape) < hot, rng.exponential(hot_counts, shape), 0.0)
        return cls(rng.uniform(size=shape) < dead, rate)

    def applied(self, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Frames (..., n, n) uint16 of `diffraction.counted` as this detector gives them, saturating at 65535."""
        with_hot = counts.astype(np.int64) + rng.poisson(self.hot, counts.shape)
        return np.where(self.dead, 0, np.minimum(with_hot, 65535)).astype(np.uint16)


def good_pixels(frames: np.ndarray) -> np.ndarray:
    """Which pixels count like their neighbours, from many frames of one detector.

    A pixel is bad where its mean is far outside the range of its eight neighbours': hot above three times the largest,
    dead below a fifth of the smallest, both beyond what counting noise makes. Neighbours that are bad together, and
    dead pixels where next to nothing is counted, are not found.

    Parameters
    ----------
    frames : array (n, ny, nx), unsigned integers

    Returns
    -------
    array (ny, nx) bool
    """
    from scipy.ndimage import maximum_filter, minimum_filter

    total = frames.sum(0, dtype=float)
    around = np.ones((3, 3), bool)
    around[1, 1] = False
    highest, lowest = maximum_filter(total, footprint=around), minimum_filter(total, footprint=around)
    hot = total > 3 * highest + 6 * np.sqrt(highest + 1) + 20
    # A hot neighbour hides nothing here: it raises the largest, and the dead are told by the smallest.
    dead = (total < 0.2 * lowest) & (lowest - total > 6 * np.sqrt(lowest))
    return ~(hot | dead)


def gaps(frames: np.ndarray) -> np.ndarray:
    """Gaps between a detector's modules that it fills with zeros: whole rows and columns without a count.

    They are between lines that count, one of which is no edge of disks: where nothing is between disks, lines without a
    count are, too. The two pixels of a line that count most may be hot, and count as the third does.

    Parameters
    ----------
    frames : array (n, ny, nx), unsigned integers

    Returns
    -------
    array (ny, nx) bool
    """
    total = frames.sum(0, dtype=float)
    out = np.zeros(total.shape, bool)
    for line in _empty(total):
        out[line] = True
    for line in _empty(total.T):
        out[:, line] = True
    return out


def _empty(total: np.ndarray) -> list[slice]:
    """Runs of rows of `total` (n, m) without a count between rows that end abruptly there."""
    edges = np.diff(np.concatenate([[False], ~total.any(1), [False]]).astype(int))
    third = np.partition(total, -1 - _MAY_BE_HOT, axis=1)[:, -1 - _MAY_BE_HOT]
    counts = np.minimum(total, third[:, None]).sum(1)
    runs = []
    for start, end in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
        if start < 2 or end > len(counts) - 2:
            continue
        beside, farther = counts[[start - 1, end]], counts[[start - 2, end + 1]]
        if beside.min() * (end - start) >= _EXPECTED and ((farther > 0) & (beside >= _LEVEL * farther)).any():
            runs.append(slice(start, end))
    return runs


def share_in(gap: np.ndarray, frames: np.ndarray) -> float:
    """Share of the electrons of frames (n, ny, nx) that a gap (ny, nx), bool, has hidden, about.

    By what stands on either side of it, on average over the frames.
    """
    total = frames.sum(0, dtype=float)
    filled = total.copy()
    for image, hidden in ((filled, gap.all(1)), (filled.T, gap.all(0))):
        at = np.arange(len(hidden))
        for column in image.T:
            column[hidden] = np.expm1(np.interp(at[hidden], at[~hidden], np.log1p(column[~hidden])))
    return float(1 - total.sum() / filled.sum())
