"""Virtual detectors: which pixels of the detector they count, and how the kernels are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .optics import Optics


@dataclass(frozen=True)
class Annulus:
    """An annular detector; with an inner angle of 0 a disk.

    Parameters
    ----------
    inner_mrad, outer_mrad : float
        It counts the pixels whose centre is at ``inner <= angle < outer`` [mrad].
    centre_mrad : (x, y)
        Where its middle is, from that of the frame [mrad].
    """

    inner_mrad: float
    outer_mrad: float
    centre_mrad: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if not 0 <= self.inner_mrad < self.outer_mrad:
            raise ValueError(
                f"an annulus from {self.inner_mrad} to {self.outer_mrad} mrad; allowed is 0 <= inner < outer"
            )

    def mask(self, shape: tuple[int, int], pixel_mrad: float) -> np.ndarray:
        """The pixels that it counts, bool (ny, nx).

        Raises
        ------
        ValueError
            There are none.
        """
        ny, nx = shape
        x = (np.arange(nx) - (nx - 1) / 2) * pixel_mrad - self.centre_mrad[0]
        y = (np.arange(ny) - (ny - 1) / 2) * pixel_mrad - self.centre_mrad[1]
        angle = np.hypot(x, y[:, None])
        mask = (angle >= self.inner_mrad) & (angle < self.outer_mrad)
        if not mask.any():
            raise ValueError(
                f"{self} counts none of the {nx} x {ny} pixels of {pixel_mrad} mrad; choose angles below "
                f"{angle.max():.4g} mrad, and a width above that of a pixel"
            )
        return mask


def field_detectors(optics: Optics) -> dict[str, Annulus]:
    """Bright field, up to the convergence semiangle, and dark field, all beyond it."""
    edge = optics.semiangle_mrad
    return {
        "bright_field": Annulus(0.0, edge),
        "dark_field": Annulus(edge, edge + 2 * optics.n_pixels * optics.pixel_mrad),
    }


class Stretches(NamedTuple):
    """Stretches of pixels in rows, and which virtual detector each belongs to.

    Unsigned, for numba would test signed numbers at each pixel for being counted from the end.
    """

    rows: np.ndarray  #: (stretches,) uint64
    begins: np.ndarray  #: (stretches,) uint64, first column
    ends: np.ndarray  #: (stretches,) uint64, one past the last column
    owners: np.ndarray  #: (stretches,) uint64


class Weights(NamedTuple):
    """The weights of all stretches, those of one after those of the one before."""

    offsets: np.ndarray  #: (stretches,) uint64, where those of each begin
    values: np.ndarray  #: (pixels,) float64


@dataclass(frozen=True)
class SparseMasks:
    """Masks as the stretches of pixels in which they are not 0.

    Parameters
    ----------
    shape : tuple[int, int]
        Of a frame (ny, nx) [pixels].
    names : tuple[str, ...]
        All virtual detectors, in the order they were given.
    counted_names, weighted_names : tuple[str, ...]
        Those with a mask of bool, whose sums are counts, and those with weights.
    counted, weighted : Stretches
        Of the masks of bool, and of the others.
    weights : Weights
        Of `weighted`.
    """

    shape: tuple[int, int]
    names: tuple[str, ...]
    counted_names: tuple[str, ...]
    weighted_names: tuple[str, ...]
    counted: Stretches
    weighted: Stretches
    weights: Weights

    @classmethod
    def of(cls, shape: tuple[int, int], masks: Mapping[str, np.ndarray]) -> SparseMasks:
        """From masks (ny, nx) of bool or float, by name.

        Raises
        ------
        ValueError
            A mask has another shape than a frame, or a weight is not finite.
        TypeError
            A mask is neither of bool nor of float.
        """
        ny, nx = shape
        for name, mask in masks.items():
            if mask.shape != (ny, nx):
                raise ValueError(f"mask {name!r} is {mask.shape}; allowed is that of a frame, {(ny, nx)}")
            if mask.dtype.kind not in "bf":
                raise TypeError(f"mask {name!r} is of {mask.dtype}; allowed are bool (pixels) and float (weights)")
            if not np.isfinite(mask).all():
                raise ValueError(f"mask {name!r} has weights that are not finite; use 0 for pixels that do not count")
        counted = tuple(name for name, mask in masks.items() if mask.dtype.kind == "b")
        weighted = tuple(name for name in masks if name not in counted)
        stretches = _stretches([masks[name] for name in weighted])
        parts = [np.asarray(masks[weighted[k]][y, a:b], float) for y, a, b, k in zip(*stretches, strict=True)]
        lengths = [len(part) for part in parts]
        offsets = np.cumsum([0, *lengths])[:-1].astype(np.uint64)
        weights = Weights(offsets, np.concatenate([np.zeros(0), *parts]))
        of_counted = _stretches([masks[name] for name in counted])
        return cls((ny, nx), tuple(masks), counted, weighted, of_counted, stretches, weights)

    def counted_arrays(self) -> list[np.ndarray]:
        """The masks of bool (ny, nx) again."""
        arrays = [np.zeros(self.shape, bool) for _ in self.counted_names]
        for y, a, b, k in zip(*self.counted, strict=True):
            arrays[k][y, a:b] = True
        return arrays


def _stretches(masks: list[np.ndarray]) -> Stretches:
    """Where the masks are not 0, in the order of the rows: a kernel goes through a frame once."""
    found = [np.zeros((0, 4), np.int64)]
    for owner, mask in enumerate(masks):
        edges = np.diff(np.pad((mask != 0).astype(np.int8), ((0, 0), (1, 1))), axis=1)
        (rows, begins), (_, ends) = np.nonzero(edges == 1), np.nonzero(edges == -1)
        found.append(np.column_stack([rows, begins, ends, np.full(len(rows), owner)]))
    together = np.concatenate(found).astype(np.uint64)
    return Stretches(*np.ascontiguousarray(together[np.argsort(together[:, 0], kind="stable")].T))
