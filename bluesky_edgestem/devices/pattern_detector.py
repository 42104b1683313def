"""What a microscope asks of its detector, whatever that is controlled by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from bluesky.protocols import StreamAsset
from event_model import DataKey

from .statuses import NamedStatus


class PatternDetector(Protocol):
    """A detector that takes a pattern at each trigger of the scan coils, and writes it to a file."""

    directory: str
    may_grow: bool
    """Whether a flight may have positions that are not known when it begins."""

    @property
    def exposure(self) -> Any:
        """A signal: the time [s] that a frame counts for."""
        ...

    @property
    def width(self) -> int:
        """Pixels of a frame along x."""
        ...

    @property
    def series_number(self) -> int:
        """The detector's number of the series that it was last armed for: its stream tells it with each frame."""
        ...

    @property
    def condition(self) -> str:
        """What the detector does, in words, without asking it."""
        ...

    def follow(self, counted: Callable[[int], object], status: NamedStatus) -> None:
        """Call `counted` with the number of frames as it grows, until `status` is done; fail that if none can come."""
        ...

    def stage(self) -> NamedStatus:
        """Get ready to write."""
        ...

    def unstage(self) -> NamedStatus:
        """Disarm and finish what is written."""
        ...

    def prepare_at(self, positions: np.ndarray, more: int = 0) -> NamedStatus:
        """Get ready for a flight over `positions` (n, 2) [nm], and up to `more` that are not known yet."""
        ...

    def kickoff(self) -> NamedStatus:
        """Arm."""
        ...

    def describe_collect(self) -> dict[str, DataKey]:
        """Data keys of one stream."""
        ...

    def get_index(self) -> int:
        """Frames that readers may ask for."""
        ...

    def collect_asset_docs(self, index: int | None = None) -> Iterator[StreamAsset]:
        """Documents of the frames written since the last call, up to `index`."""
        ...

    def stop(self, *, success: bool = False) -> None:
        """Take no more triggers."""
        ...
