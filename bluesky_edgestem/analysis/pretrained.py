"""Networks by the file of their weights: its first line says which network they are of."""

from __future__ import annotations

from pathlib import Path

from . import crystal_networks
from .crystal_networks import CrystalNetwork
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
    try:
        with path.open("rb") as file:
            start = file.read(len(crystal_networks.MAGIC))
    except OSError:
        start = b""  # what is wrong is said below
    return (CrystalNetwork if start == crystal_networks.MAGIC else DescriptorNetwork).pretrained(path)
