"""Makes an ordinary file of one whose writer was killed.

HDF5 marks a file as open for writing in its superblock, and refuses it to every reader that does not ask for SWMR until
the mark is gone. The mark is one byte; behind it stand the end of the file as last noted, and a checksum (HDF5 file
format specification 3.0, section II.A, superblock version 3).
"""

from __future__ import annotations

import argparse
import fcntl
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from .frame_set import FrameSet
from .nexus import DETECTOR, list_missing, listed

SIGNATURE = b"\x89HDF\r\n\x1a\n"
FLAGS, END, CHECKSUM = 11, 28, 44
MASK = 0xFFFFFFFF
DATA = "/entry/data/data"


def mend(path: Path) -> tuple[int, int]:
    """Clear the mark, and note which frames are missing where that is not noted yet.

    Parameters
    ----------
    path : Path
        Of a file that `record` began and nobody writes to any more.

    Returns
    -------
    tuple[int, int]
        Frames in the file, and frames that its series should have had (or up to the last that came).

    Raises
    ------
    ValueError
        It is no such file.
    OSError
        It cannot be written, or is still being written or read; it is as it was.
    """
    before = _clear(path)
    try:
        return _completed(path)
    except ValueError:
        with open(path, "r+b") as file:
            file.write(before)
        raise


def _completed(path: Path) -> tuple[int, int]:
    with h5py.File(path, "r+", libver="latest") as file:
        if DATA not in file or DETECTOR not in file or "ended" not in file[DETECTOR].attrs:
            raise ValueError(f"{path} has no {DATA} beside {DETECTOR}: it is no file of a recorded series")
        detector, data = file[DETECTOR], file[DATA]
        stored, ended = _stored(data), bool(detector.attrs["ended"])
        if ended and (file["entry"].attrs["complete"] or "missing_frames" in detector):
            return stored.size, len(data)
        expected = int(detector["detectorSpecific/number_of_images"][()])
        expected = len(data) if expected < 0 else expected
        came = FrameSet()
        for number in stored.tolist():
            came.add(number)
        list_missing(file, listed(list(came.missing(expected)), expected))
        if not ended:
            detector.attrs.modify("ended", "the receiver's death; mended afterwards")
        file["entry"].attrs.modify("complete", np.bool_(stored.size == expected))
        return stored.size, expected


def _stored(data: h5py.Dataset) -> np.ndarray:
    numbers: list[int] = []
    data.id.chunk_iter(lambda info: numbers.append(info.chunk_offset[0]))
    return np.array(sorted(numbers), np.uint64)


def _clear(path: Path) -> bytes:
    """Take the mark off; gives the bytes that the file began with."""
    with open(path, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(
                f"{path} is open in another program: end its recording, close its readers, then mend it"
            ) from None
        except OSError:
            pass  # a file system without locks: that nobody writes is the caller's word
        block = bytearray(file.read(CHECKSUM + 4))
        if block[:8] != SIGNATURE or len(block) < CHECKSUM + 4 or block[8] != 3 or block[9] != 8:
            raise ValueError(f"{path} is no HDF5 file that was open for others to read (superblock version 3)")
        before = bytes(block)
        block[FLAGS] = 0
        (end,) = struct.unpack_from("<Q", block, END)
        struct.pack_into("<Q", block, END, max(end, os.fstat(file.fileno()).st_size))
        struct.pack_into("<I", block, CHECKSUM, lookup3(bytes(block[:CHECKSUM])))
        file.seek(0)
        file.write(block)
    return before


def lookup3(data: bytes) -> int:
    """Checksum of HDF5's metadata: Bob Jenkins's ``hashlittle`` of 2006 with the initial value 0."""

    def turned(x: int, k: int) -> int:
        return ((x << k) | (x >> (32 - k))) & MASK

    a = b = c = (0xDEADBEEF + len(data)) & MASK
    words = struct.unpack(f"<{-(-len(data) // 12) * 3}I", data.ljust(-(-len(data) // 12) * 12, b"\0"))
    for k in range(0, len(words) - 3, 3):
        a, b, c = (a + words[k]) & MASK, (b + words[k + 1]) & MASK, (c + words[k + 2]) & MASK
        for shift in (4, 6, 8, 16, 19, 4):  # a, b and c change places at each step, and are back after six
            a, c = ((a - c) & MASK) ^ turned(c, shift), (c + b) & MASK
            a, b, c = b, c, a
    a, b, c = (a + words[-3]) & MASK, (b + words[-2]) & MASK, (c + words[-1]) & MASK
    for shift in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - turned(b, shift)) & MASK
        a, b, c = b, c, a
    return b


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: ``edgestem stream mend run.h5``."""
    parser = argparse.ArgumentParser(
        prog="edgestem stream mend", description="Make an ordinary file of one whose receiver was killed."
    )
    parser.add_argument("path", type=Path, help="file that nobody writes to any more")
    path = parser.parse_args(argv).path
    try:
        frames, expected = mend(path)
    except (ValueError, OSError) as error:
        print(f"edgestem: {error}", file=sys.stderr)
        return 1
    print(f"{path}: {frames} of {expected} frames; any reader can open it now")
    return 0


if __name__ == "__main__":
    sys.exit(main())
