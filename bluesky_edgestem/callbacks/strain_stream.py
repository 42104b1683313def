"""How strain is told in streams: frame by frame in ``strain``, as maps of the raster in ``strain_maps``."""

from __future__ import annotations

import numpy as np
from event_model import DataKey

from ..analysis.strain import COMPONENTS, StrainMaps
from ..geometry import ScanGrid
from .derived import DerivedStream, image, text
from .frame_rows import column

UNITS = {"exx": "", "eyy": "", "exy": "", "rotation": "rad"}
COVARIANCES = [(a, b) for i, a in enumerate(COMPONENTS) for b in COMPONENTS[i + 1 :]]


def strain_stream() -> DerivedStream:
    """The stream ``strain``: a row holds many frames, see `frame_rows`."""
    columns: dict[str, DataKey] = {
        "frame": column("index of the frame in the primary stream; -1 where the row is not full", dtype="<i8"),
        "x": column("the detector's position of the frame", "nm"),
        "y": column("the detector's position of the frame", "nm"),
        **{name: column("axes of the scan; nan where flagged", UNITS[name]) for name in COMPONENTS},
        **{f"{name}_sd": column("standard deviation", UNITS[name]) for name in COMPONENTS},
        **{f"cov_{a}_{b}": column("covariance", UNITS[b]) for a, b in COVARIANCES},
        "flagged": column("1 where the frame could not be read, 0 where it could", dtype="<i8"),
        "reasons": text("why frames are flagged, each by its number"),
        "reference": text("what strain and rotation are relative to"),
    }
    return DerivedStream("strain", columns)


def strain_columns(numbers: np.ndarray, maps: StrainMaps) -> dict[str, np.ndarray]:
    """Columns (n,) of the stream ``strain``, for `frame_rows.FrameRows`, of frames with these numbers (n,)."""
    index = {name: k for k, name in enumerate(COMPONENTS)}
    return {
        "frame": np.asarray(numbers, np.int64),
        "x": maps.positions[:, 0],
        "y": maps.positions[:, 1],
        **{name: maps.values(name) for name in COMPONENTS},
        **{f"{name}_sd": maps.values(f"{name}_sd") for name in COMPONENTS},
        **{f"cov_{a}_{b}": maps.covariance[:, index[a], index[b]] for a, b in COVARIANCES},
        "flagged": (~maps.known).astype(np.int64),
        "reasons": maps.flagged.astype(object),
        "reference": np.full(len(maps), maps.reference, dtype=object),
    }


def map_stream(grid: ScanGrid) -> DerivedStream:
    """The stream ``strain_maps``: a row has the whole raster."""
    names = [*COMPONENTS, *(f"{name}_sd" for name in COMPONENTS)]
    source = "axes of the scan; nan where there was no frame, or it could not be read"
    return DerivedStream("strain_maps", {n: image(source, grid.shape, UNITS[n.removesuffix("_sd")]) for n in names})


def map_row(maps: StrainMaps) -> dict[str, np.ndarray]:
    """The row of the stream ``strain_maps``."""
    return {name: maps.image(name) for c in COMPONENTS for name in (c, f"{c}_sd")}
