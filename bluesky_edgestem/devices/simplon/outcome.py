"""What came of the last series, to be read into a run."""

from __future__ import annotations

from typing import Any

from ophyd import Component as Cpt
from ophyd import Device, Signal

from ...stream.recording import Recording, spelled

NAMED = 1000
"""Runs of missing frames that are named; all are in the file."""


class SeriesOutcome(Device):
    """The last series: which of its frames are missing, and how it ended."""

    series = Cpt(Signal, value=0, doc="the detector's number of the series")
    expected = Cpt(Signal, value=0, doc="frames that it should have")
    frames = Cpt(Signal, value=0, doc="frames that are in the file")
    missing = Cpt(Signal, value="", doc="numbers of those that are not, counted from 0 in the series")
    ended = Cpt(Signal, value="", doc="end message, or what ended it instead")
    duplicates = Cpt(Signal, value=0, doc="frames that came again and were dropped")
    refused = Cpt(Signal, value=0, doc="messages that were no frames of the series")
    waited = Cpt(Signal, value=0.0, doc="time that the stream waited for the file [s]")

    def __init__(self, prefix: str = "", **kwargs: Any) -> None:
        super().__init__(prefix, **kwargs)
        self.waits = False
        """Whether a series has ended that was not read yet."""

    def tell(self, recording: Recording) -> None:
        """Take the values of `recording`."""
        for signal, value in (
            (self.series, recording.series.number),
            (self.expected, recording.expected),
            (self.frames, recording.frames),
            (self.missing, spelled(recording.missing, NAMED)),
            (self.ended, recording.ended),
            (self.duplicates, recording.duplicates),
            (self.refused, recording.refused_count),
            (self.waited, recording.back_pressure.waited_s),
        ):
            signal.put(value)
        self.waits = True

    def read(self) -> dict[str, Any]:
        """The values, once."""
        self.waits = False
        return super().read()
