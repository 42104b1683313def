"""The reference lists what is in the file of a recorded series, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.sim.simplon_config import detector_config
from bluesky_edgestem.stream import nexus
from bluesky_edgestem.stream.encoding import compress
from bluesky_edgestem.stream.frames import Frames
from bluesky_edgestem.stream.nexus import Context
from bluesky_edgestem.stream.series import Frame, Series
from bluesky_edgestem.stream.series_file import SeriesFile

PAGE = Path(__file__).parents[2] / "docs/reference/recorded-file.md"
ROW = re.compile(r"^\| `(/[^`]+)` \| ([^|]*) \| ([^|]*)\|", re.MULTILINE)
FRAMES, SHAPE = 40, (32, 48)
NEXUS = {"NX_class", "default", "signal", "axes", "x_indices", "y_indices", "interpretation", "description"}
"""Attributes that the page tells of in general."""


def written(path: Path) -> dict[str, tuple[str, str]]:
    """Paths in a file that has all there is, with shape and type, and unit, as the page says them."""
    config = {name: parameter.value for name, parameter in detector_config("1.8.0", SHAPE, 16, FRAMES, 1e-3).items()}
    channels = "threshold_1", "threshold_2"
    series = Series(1, SHAPE, np.dtype("u2"), FRAMES, channels, "exts", "unique", config)
    chunks = tuple(compress(np.ones(SHAPE, np.uint16), channel=channel) for channel in channels)
    file = SeriesFile(path, series, chunks[0], Context(np.zeros((FRAMES, 2)), Optics(n_pixels=48), "MoS2"))
    file.write(Frames.of([Frame(1, number, chunks, 0.0, 1.0, 1.0) for number in (0, 20)]))
    outcome = {"ended": "stop", "duplicate_frames": 0, "refused_frames": 0, "backpressure_s": 0.0}
    file.finish([range(1, 2), range(2, 20), range(21, FRAMES)], FRAMES, **outcome)
    found: dict[str, tuple[str, str]] = {}

    def kind(dtype: np.dtype) -> str:
        return {"O": "text", "S": "text", "U": "text", "b": "bool"}.get(dtype.kind, dtype.name)

    def walk(group: h5py.Group) -> None:
        for name in group:
            link, held = group.get(name, getlink=True), group[name]
            path = f"{group.name.rstrip('/')}/{name}".replace("data_threshold_2", "data_CHANNEL")
            if isinstance(link, h5py.SoftLink):
                found[path] = "link", ""
                continue
            if isinstance(held, h5py.Dataset):
                axes = {FRAMES: "f", 21: "f", SHAPE[0]: "ny", SHAPE[1]: "nx", 2: "2"}
                last = {1: ["n"], 2: ["n", "2"]}[held.ndim] if "missing" in name else [axes[n] for n in held.shape]
                shape = f"({', '.join(last)}{',' * (len(last) == 1)})" if last else ""
                images = held.ndim == 3
                said = ", the detector's" if images else f" {kind(held.dtype)}"
                found[path] = (shape + said).strip(), "counts" if images else held.attrs.get("units", "")
            for attribute in set(held.attrs) - NEXUS - {"units"}:
                if not path.startswith("/entry/data_"):  # as of the first channel
                    found[f"{path}@{attribute}"] = kind(np.asarray(held.attrs[attribute]).dtype), ""
            if isinstance(held, h5py.Group):
                walk(held)

    with h5py.File(path) as kept:
        walk(kept)
    return found


def test_the_page_lists_what_is_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nexus, "LISTED", 5)
    found = written(tmp_path / "run.h5")
    rows = ROW.findall(PAGE.read_text())
    listed = {path: (kind.strip(), unit.strip()) for path, kind, unit in rows}
    assert len(listed) == len(rows)
    assert sorted(listed) == sorted(found)
    for path, (kind, unit) in found.items():
        assert listed[path][0] == kind, path
        assert listed[path][1] == unit or not unit, path
