"""Strain of a run that has ended, as a run of its own: a finished run is whole, and takes no further stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from event_model import compose_run

from ..analysis.strain import StrainMaps
from ..callbacks.derived import DerivedStream
from ..callbacks.frame_rows import FrameRows
from ..callbacks.strain_stream import map_row, map_stream, strain_columns, strain_stream

if TYPE_CHECKING:
    from tiled.client.container import Container

TAKEN_OVER = ("sample", "optics", "field_of_view", "shape")


def documents(
    maps: StrainMaps, numbers: np.ndarray, analysed: Mapping[str, Any], provenance: Mapping[str, Any]
) -> Iterator[tuple[str, dict]]:
    """The documents of a run with the streams ``strain`` and, of a raster, ``strain_maps``.

    Parameters
    ----------
    maps : StrainMaps
        Of `n` frames.
    numbers : numpy.ndarray
        (n,) of the frames, in the stream ``primary`` of the run that was analysed.
    analysed : mapping
        Start document of that run. The new one names it in ``analyses`` and takes over what describes the scan.
    provenance : mapping
        Further metadata.
    """
    run = compose_run(
        metadata={
            "plan_name": "analyse_strain",
            "analyses": analysed["uid"],
            **{key: analysed[key] for key in TAKEN_OVER if key in analysed},
            "reference": maps.reference,
            "measure": maps.measure,
            "scan_rotation": maps.scan_rotation,
            "mirrored": maps.mirrored,
            **provenance,
        }
    )
    yield "start", dict(run.start_doc)
    streams = [strain_stream()]
    rows = FrameRows(streams[0])
    rows.add(strain_columns(numbers, maps))
    rows.emit(everything=True)
    if maps.grid is not None:
        streams.append(map_stream(maps.grid))
        streams[1].put(map_row(maps))
    for stream in streams:
        yield from _stream(run, stream)
    yield "stop", dict(run.compose_stop())


def _stream(run: Any, stream: DerivedStream) -> Iterator[tuple[str, dict]]:
    descriptor = run.compose_descriptor(name=stream.name, data_keys=stream.columns)
    yield "descriptor", dict(descriptor.descriptor_doc)
    for number, event in enumerate(stream.collect(), 1):
        yield (
            "event",
            dict(descriptor.compose_event(data=event["data"], timestamps=event["timestamps"], seq_num=number)),
        )


def write_run(client: Container, *args: Any) -> str:
    """Put the run that `documents` gives for `args` into the catalog; returns its uid.

    Raises
    ------
    CatalogError
        The catalog does not take all of it.
    """
    from ..catalog.delivery import impatient, rewrite

    made = list(documents(*args))
    rewrite(impatient(client), made)
    return made[0][1]["uid"]
