"""Direct chunk writes by the batch: HDF5 is called by compiled code, without the interpreter's lock."""

from __future__ import annotations

import contextlib
from functools import cache

import h5py
import numpy as np
from h5py import h5d

from ..analysis.kernels import kernel
from .foreign import addresses, call

try:
    from h5py._objects import phil
except ImportError:  # an h5py that has no such lock
    phil, HDF5 = contextlib.nullcontext(), None
else:
    HDF5 = addresses(h5d, "H5Dwrite_chunk")
"""All that calls HDF5 in this process takes turns by h5py's own lock, and so do the functions whose addresses these
are; where they are None, h5py writes chunk by chunk."""


def write_chunks(
    dataset: h5py.Dataset, numbers: np.ndarray, data: np.ndarray, begins: np.ndarray, ends: np.ndarray, mask: int
) -> None:
    """Write chunks as they are stored, of one frame each.

    Parameters
    ----------
    dataset : h5py.Dataset
        Of three axes, which reaches so far.
    numbers : numpy.ndarray
        (n,) int64, of the frames.
    data : numpy.ndarray
        (bytes,) uint8.
    begins, ends : numpy.ndarray
        (n,) int64, where the chunks are in `data`.
    mask : int
        Filters that are left out, a bit each.

    Raises
    ------
    OSError, RuntimeError
        HDF5 could not write.
    """
    done = 0
    while done < len(numbers):
        if HDF5 is not None:
            with phil:
                done = _write(HDF5, dataset.id.id, numbers, data, begins, ends, np.uint32(mask), done)
        if done < len(numbers):  # what HDF5 refuses it refuses again, and h5py says why
            dataset.id.write_direct_chunk((int(numbers[done]), 0, 0), data[begins[done] : ends[done]].tobytes(), mask)
            done += 1


@cache
def load() -> None:
    """Load the compiled code, which takes a while where it has to be compiled: before frames come."""
    none = np.zeros(0, np.int64)
    if HDF5 is not None:
        _write(HDF5, 0, none, np.zeros(0, np.uint8), none, none, np.uint32(0), 0)


@kernel
def _write(hdf5, dataset, numbers, data, begins, ends, mask, done):  # pragma: no cover
    """Write from chunk `done` on; how many are written then."""
    place = np.zeros(3, np.uint64)
    source, where = np.uint64(data.ctypes.data), np.uint64(place.ctypes.data)
    for k in range(done, numbers.size):
        place[0] = numbers[k]
        size, blob = np.uint64(ends[k] - begins[k]), source + np.uint64(begins[k])
        if np.int32(call(hdf5[0], (dataset, np.int64(0), mask, where, size, blob))) < 0:
            return k
    return numbers.size
