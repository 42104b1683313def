"""Networks by the file of their weights: its first line says which network they are of."""

from __future__ import annotations

from pathlib import Path

from .crystal_networks import WEIGHTS, CrystalNetwork
from .networks import DescriptorNetwork


def pretrained(path: Path | str | None = None) -> DescriptorNetwork | CrystalNetwork:
    """The network whose weights are in a file, for monolayers or for thick crystals.

    Parameters
    ----------
    path : Path or str, optional
        The descriptor network that ships with the package if left out.

    Raises
    ------
    ValueError
        If the file is missing, cut short, altered, or of another format or network; the message names it.
    """
    if path is None:
        return DescriptorNetwork.pretrained()
    path = Path(path)
    return (CrystalNetwork if WEIGHTS.is_of(path) else DescriptorNetwork).pretrained(path)
