"""The file that the detector's HDF5 plugin writes while others read it (SWMR)."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

FRAMES = "/entry/data/data"
ATTRIBUTES = "/entry/instrument/NDAttributes"
ATTRIBUTE_CHUNK = 256


def cause(error: Exception) -> str:
    """What the system said, out of HDF5's long account of it."""
    said = re.search("error message = '([^']+)'", str(error))
    return said[1] if said else str(getattr(error, "strerror", None) or error)


class FrameFile:
    """Frames and the probe positions they were taken at, in areaDetector's layout.

    Parameters
    ----------
    path : Path
        A file that does not exist yet.
    shape : tuple[int, int]
        Of one frame (ny, nx) [pixels].
    pixel : numpy.dtype
        Of the frames.
    compression : {"None", "zlib", "BSLZ4"}
        Of the frames; BSLZ4 (bitshuffle and LZ4) is what the real detector sends.
    swmr : bool
        Let others read while this writes.

    Raises
    ------
    OSError
        The file exists, or cannot be written.
    """

    def __init__(
        self, path: Path, shape: tuple[int, int], pixel: np.dtype, compression: str = "BSLZ4", swmr: bool = True
    ) -> None:
        filters = {"None": {}, "zlib": {"compression": "gzip"}, "BSLZ4": hdf5plugin.Bitshuffle(cname="lz4")}
        self._file = h5py.File(path, "x", libver="latest")
        self._frames = self._file.create_dataset(
            FRAMES,
            (0, *shape),
            pixel,
            maxshape=(None, *shape),
            chunks=(1, *shape),
            **filters[compression],
        )
        self._positions = [
            self._file.create_dataset(
                f"{ATTRIBUTES}/{name}", (0,), np.float64, maxshape=(None,), chunks=(ATTRIBUTE_CHUNK,)
            )
            for name in ("ScanX", "ScanY")
        ]
        for dataset, source in zip(self._positions, ("X_RBV", "Y_RBV"), strict=True):
            dataset.attrs.update(units="nm", NDAttrSource=f"Scan:{source}")
        if swmr:
            self._file.swmr_mode = True

    def append(self, frame: np.ndarray, x: float, y: float) -> None:
        """Add one frame and flush, so that a reader sees it at once.

        Raises
        ------
        OSError, RuntimeError
            The disk is full, or has gone; `abandon` the file then.
        """
        n = len(self._frames) + 1
        for dataset, value in zip((*self._positions, self._frames), (x, y, frame), strict=True):
            dataset.resize(n, axis=0)
            dataset[n - 1] = value
            dataset.flush()

    def close(self) -> None:
        """Finish the file; raises as `append` does."""
        self._file.close()

    def abandon(self) -> None:
        """Leave a file that could not be written as it is, readable up to its last flush.

        HDF5 cannot flush it, so it can neither be closed nor collected: both end in a segmentation fault.
        """
        abandoned.append(self)


abandoned: list[FrameFile] = []
"""Files that must outlive the process: end it by `os._exit` where there is one."""
