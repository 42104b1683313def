"""What came of a recorded series."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .gate import Refusal
from .receiver import BackPressure
from .series import Series


@dataclass(frozen=True)
class Recording:
    """What came of a series.

    Parameters
    ----------
    path : Path
    series : Series
    frames : int
        In the file.
    expected : int
        By the series' header, or by the last frame where the header did not say.
    missing : tuple[range, ...]
        Numbers of the frames that never came.
    ended : str
        "end message", or what ended the series instead.
    duplicates : int
        Frames that came again, and were dropped.
    refused : tuple[Refusal, ...]
        Messages and frames that were not taken, the first thousand of them.
    refused_count : int
        All of them.
    back_pressure : BackPressure
    nbytes : int
        Compressed size of the frames [bytes].
    seconds : float
        From the first frame to the end [s].
    """

    path: Path
    series: Series
    frames: int
    expected: int
    missing: tuple[range, ...]
    ended: str
    duplicates: int
    refused: tuple[Refusal, ...]
    refused_count: int
    back_pressure: BackPressure
    nbytes: int
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether every frame that was expected is in the file."""
        return not self.missing

    def __str__(self) -> str:
        said = [
            f"series {self.series.number}: {self.frames} of {self.expected} frames in {self.path}",
            f"ended by {self.ended}",
        ]
        if self.missing:
            said.append("incomplete, missing " + spelled(self.missing))
        if self.duplicates:
            said.append(f"{self.duplicates} came twice")
        if self.refused_count:
            said.append(f"{self.refused_count} refused, the first: {self.refused[0].reason}")
        if self.back_pressure.waited_s:
            said.append(f"the stream waited {self.back_pressure.waited_s:.2f} s for the writer")
        if self.seconds > 0:
            said.append(f"{self.frames / self.seconds:.0f} frames/s, {self.nbytes / self.seconds / 1e6:.0f} MB/s")
        return "; ".join(said)


def spelled(missing: tuple[range, ...], most: int = 10) -> str:
    """Runs of frame numbers in words: ``3, 7 to 9``."""
    words = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in missing[:most]]
    return ", ".join(words) + (f" and {len(missing) - most} more runs" if len(missing) > most else "")
