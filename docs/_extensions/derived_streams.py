"""Directive ``derived-streams``: the columns that each live callback adds to a run, from the callbacks themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from bluesky_edgestem.analysis.surrogate import EnergyMap
from bluesky_edgestem.callbacks.descriptors import THICK, Descriptors
from bluesky_edgestem.callbacks.energetics import Energetics
from bluesky_edgestem.callbacks.imaging import Imaging
from bluesky_edgestem.callbacks.recommender import Recommender
from bluesky_edgestem.callbacks.strain_stream import strain_stream
from bluesky_edgestem.geometry import FieldOfView
from bluesky_edgestem.plans.calibration import rotation_stream
from bluesky_edgestem.plans.edge_rule import added_stream

# What the callbacks work with does not change their columns, except the shape of the map.
NOTHING: Any = None
STREAMS = (
    (Descriptors(NOTHING).stream, "one event for each position"),
    (Energetics(NOTHING).stream, "one event for each position, in the same order"),
    (Recommender(EnergyMap(FieldOfView.centred(100.0), 0.01, 1.0)).stream, "one event for each batch"),
    (Imaging().stream, "one event for each 256 frames, where `imaging=` is given"),
    (strain_stream(), "one event for each 256 frames, where `strain=` is given, or in the run of an analysis"),
    (added_stream(), "one event for each position that an inference board added, where `rule=` is given"),
    (rotation_stream(), "one event at the end of `calibrate_rotation`"),
)


def rows(columns: Mapping[str, Any]) -> list[str]:
    """A Markdown table of a stream's columns."""
    lines = ["| column | type | unit | what it is, or where it comes from |", "|---|---|---|---|"]
    for name, key in columns.items():
        shape = f" {'×'.join(map(str, key['shape']))}" if key.get("shape") else ""
        lines.append(f"| `{name}` | {key['dtype']}{shape} | {key.get('units', '')} | {key['source']} |")
    return lines


def markdown() -> str:
    """All derived streams."""
    lines = []
    for stream, how_often in STREAMS:
        lines += ["", f"## `{stream.name}`", "", f"{how_often[0].upper()}{how_often[1:]}.", "", *rows(stream.columns)]
    return "\n".join(lines)


class DerivedStreams(SphinxDirective):
    """Put the tables where the directive stands."""

    def run(self) -> list[nodes.Node]:
        """The nodes of the tables."""
        return self.parse_text_to_nodes(markdown(), allow_section_headings=True)


class ThickColumns(SphinxDirective):
    """Put the columns that only some networks give where the directive stands."""

    def run(self) -> list[nodes.Node]:
        """The nodes of the table."""
        return self.parse_text_to_nodes("\n".join(rows(THICK)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("derived-streams", DerivedStreams)
    app.add_directive("thick-columns", ThickColumns)
    return {"parallel_read_safe": True}
