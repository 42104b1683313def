"""Where a simulated detector's frames come from: all compressed before the first is asked for, or in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import h5py
import hdf5plugin  # noqa: F401  registers bitshuffle-lz4 with HDF5
import numpy as np

from ..analysis.optics import Optics
from ..geometry import FieldOfView
from ..stream.encoding import compress, decompress
from ..stream.series import Chunk
from .frames import make_source

SOURCES = ("specimen", "disks", "random")
DATA = "/entry/data/data"


class Frames(Protocol):
    """Frames in the order that they are taken; after the last comes the first again."""

    shape: tuple[int, int]
    dtype: np.dtype

    def __len__(self) -> int: ...

    def chunk(self, number: int, mask_to_zero: bool = False) -> Chunk | None:
        """Frame `number` as the detector compresses it; None where the detector lost it.

        Pixels that it masks hold 0 with `mask_to_zero`, else the largest number of their type.
        """
        ...


class DrawnFrames:
    """Frames that are computed beforehand.

    Parameters
    ----------
    images : Sequence[numpy.ndarray]
        (ny, nx) each, of one unsigned type.
    encoding : {"bslz4", "lz4", "lz4-block", "none"}
    masked : numpy.ndarray, optional
        (ny, nx) bool, the pixels that the detector masks; none by default.
    """

    def __init__(self, images: Sequence[np.ndarray], encoding: str = "bslz4", masked: np.ndarray | None = None) -> None:
        self.shape: tuple[int, int] = (images[0].shape[0], images[0].shape[1])
        self.dtype = images[0].dtype
        self._chunks = self._zeroed = [compress(image, encoding) for image in images]
        if masked is not None and masked.any():
            full = np.iinfo(self.dtype).max
            self._chunks, self._zeroed = (
                [compress(np.where(masked, self.dtype.type(held), image), encoding) for image in images]
                for held in (full, 0)
            )

    def __len__(self) -> int:
        return len(self._chunks)

    def chunk(self, number: int, mask_to_zero: bool = False) -> Chunk:
        """See `Frames.chunk`."""
        return (self._zeroed if mask_to_zero else self._chunks)[number % len(self._chunks)]


class FileFrames:
    """Frames of a file that `edgestem stream record` or an areaDetector wrote.

    Parameters
    ----------
    path : Path
    encoding : {"bslz4", "lz4", "lz4-block", "none"}
        To send; frames that the file has in it already are sent as they are. A chunk of its own that was never written
        is a frame that was lost; in files with other chunks every frame counts as there. Masked pixels are as recorded.
    """

    def __init__(self, path: Path, encoding: str = "bslz4") -> None:
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            why = "there is no such file" if not path.is_file() else str(error)
            raise ValueError(f"{path} cannot be read: {why}; give an HDF5 file of a recorded series") from None
        if DATA not in self._file:
            raise ValueError(f"{path} has no dataset {DATA}; give a file of a recorded series")
        self._data = self._file[DATA]
        if self._data.ndim != 3 or not len(self._data):
            raise ValueError(f"{DATA} of {path} has the shape {self._data.shape}; allowed is (frames, ny, nx)")
        self.shape: tuple[int, int] = self._data.shape[1:]
        self.dtype = self._data.dtype
        self._encoding = encoding
        plist = self._data.id.get_create_plist()
        self._single = self._data.chunks == (1, *self.shape)
        bitshuffled = plist.get_nfilters() == 1 and plist.get_filter(0)[0] == 32008
        self._as_is = encoding == "bslz4" and self._single and bitshuffled

    def __len__(self) -> int:
        return len(self._data)

    def chunk(self, number: int, mask_to_zero: bool = False) -> Chunk | None:
        """See `Frames.chunk`."""
        number %= len(self._data)
        if self._single and not self._data.id.get_chunk_info_by_coord((number, 0, 0)).size:
            return None
        if self._as_is:
            mask, data = self._data.id.read_direct_chunk((number, 0, 0))
            if not mask:
                return Chunk("", self.shape, self.dtype, "bslz4", data)
        return compress(self._data[number], self._encoding)


def draw(source: str, n_pixels: int, bits: int, distinct: int, seed: int, dose: float) -> list[np.ndarray]:
    """`distinct` images (n_pixels, n_pixels) uint8, 16 or 32, along a line through the specimen.

    Parameters
    ----------
    source : {"specimen", "disks", "random"}
        Multislice patterns, plain disks, or noise.
    n_pixels, bits, distinct, seed : int
    dose : float
        Electrons per pattern.
    """
    rng = np.random.default_rng(seed)
    dtype = np.dtype(f"uint{bits}")
    if source == "random":
        shape = distinct, n_pixels, n_pixels
        images = rng.poisson(dose / n_pixels**2, shape)
    else:
        optics = Optics(n_pixels=n_pixels)
        made = make_source(source, seed, FieldOfView.centred(100.0))
        x = np.linspace(-50, 50, distinct)
        images = [made.frame(np.array([here, 0.0]), dose, optics, rng) for here in x]
    return [np.minimum(image, np.iinfo(dtype).max).astype(dtype) for image in images]


def recoded(chunk: Chunk, encoding: str) -> Chunk:
    """`chunk` in another encoding."""
    return chunk if chunk.encoding == encoding else compress(decompress(chunk), encoding, chunk.channel)
