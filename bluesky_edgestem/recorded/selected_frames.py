"""The frames of a recording that count, read only where they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..analysis.counts import saturated_marked


class SelectedFrames:
    """Looks like an array (n, ny, nx), and reads from a file or over the network what is indexed.

    Parameters
    ----------
    source : h5py.Dataset or tiled.client.array.ArrayClient
        (all, ny, nx), or a raster (rows, columns, ny, nx).
    numbers : numpy.ndarray
        (n,) of the frames of `source` that count, in order.
    saturation : int, optional
        As of `counts.saturated_marked`, which frames go through.
    """

    ndim = 3

    def __init__(self, source: Any, numbers: np.ndarray, saturation: int | None = None) -> None:
        self._saturation = saturation
        self._source, self._numbers = source, np.asarray(numbers)
        self.shape: tuple[int, int, int] = (len(numbers), *source.shape[-2:])
        self.dtype = np.dtype(source.dtype)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *rest = key if isinstance(key, tuple) else (key,)
        wanted = self._numbers[first]
        frames = self._read(np.atleast_1d(wanted))
        return (frames if np.ndim(wanted) else frames[0])[(slice(None),) * np.ndim(wanted) + tuple(rest)]

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        frames = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        done = 0
        # Frames that follow each other, in a raster only within a row, are read in one piece.
        breaks = np.diff(numbers) != 1
        if len(self._source.shape) == 4:
            breaks |= numbers[1:] % self._source.shape[1] == 0
        for run in np.split(numbers, np.flatnonzero(breaks) + 1) if len(numbers) else ():
            frames[done : done + len(run)] = self._stretch(int(run[0]), len(run))
            done += len(run)
        return saturated_marked(frames, self._saturation)

    def _stretch(self, start: int, n: int) -> np.ndarray:
        if len(self._source.shape) == 4:
            row, column = divmod(start, self._source.shape[1])
            return np.asarray(self._source[row, column : column + n])
        return np.asarray(self._source[start : start + n])
