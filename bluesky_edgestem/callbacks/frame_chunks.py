"""Frames of a growing HDF5 file, decompressed and reduced by the same core; those that never came are told apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..analysis.reductions import Reducer, Reduction
from ..stream import blobs
from ..stream.frames import gathered
from ..stream.nexus import DETECTOR
from ..stream.series import Chunk, Frame

BITSHUFFLE, LZ4 = 32008, 32004
BITSHUFFLE_LZ4 = 2
GROUP = 64
"""Chunks that are read before they are reduced."""


def saturation_of(file: Any) -> int | None:
    """Counts at which a pixel saturates, as the detector says in an open file; None where it does not."""
    said = file.get(f"{DETECTOR}/saturation_value")
    return int(said[()]) if said is not None and said[()] > 0 else None


def frames_there(dataset: Any, start: int, stop: int) -> np.ndarray:
    """Which of the frames `start` to `stop` of an open h5py dataset (n, ny, nx) are there, (stop - start,) bool.

    A lost frame leaves a chunk of its own that was never written. In files with other chunks all count as there.
    """
    if dataset.chunks != (1, *dataset.shape[1:]):
        return np.ones(stop - start, bool)
    return np.array([_came(dataset, number) for number in range(start, stop)], bool)


def _came(dataset: Any, number: int) -> bool:
    return dataset.id.get_chunk_info_by_coord((number, 0, 0)).byte_offset is not None


def reduce_chunks(dataset: Any, start: int, stop: int, reducer: Reducer) -> tuple[Reduction, np.ndarray]:
    """Reduce frames `start` to `stop` of an open h5py dataset (n, ny, nx).

    Lost frames are told from those without counts, as by `frames_there`.

    Returns
    -------
    Reduction
        Of all frames; 0 for those that are not there.
    numpy.ndarray
        (stop - start,) bool, the frames that are there.

    Raises
    ------
    ValueError
        A chunk cannot be decoded.
    """
    there = np.ones(stop - start, bool)
    single = dataset.chunks == (1, *reducer.shape)
    encoding = _encoding(dataset) if single else None

    def read(number: int, frame: np.ndarray) -> None:
        if single and not _came(dataset, start + number):
            there[number] = False
        dataset.read_direct(frame, np.s_[start + number])

    if encoding is None:
        return reducer.reduce_read(stop - start, dataset.dtype, read), there

    def frame(number: int) -> Frame | None:
        try:
            skipped, data = dataset.id.read_direct_chunk((start + number, 0, 0))
        except (RuntimeError, OSError):
            if _came(dataset, start + number):  # asked only here: it takes HDF5 longer than to read the chunk
                raise
            there[number] = False
            return None
        chunk = Chunk("", reducer.shape, dataset.dtype, "none" if skipped else encoding, data)
        return Frame(0, number, (chunk,), math.nan, math.nan, math.nan)

    out = Reduction.zeros(stop - start, reducer.masks)

    def work(part: slice) -> None:
        for begin in range(part.start, part.stop, GROUP):
            numbers = range(begin, min(begin + GROUP, part.stop))
            for frames in gathered(found for number in numbers if (found := frame(number)) is not None):
                reduced = Reduction.zeros(len(frames), reducer.masks)
                for number, reason in zip(frames.numbers, blobs.reduce(frames, reducer, reduced), strict=True):
                    if reason:
                        raise ValueError(f"frame {start + number} of {dataset.file.filename} cannot be read: {reason}")
                out[frames.numbers] = reduced

    reducer.share(stop - start, work)
    return out, there


def _encoding(dataset: Any) -> str | None:
    """How the stream's decoder calls the dataset's filter; None where HDF5 itself has to decode."""
    filters = dataset.id.get_create_plist()
    if filters.get_nfilters() == 0:
        return "none"
    if filters.get_nfilters() > 1:
        return None
    code, _, values, _ = filters.get_filter(0)
    if code == LZ4:
        return "lz4"
    return "bslz4" if code == BITSHUFFLE and values[-1] == BITSHUFFLE_LZ4 else None
