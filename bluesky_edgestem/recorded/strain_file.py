"""Strain maps in an HDF5 file (NeXus): values, uncertainty, reference, conventions, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..analysis.scan_images import grid_index
from ..analysis.strain import COMPONENTS, StrainMaps
from ..stream.nexus import group

UNITS = {"exx": "", "eyy": "", "exy": "", "rotation": "rad"}
CONVENTIONS = {
    "infinitesimal": "F = (1 + strain) R(rotation): F deforms the reference crystal to the one measured; strain is "
    "symmetric, infinitesimal, in the axes of the scan; exy is the tensor's component, half the engineering shear",
    "Lagrangian": "strain = (F^T F - 1)/2, in the axes of the reference crystal; F = V R(rotation) deforms the "
    "reference crystal to the one measured; exy is the tensor's component, half the engineering shear",
}
AXES = "right-handed: x right, y up with the row index, rotation counter-clockwise; draw with origin='lower'"


def write_strain(path: Path, maps: StrainMaps, provenance: Mapping[str, Any]) -> None:
    """Write maps of `n` positions into a new file, or in place of one of that name.

    Each map is an NXdata of its own, (ny, nx) on a raster and (n,) for a list of positions, with its standard deviation
    as ``errors``; ``/entry/covariance`` holds (..., 4, 4), ``/entry/flagged``, of the
    shape of a map, why a pattern could not be read.

    Parameters
    ----------
    path : Path
    maps : StrainMaps
    provenance : mapping
        What was analysed, and by what: plain values, kept as attributes of ``/entry/process``.
    """
    with h5py.File(path, "w") as file:
        entry = group(file, "entry", "NXentry")
        file.attrs["default"] = "entry"
        entry.attrs["default"] = "exx"
        for name in COMPONENTS:
            _write_map(entry, name, maps)
        entry["covariance"] = maps.on_grid(maps.covariance)
        entry["covariance"].attrs["order"] = list(COMPONENTS)
        entry["positions"] = maps.positions
        entry["positions"].attrs["units"] = "nm"
        entry.create_dataset("flagged", data=_flagged(maps), dtype=h5py.string_dtype())
        process = group(entry, "process", "NXprocess")
        process["program"] = "bluesky_edgestem"
        process.attrs.update(
            {
                "reference": maps.reference,
                "measure": maps.measure,
                "convention": CONVENTIONS[maps.measure],
                "axes": AXES,
                "scan_rotation_rad": maps.scan_rotation,
                "mirrored": maps.mirrored,
                **provenance,
            }
        )


def scan_of(path: Path) -> str | None:
    """The scan whose maps a file of `write_strain` has; None where there is no such file."""
    try:
        with h5py.File(path, "r") as file:
            return str(file["entry/process"].attrs["scan"])
    except (OSError, KeyError):
        return None


def _flagged(maps: StrainMaps) -> np.ndarray:
    if maps.grid is None:
        return maps.flagged.astype(object)
    flagged = np.full(maps.grid.nx * maps.grid.ny, "no frame", dtype=object)
    index = grid_index(maps.grid, maps.positions)
    flagged[index[index >= 0]] = maps.flagged[index >= 0]
    return flagged.reshape(maps.grid.shape)


def _write_map(entry: h5py.Group, name: str, maps: StrainMaps) -> None:
    data = group(entry, name, "NXdata")
    data.attrs["signal"] = "data"
    data["data"], data["errors"] = maps.image(name), maps.image(f"{name}_sd")
    for each in ("data", "errors"):
        data[each].attrs["units"] = UNITS[name]
    data["data"].attrs["long_name"] = name
    if maps.grid is None:
        data["x"], data["y"] = maps.positions.T
        data.attrs["axes"] = ["."]
    else:
        data["x"], data["y"] = maps.grid.x, maps.grid.y
        data["data"].attrs["interpretation"] = "image"
        data.attrs["axes"] = ["y", "x"]
        data.attrs.update({"x_indices": 1, "y_indices": 0})
    for axis in "xy":
        data[axis].attrs["units"] = "nm"
