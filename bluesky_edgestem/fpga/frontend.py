"""What the board makes of a frame before its network sees it: a crop, bins, and an incident beam that fits the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..analysis.kernels import kernel

#: A bin of the incident beam is divided by two to the power of this: it is then of the size of the Bragg disks.
ATTENUATION = 7
#: Bins along each side of what the network sees.
CORE = 48
#: Bins are divided by two to the power of at most this.
MOST_SHIFT = 7


@dataclass(frozen=True)
class Frontend:
    """From frames of a detector to the bins that the network reads.

    The ``48 bin`` pixels in the middle of a frame, along each axis, are added in squares of `bin`, divided by a power
    of two that goes with the dose, and saturate at `bin_bits`. Bins closer to the middle than `beam_bins` are those of
    the incident beam: they are divided by another 2⁷, and do not count towards the sum that features are divided
    by.

    Parameters
    ----------
    n_pixels : int
        Pixels along each side of a frame.
    bin : int
        1, 2 or 4.
    pixel_bits : int
        Depth of a pixel on the wire, 8 or 16.
    bin_bits : int
        Depth of a bin, 4 to 12.
    beam_bins : float
        Radius of the incident beam's region [bins].
    """

    n_pixels: int
    bin: int = 1
    pixel_bits: int = 8
    bin_bits: int = 7
    beam_bins: float = 5.5

    def __post_init__(self) -> None:
        if self.bin not in (1, 2, 4):
            raise ValueError(f"bin is {self.bin}; the board bins by 1, 2 or 4 pixels")
        if self.pixel_bits not in (8, 16):
            raise ValueError(f"pixel_bits is {self.pixel_bits}; a pixel on the wire has 8 or 16 bits")
        if not 4 <= self.bin_bits <= 12:
            raise ValueError(f"bin_bits is {self.bin_bits}; a bin has 4 to 12 bits")
        if self.n_pixels < CORE * self.bin or (self.n_pixels - CORE * self.bin) % (2 * self.bin):
            raise ValueError(
                f"n_pixels is {self.n_pixels}; with bin = {self.bin} the network sees {CORE * self.bin} pixels from "
                f"the middle: a frame has as many, or a multiple of {2 * self.bin} more"
            )

    @property
    def margin(self) -> int:
        """Pixels that are cut off at each side."""
        return (self.n_pixels - CORE * self.bin) // 2

    @property
    def outer(self) -> np.ndarray:
        """Whether each bin is outside of the incident beam's region, (CORE²,) bool."""
        axis = np.arange(CORE) - (CORE - 1) / 2
        return (np.hypot(axis[:, None], axis) > self.beam_bins).ravel()

    def check_beats(self, pixels_a_clock: int) -> None:
        """Raise ValueError where frames do not divide into beats of `pixels_a_clock` pixels."""
        if self.margin % pixels_a_clock or self.n_pixels % pixels_a_clock:
            raise ValueError(
                f"{pixels_a_clock} pixels a clock do not divide a frame of {self.n_pixels} pixels with a margin of "
                f"{self.margin}; choose another bin, or fewer pixels a clock"
            )

    def binned(self, frames: np.ndarray) -> np.ndarray:
        """Bins before they are shifted, (n, CORE, CORE) int64, of frames (n, n_pixels, n_pixels) of whole numbers."""
        frames = np.asarray(frames)
        n = self.n_pixels
        if frames.ndim != 3 or frames.shape[1:] != (n, n):
            raise ValueError(f"frames have shape {frames.shape}; this board was built for (any, {n}, {n})")
        bins = np.zeros((len(frames), CORE, CORE), np.int64)
        if self.bin == 1:
            bins[:] = frames[:, self.margin : n - self.margin, self.margin : n - self.margin]
        else:
            native = frames.astype(frames.dtype.newbyteorder("="), copy=False)
            _add(np.ascontiguousarray(native), self.margin, self.bin, bins)
        return bins

    def received(self, frames: np.ndarray) -> np.ndarray:
        """Frames as they are on the wire: pixels saturate at `pixel_bits`."""
        frames = np.asarray(frames)
        if frames.dtype.kind != "u":
            raise TypeError(f"frames are {frames.dtype}; the board reads counted electrons: unsigned integers")
        if 8 * frames.dtype.itemsize > self.pixel_bits:
            frames = np.minimum(frames, 2**self.pixel_bits - 1)
        return frames.astype(np.uint8 if self.pixel_bits == 8 else np.uint16, copy=False)

    @property
    def _most_on_the_wire(self) -> int:
        return (2**self.pixel_bits - 1) * self.bin**2

    def attenuated(self, bins: np.ndarray, shift: np.ndarray | int = 0) -> np.ndarray:
        """What the filters weigh, (n, CORE²) int32, of bins (n, CORE, CORE) or (n, CORE²) of electrons.

        `shift`, one or (n,), is 0 to 7: bins are divided by two to the power of it.
        """
        flat = np.ascontiguousarray(bins, np.int64).reshape(len(bins), CORE**2)
        shifts = np.ascontiguousarray(np.broadcast_to(np.asarray(shift, np.int64), len(flat)))
        out = np.empty(flat.shape, np.int32)
        _attenuate(flat, shifts, self.outer, self._most_on_the_wire, 2**self.bin_bits - 1, out)
        return out

    def __call__(self, frames: np.ndarray, shift: np.ndarray | int = 0) -> np.ndarray:
        """What the filters weigh, (n, CORE²) int32, of frames (n, n_pixels, n_pixels) of unsigned integers."""
        return self.attenuated(self.binned(self.received(frames)), shift)

    def shift_for(self, electrons: np.ndarray | float, brightest: float) -> np.ndarray:
        """The shift, int64, at which Bragg disks do not saturate.

        Parameters
        ----------
        electrons : float or array
            Electrons per pattern.
        brightest : float
            Share of them that the brightest bin outside of the incident beam gets.
        """
        fill = 1.3 * np.asarray(electrons, float) * brightest / (2**self.bin_bits - 1)
        return np.clip(np.ceil(np.log2(np.maximum(fill, 1e-9))), 0, MOST_SHIFT).astype(np.int64)


@kernel
def _add(frames, margin, bin_, bins):  # pragma: no cover
    """Add the pixels (n, y, x) of each bin, margins left out, to `bins` (n, CORE, CORE)."""
    n, rows, columns = bins.shape
    for k in range(n):
        for y in range(rows * bin_):
            line = frames[k, margin + y]
            for x in range(columns):
                total = np.int64(0)
                for i in range(bin_):
                    total += line[margin + x * bin_ + i]
                bins[k, y // bin_, x] += total


@kernel
def _attenuate(bins, shifts, outer, most_on_the_wire, most, out):  # pragma: no cover
    """Shift, attenuate and limit bins (n, CORE²), as `Frontend.attenuated`."""
    for k in range(bins.shape[0]):
        for p in range(bins.shape[1]):
            value = min(bins[k, p], most_on_the_wire) >> shifts[k]
            if not outer[p]:
                value >>= ATTENUATION
            out[k, p] = min(value, most)
