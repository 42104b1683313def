"""Columns of frames, many to a row of the stream: a document for each frame would cost more than the frame."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from event_model import DataKey

from .derived import DerivedStream

ROW = 256
"""Frames in a row of the stream: the RunEngine takes some 4,000 rows a second, whatever they hold."""


def column(source: str, units: str = "", dtype: str = "<f8") -> DataKey:
    """Data key of a column, of which each row holds `ROW` frames."""
    return DataKey(source=source, dtype="array", shape=[ROW], dtype_numpy=dtype, units=units)


class FrameRows:
    """Collects columns and puts full rows into `stream`; the last one is filled up with -1 and nan.

    A column of text becomes one text a row: what all its frames say, or else what each that says something does, by its
    number in ``frame``.
    """

    def __init__(self, stream: DerivedStream) -> None:
        self._stream = stream
        self._waiting: dict[str, np.ndarray] = {}

    def add(self, columns: Mapping[str, np.ndarray]) -> None:
        """Take columns (n,) in."""
        waiting = self._waiting
        self._waiting = {k: np.concatenate([waiting[k], v]) if waiting else v for k, v in columns.items()}

    def emit(self, everything: bool = False) -> None:
        """Put full rows into the stream; with `everything` also one that is not."""
        while self._waiting and (everything or len(self._waiting["frame"]) >= ROW):
            row = {name: values[:ROW] for name, values in self._waiting.items()}
            self._waiting = {name: values[ROW:] for name, values in self._waiting.items()}
            if not len(row["frame"]):
                return
            frames = row["frame"]
            self._stream.put({k: _told(frames, v) if v.dtype.kind in "OU" else _filled(v) for k, v in row.items()})


def _filled(values: np.ndarray) -> np.ndarray:
    """A row of full length."""
    fill = -1 if values.dtype.kind == "i" else np.nan
    return np.concatenate([values, np.full(ROW - len(values), fill, values.dtype)])


def _told(frames: np.ndarray, texts: np.ndarray) -> str:
    if (texts == texts[0]).all():
        return str(texts[0])
    return "; ".join(f"{frame}: {text}" for frame, text in zip(frames, texts, strict=True) if text)
