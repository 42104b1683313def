"""Frames to lattices: search, then a few passes of the network, each from where the last one put the lattice."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from .crystal_search import search, without_hot_pixels
from .disk_network import DiskNetwork, Opinion
from .lattice_view import Beams, Lattice, moved

PASSES = 3


def precision(device: torch.device, half: bool | None = None):
    """Autocast to bfloat16 where it pays (on a GPU), or as `half` says."""
    if device.type == "cuda" if half is None else half:
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def look(
    network: DiskNetwork,
    counts: Tensor,
    beams: Beams,
    lattice: Lattice,
    passes: int = PASSES,
    half: bool | None = None,
) -> tuple[Lattice, Opinion]:
    """Passes of the network from a first guess of the lattice: the last lattice, and the opinion that led to it.

    `counts` (b, n, n) are free of hot pixels.
    """
    opinion = None
    for _ in range(passes):
        with precision(counts.device, half):
            opinion = network(counts, beams, lattice)
        lattice = moved(beams, lattice, opinion.unknowns)
    assert opinion is not None
    return lattice, opinion


@torch.no_grad()
def read(
    network: DiskNetwork, counts: Tensor, beams: Beams, fold: int, passes: int = PASSES, half: bool | None = None
) -> tuple[Lattice, Opinion, Tensor]:
    """The supposed material's lattice in counts (b, n, n), the network's opinion, and the search's contrast (b,)."""
    counts = without_hot_pixels(counts)
    found, contrast = search(counts, beams, fold)
    lattice, opinion = look(network, counts, beams, found, passes, half)
    return lattice, opinion, contrast
