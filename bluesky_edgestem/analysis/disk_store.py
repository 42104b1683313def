"""The disks of the thick crystals as they ship: a few bits of each intensity, in one small file.

A table of `disk_tables` in half precision is six megabytes. Here each reflection's intensities are kept as 8 bits of
their square root, whose rounding is less than the noise of a few thousand electrons in a disk. What strain does to them
changes more slowly with thickness, and is multiplied by a few hundredths: it is kept at every other thickness, as a
whole number of its largest value's parts.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import weights_file
from .disk_library import ENERGIES, TableSpec
from .disk_rendering import DeviceTable
from .disk_tables import DiskTable
from .materials import material
from .projected_lattice import primitive
from .weights_file import WeightsFile

SHIPPED = weights_file.SHIPPED / "disks.bin"
DISKS = WeightsFile(b"EDGESTEM-DISKS", 2, "disk library", "write it anew with `benchmarks/make_disk_library.py`")
#: How far the beam's energy may be from a table's, as a part of it.
TOLERANCE = 5e-3
#: Largest semiangle and mistilt together of the tables of thick crystals, by energy [mrad]; disks may not overlap.
WIDEST = {("Si", 200.0): 8.9, ("SrTiO3", 200.0): 8.2, ("Si", 300.0): 8.1, ("SrTiO3", 300.0): 7.6}
#: Of the square root of an intensity, and of a derivative to either side of nought.
_LEVELS, _SLOPE_LEVELS = 255, 127


def specs(materials: Sequence[str] = ("Si", "SrTiO3"), energies: Sequence[float] = ENERGIES) -> list[TableSpec]:
    """The tables that ship: 1 nm apart, of whole periods, as wide as separate disks and 5 mrad of mistilt are."""
    found = []
    for energy in energies:
        for name in materials:
            crystal = material(name)
            period = crystal.period * crystal.spacing / 10
            layers = tuple(crystal.period * round(t / period) for t in np.arange(3.5, 42.6))
            found.append(TableSpec(name, energy, layers, WIDEST.get((name, energy), 10.2), 0.36, 1.12, strained=True))
    return found


def write(path: Path, tables: Sequence[DiskTable]) -> None:
    """Write tables, without what only a surface shows and diffuse scattering.

    Raises
    ------
    ValueError
        If a table has no derivatives by strain.
    """
    arrays: dict[str, np.ndarray] = {}
    for table in tables:
        if table.by_strain is None:
            raise ValueError(
                f"the table of {table.material} has no derivatives by strain: compute it with strained=True"
            )
        crystal = material(table.material)
        index = table.reflections @ crystal.reciprocal @ primitive(crystal).T
        shown = (np.abs(index - np.round(index)) < 1e-6).all(1)
        roots = np.sqrt(np.maximum(table.intensity[:, shown], 0))
        largest = roots.max((0, 2, 3))
        levels = np.round(roots / largest[:, None, None] * _LEVELS).astype(np.uint8)
        strained = np.unique(np.append(np.arange(0, len(table.layers), 2), len(table.layers) - 1))
        slopes = table.by_strain[:, strained][:, :, shown]
        steepest = np.maximum(np.abs(slopes).max((1, 3, 4)), 1e-12)
        name = f"{table.material} {table.energy_keV:g}"
        # Thickness last: what is alike is then next to each other, and packed well. From one thickness to the next
        # intensities change little; they wrap around at 256.
        arrays[f"{name} rises"] = np.moveaxis(np.diff(levels, axis=0, prepend=np.zeros_like(levels[:1])), 0, -1)
        arrays[f"{name} largest"] = largest.astype(np.float32)
        arrays[f"{name} slopes"] = np.moveaxis(
            np.round(slopes / steepest[:, None, :, None, None] * _SLOPE_LEVELS).astype(np.int8), 1, -1
        )
        arrays[f"{name} steepest"] = steepest.astype(np.float32)
        arrays[f"{name} layers"] = np.asarray(table.layers, np.int32)
        arrays[f"{name} strained"] = strained.astype(np.int32)
        arrays[f"{name} reflections"] = np.asarray(table.reflections[shown], np.int32)
        arrays[f"{name} step"] = np.array(table.step)
    payload = io.BytesIO()
    # As `numpy.savez_compressed` does, but with the better of the methods that `numpy.load` takes.
    with zipfile.ZipFile(payload, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
    DISKS.write(path, payload.getvalue())


@cache
def _file(path: Path) -> Any:
    return np.load(io.BytesIO(DISKS.read(path)), allow_pickle=False)


@cache
def _energies(path: Path, name: str) -> tuple[float, ...]:
    keys = (key.split() for key in _file(path).files)
    return tuple(float(energy) for of, energy, what in keys if of == name and what == "step")


@cache
def _table(path: Path, name: str, energy_keV: float, device: torch.device) -> DeviceTable:
    file, key = _file(path), f"{name} {energy_keV:g}"
    levels = np.moveaxis(np.cumsum(file[f"{key} rises"], axis=-1, dtype=np.uint8), -1, 0)
    roots = levels.astype(np.float32) / _LEVELS * file[f"{key} largest"][:, None, None]
    layers, reflections = file[f"{key} layers"], file[f"{key} reflections"]
    plain = DiskTable(name, energy_keV, layers, reflections, float(file[f"{key} step"]), roots**2, np.zeros(0))
    slopes = np.moveaxis(file[f"{key} slopes"], -1, 1).astype(np.float32) / _SLOPE_LEVELS
    slopes *= file[f"{key} steepest"][:, None, :, None, None]
    return replace(
        DeviceTable.of(plain, device),
        by_strain=torch.tensor(slopes, device=device),
        strained_layers=layers[file[f"{key} strained"]],
    )


def table(name: str, energy_keV: float, device: torch.device | str = "cpu", path: Path = SHIPPED) -> DeviceTable | None:
    """The disks of a material at an energy [keV], or None where the library has none.

    Raises
    ------
    ValueError
        If the file is missing, cut short, altered or of another format; the message names it.
    """
    for energy in _energies(path, name):
        if abs(energy_keV / energy - 1) < TOLERANCE:
            return _table(path, name, energy, torch.device(device))
    return None
