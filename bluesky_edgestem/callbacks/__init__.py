"""Live consumers of a run: patterns to descriptors, to energies, to the next positions; to images and maps."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .descriptors import Descriptors
    from .energetics import Energetics
    from .imaging import Imaging
    from .progress import Progress
    from .recommender import Recommender
    from .strain_map import StrainMap

__all__ = ["Descriptors", "Energetics", "Imaging", "Progress", "Recommender", "StrainMap"]

_MODULES = {
    "Descriptors": "descriptors",
    "Energetics": "energetics",
    "Imaging": "imaging",
    "Progress": "progress",
    "Recommender": "recommender",
    "StrainMap": "strain_map",
}


def __getattr__(name: str) -> Any:
    # When it is asked for: who wants one of them need not pay for what the others import.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
