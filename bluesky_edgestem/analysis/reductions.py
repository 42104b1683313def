"""Frames to numbers at the rate of the memory: sum, centre of mass and virtual detectors in one pass.

The compiled kernels read each frame once, as the unsigned integers that it is made of, and add in integers: sums of
counts are exact, and equal whatever the number of threads. They hold no lock of the interpreter.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from .bit_planes import Words, fits
from .kernels import kernel, load
from .sparse_masks import SparseMasks

PIXEL_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.uint32))
"""Pixels that the kernels know."""
SUM_TYPES = (np.dtype(np.uint16), np.dtype(np.uint32), np.dtype(np.uint64))
"""Sums of a row or a column, narrowest first: the narrower, the more of them an instruction adds."""
BLOCK = 1 << 19
"""Bytes of frames that a core reads before it reduces them; they fit its second-level cache."""


@dataclass(frozen=True)
class Reduction:
    """What `n` frames were reduced to.

    Parameters
    ----------
    shape : tuple[int, int]
        Of a frame (ny, nx) [pixels].
    total : numpy.ndarray
        (n,) uint64, the sum of each frame [counts].
    moments : numpy.ndarray
        (n, 2) uint64, the sums of count times column, and of count times row, both from 0.
    counted : numpy.ndarray
        (n, masks of bool) uint64, their virtual detectors [counts].
    weighted : numpy.ndarray
        (n, masks of weights) float64, their virtual detectors.
    masks : SparseMasks
        The virtual detectors.
    """

    shape: tuple[int, int]
    total: np.ndarray
    moments: np.ndarray
    counted: np.ndarray
    weighted: np.ndarray
    masks: SparseMasks

    @classmethod
    def zeros(cls, n: int, masks: SparseMasks) -> Reduction:
        """Room for `n` frames."""
        return cls(
            masks.shape,
            np.zeros(n, np.uint64),
            np.zeros((n, 2), np.uint64),
            np.zeros((n, len(masks.counted_names)), np.uint64),
            np.zeros((n, len(masks.weighted_names))),
            masks,
        )

    def __len__(self) -> int:
        return len(self.total)

    def __getitem__(self, part: slice) -> Reduction:
        """A view of some of the frames."""
        arrays = self.total[part], self.moments[part], self.counted[part], self.weighted[part]
        return Reduction(self.shape, *arrays, self.masks)

    def __setitem__(self, places: Sequence[int] | np.ndarray, found: Reduction) -> None:
        """Take over frames that were reduced apart."""
        self.total[places], self.moments[places] = found.total, found.moments
        self.counted[places], self.weighted[places] = found.counted, found.weighted

    @property
    def empty(self) -> int:
        """Frames without a count."""
        return int(np.count_nonzero(self.total == 0))

    @property
    def virtual(self) -> dict[str, np.ndarray]:
        """Virtual detectors by name, (n,) each: uint64 [counts] for masks of bool, float64 for weights."""
        counted = dict(zip(self.masks.counted_names, self.counted.T, strict=True))
        weighted = dict(zip(self.masks.weighted_names, self.weighted.T, strict=True))
        return {name: (counted | weighted)[name] for name in self.masks.names}

    def centre_of_mass(self, centre: tuple[float, float] | None = None) -> np.ndarray:
        """Centres of mass x, y (n, 2) [pixels]; nan for an empty frame.

        Parameters
        ----------
        centre : (x, y), optional
            Where they are counted from [pixels]; without it the middle of the frame, ((nx - 1)/2, (ny - 1)/2).
        """
        ny, nx = self.shape
        origin = ((nx - 1) / 2, (ny - 1) / 2) if centre is None else centre
        total = np.where(self.total == 0, np.nan, self.total.astype(float))
        return self.moments / total[:, None] - np.asarray(origin)


class Reducer:
    """Reduces frames of one shape.

    Parameters
    ----------
    shape : tuple[int, int]
        Of a frame (ny, nx) [pixels].
    masks : mapping of str to numpy.ndarray, optional
        Virtual detectors (ny, nx): of bool, the pixels that count; of float, a weight for each.
    threads : int
        Cores to use. The first call in a process loads the kernels from numba's cache, or compiles them.

    Raises
    ------
    ValueError
        A mask has another shape than the frames, or no thread is asked for.
    """

    def __init__(self, shape: tuple[int, int], masks: Mapping[str, np.ndarray] | None = None, threads: int = 1) -> None:
        if threads < 1:
            raise ValueError(f"reducing frames takes at least 1 thread, got {threads}")
        self.masks = SparseMasks.of(shape, masks or {})
        self.shape, self.threads = self.masks.shape, threads
        if threads > 1:
            load()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="reduce") if threads > 1 else None
        self._own = threading.local()

    @cached_property
    def words(self) -> Words | None:
        """For frames that are bitshuffled still; None where shape or weights need them decoded."""
        if self.masks.weighted_names or not fits(self.shape):
            return None
        return Words.of(self.shape, self.masks.counted_arrays())

    def reduce(self, frames: np.ndarray) -> Reduction:
        """Reduce `frames` (n, ny, nx) uint8, uint16 or uint32, as they lie in memory.

        Raises
        ------
        TypeError
            The pixels are of another type, or swapped.
        ValueError
            The frames have another shape, do not lie row by row, or their moments could exceed 64 bits.
        """
        check_frames(frames, self.shape)
        out = Reduction.zeros(len(frames), self.masks)
        self.share(len(frames), lambda part: self.reduce_into(frames[part], out[part]))
        return out

    def reduce_read(self, n: int, dtype: np.dtype, read: Callable[[int, np.ndarray], None]) -> Reduction:
        """Reduce `n` frames that lie elsewhere, each core what it has just read: the frames stay in its cache.

        Parameters
        ----------
        n : int
        dtype : numpy.dtype
            Of the pixels.
        read : callable
            Called with a frame's number below `n` and an array (ny, nx) of `dtype` to fill, from several threads.
        """
        out = Reduction.zeros(n, self.masks)
        block = max(1, BLOCK // (self.shape[0] * self.shape[1] * dtype.itemsize))

        def work(part: slice) -> None:
            frames = np.empty((block, *self.shape), dtype)
            for begin in range(part.start, part.stop, block):
                end = min(begin + block, part.stop)
                for number in range(begin, end):
                    read(number, frames[number - begin])
                self.reduce_into(frames[: end - begin], out[begin:end])

        self.share(n, work)
        return out

    def share(self, n: int, work: Callable[[slice], None]) -> None:
        """Have each thread do its part of `n` frames."""
        if self._pool is None:
            work(slice(0, n))
            return
        edges = np.linspace(0, n, self.threads + 1).astype(int).tolist()
        for done in [self._pool.submit(work, slice(a, b)) for a, b in pairwise(edges)]:
            done.result()

    def reduce_into(self, frames: np.ndarray, out: Reduction) -> None:
        """Reduce `frames` in the calling thread alone, into `out`, of the same length; raises as `reduce` does."""
        check_frames(frames, self.shape)
        if len(frames) != len(out):
            raise ValueError(f"{len(frames)} frames do not go into a reduction of {len(out)}")
        masks = self.masks
        columns = self._columns(frames.dtype)
        _reduce(frames, columns, *masks.counted, out.total, out.moments, out.counted)
        if masks.weighted_names:
            _weigh(frames, *masks.weighted, *masks.weights, out.weighted)

    def _columns(self, dtype: np.dtype) -> np.ndarray:
        """Room for the sums of columns, one for each thread, in the narrowest integers that hold any row or column."""
        largest = max(self.shape) * (2 ** (8 * dtype.itemsize) - 1)
        wide = next(t for t in SUM_TYPES if largest < 2 ** (8 * t.itemsize))
        columns = getattr(self._own, wide.name, None)
        if columns is None:
            columns = np.zeros(self.shape[1], wide)
            setattr(self._own, wide.name, columns)
        return columns


def check_frames(frames: np.ndarray, shape: tuple[int, int]) -> None:
    """Raise where `frames` are none that the kernels can reduce; see `Reducer.reduce`."""
    if frames.dtype not in PIXEL_TYPES or not frames.dtype.isnative:
        raise TypeError(
            f"frames are {frames.dtype.str}; allowed are {', '.join(t.name for t in PIXEL_TYPES)} in native byte order"
        )
    if frames.ndim != 3 or frames.shape[1:] != shape:
        raise ValueError(f"frames are {frames.shape}; allowed is (n, {shape[0]}, {shape[1]})")
    if not frames.flags.c_contiguous:
        raise ValueError("frames have to lie in memory row by row; use numpy.ascontiguousarray")
    check_pixels(frames.dtype, shape)


def check_pixels(dtype: np.dtype, shape: tuple[int, int]) -> None:
    """Raise ValueError where the moments of frames of this type and shape (ny, nx) could exceed 64 bits."""
    ny, nx = shape
    if nx * ny * max(nx, ny) * (1 << 8 * dtype.itemsize) > 1 << 64:
        raise ValueError(
            f"the moments of saturated {nx} x {ny} frames of {dtype} exceed 64 bits; bin the frames, or record "
            "them with fewer bits"
        )


@kernel
def _reduce(frames, columns, rows, begins, ends, owners, total, moments, counted):  # pragma: no cover
    """Sums of counts, of columns and of rows; then, with the frame in the core's cache, of the stretches of masks.

    The sums of columns are a vector: the inner loops compile to vector instructions on narrow integers.
    """
    n, ny, nx = frames.shape
    wide = columns.dtype.type
    for i in range(n):
        columns[:] = 0
        counts = np.uint64(0)
        moment_y = np.uint64(0)
        for y in range(ny):
            line = frames[i, y]
            row = wide(0)
            for x in range(nx):
                count = wide(line[x])
                row = wide(row + count)
                columns[x] = wide(columns[x] + count)
            counts += np.uint64(row)
            moment_y += np.uint64(y) * np.uint64(row)
        moment_x = np.uint64(0)
        for x in range(nx):
            moment_x += np.uint64(x) * np.uint64(columns[x])
        total[i] = counts
        moments[i, 0] = moment_x
        moments[i, 1] = moment_y
        for k in range(rows.size):
            stretch = frames[i, rows[k], begins[k] : ends[k]]
            part = wide(0)
            for x in range(stretch.size):
                part = wide(part + wide(stretch[x]))
            counted[i, owners[k]] += np.uint64(part)


@kernel(fastmath={"reassoc", "contract"})
def _weigh(frames, rows, begins, ends, owners, offsets, values, weighted):  # pragma: no cover
    """Weighted sums over stretches of rows."""
    for i in range(frames.shape[0]):
        for k in range(rows.size):
            stretch = frames[i, rows[k], begins[k] : ends[k]]
            weights = values[offsets[k] :]
            part = 0.0
            for x in range(stretch.size):
                part += weights[x] * np.float64(stretch[x])
            weighted[i, owners[k]] += part
