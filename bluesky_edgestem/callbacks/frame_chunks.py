"""Frames of a growing HDF5 file, decompressed and reduced by the same core; those that never came are told apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..analysis.reductions import Reducer, Reduction
from ..stream.encoding import decompress
from ..stream.series import Chunk

BITSHUFFLE, LZ4 = 32008, 32004
BITSHUFFLE_LZ4 = 2


def reduce_chunks(dataset: Any, start: int, stop: int, reducer: Reducer) -> tuple[Reduction, np.ndarray]:
    """Reduce frames `start` to `stop` of an open h5py dataset (n, ny, nx).

    A lost frame leaves a chunk of its own that was never written: the file knows it from one without counts. In files
    with other chunks every frame counts as there.

    Returns
    -------
    Reduction
        Of all frames; 0 for those that are not there.
    numpy.ndarray
        (stop - start,) bool, the frames that are there.
    """
    there = np.ones(stop - start, bool)
    single = dataset.chunks == (1, *reducer.shape)
    encoding = _encoding(dataset) if single else None

    def came(number: int) -> bool:
        return dataset.id.get_chunk_info_by_coord((number, 0, 0)).byte_offset is not None

    def read(number: int, frame: np.ndarray) -> None:
        if encoding is None:
            if single and not came(start + number):
                there[number] = False
            dataset.read_direct(frame, np.s_[start + number])
            return
        try:
            skipped, data = dataset.id.read_direct_chunk((start + number, 0, 0))
        except (RuntimeError, OSError):
            if came(start + number):  # asked only here: it takes HDF5 longer than to read the chunk
                raise
            there[number] = False
            frame[:] = 0
            return
        decompress(Chunk("", reducer.shape, frame.dtype, "none" if skipped else encoding, data), frame)

    return reducer.reduce_read(stop - start, dataset.dtype, read), there


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
