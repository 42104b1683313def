"""Where the frames and the probe's positions are in a file, and the documents that say so to a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from bluesky.protocols import StreamAsset
from event_model import DataKey, compose_stream_resource

FRAMES = "/entry/data/data"
SCAN_X, SCAN_Y = (f"/entry/instrument/NDAttributes/Scan{axis}" for axis in "XY")
ATTRIBUTE_CHUNK = 256


def frame_keys(
    name: str, source: str, shape: tuple[int, int], dtype: str, *, positions: bool = True
) -> dict[str, DataKey]:
    """Data keys of frames of `shape` (ny, nx) and `dtype`, called `name`, and of the probe's positions."""
    position = {
        "source": source,
        "dtype": "number",
        "dtype_numpy": "<f8",
        "shape": [],
        "units": "nm",
        "external": "STREAM:",
    }
    keys: dict[str, Any] = {
        name: {
            "source": source,
            "dtype": "array",
            "dtype_numpy": dtype,
            "shape": list(shape),
            "units": "electrons",
            "external": "STREAM:",
        }
    }
    if positions:
        keys |= {f"{name}_x": dict(position), f"{name}_y": dict(position)}
    return keys


class FrameDocuments:
    """Composes the stream documents of one file that grows.

    Parameters
    ----------
    path : PurePath
        As everyone who reads it sees it.
    name : str
        Data key of the frames; the probe's positions are `name`_x and `name`_y.
    shape : (int, int)
        Of a frame, (ny, nx).
    positions : bool
        Whether the file has positions.

    Attributes
    ----------
    emitted : int
        Frames that were told of.
    """

    def __init__(self, path: PurePath, name: str, shape: tuple[int, int], *, positions: bool = True) -> None:
        self.emitted = 0
        self._uri = f"file://localhost{path}"
        self._datasets = [(name, FRAMES, [1, *shape])]
        if positions:
            self._datasets += [(f"{name}_{a}", d, [ATTRIBUTE_CHUNK]) for a, d in (("x", SCAN_X), ("y", SCAN_Y))]
        self._bundles: list[Any] = []

    def up_to(self, stop: int) -> Iterator[StreamAsset]:
        """Documents of the frames not yet told of, up to index `stop`; the resources come with the first."""
        if stop <= self.emitted:
            return
        if not self._bundles:
            for key, dataset, chunk in self._datasets:
                bundle = compose_stream_resource(
                    mimetype="application/x-hdf5",
                    uri=self._uri,
                    data_key=key,
                    parameters={"dataset": dataset, "swmr": True, "chunk_shape": chunk},
                )
                self._bundles.append(bundle)
                yield "stream_resource", bundle.stream_resource_doc
        start, self.emitted = self.emitted, stop
        for bundle in self._bundles:
            yield "stream_datum", bundle.compose_stream_datum(indices={"start": start, "stop": stop})
