"""Tables of Bragg disks kept in HDF5: computed once on Dask workers, completed by running the same again.

Nothing in a table is drawn: the mean over thermal motion is computed, not sampled. So there is no seed, and the
parameters that each table keeps beside it settle it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..option_types import beam_energy, positive, scheduler_address, whole
from . import disk_tables
from .disk_tables import DiskTable
from .materials import material
from .resumable_file import UNFINISHED, resumable

FORMAT = 1
ARRAYS = ("intensity", "diffuse", "by_strain")
_PATIENCE = 60.0  # [s] for a scheduler and a first worker


@dataclass(frozen=True)
class TableSpec:
    """What a table is computed from; see `disk_tables.compute`."""

    material: str
    energy_keV: float
    layers: tuple[int, ...]
    angle_mrad: float = 10.0
    step_mrad: float = 0.25
    g_max: float = 1.2
    strained: bool = False

    @property
    def name(self) -> str:
        """Name of the table in a file."""
        return f"{self.material}_{self.energy_keV:g}keV"

    def compute(self) -> DiskTable:
        """The table."""
        return disk_tables.compute(
            self.material,
            self.energy_keV,
            self.layers,
            self.angle_mrad,
            self.step_mrad,
            self.g_max,
            strained=self.strained,
        )


MATERIALS = ("MoS2", "WS2", "graphene", "Si", "SrTiO3")
ENERGIES = (80.0, 200.0, 300.0)


def standard(
    materials: Sequence[str] = MATERIALS,
    energies: Sequence[float] = ENERGIES,
    step_nm: float = 1.0,
    angle_mrad: float = 10.0,
    step_mrad: float = 0.25,
) -> list[TableSpec]:
    """The materials at the usual energies: sheets of each number of layers, bulk crystals of 4 to 42 nm.

    Parameters
    ----------
    materials : sequence of str
        See `materials`.
    energies : sequence of float
        [keV].
    step_nm : float
        Between thicknesses of bulk crystals [nm].
    angle_mrad, step_mrad : float
        As in `disk_tables.compute`.
    """
    specs = []
    for name in materials:
        crystal = material(name)
        if crystal.max_layers <= 3:
            layers = tuple(range(1, crystal.max_layers + 1))
        else:
            # Whole periods: a layer left over shows forbidden reflections, faintly, where no crystal is that flat.
            period = crystal.period * crystal.spacing / 10
            wanted = np.arange(4.0, 42.0 + step_nm, step_nm)
            layers = tuple(dict.fromkeys(crystal.period * round(t / period) for t in wanted))
        specs += [TableSpec(name, energy, layers, angle_mrad, step_mrad, strained=True) for energy in energies]
    return specs


def _attributes(spec: TableSpec) -> dict[str, Any]:
    return asdict(spec) | {
        "layers": np.array(spec.layers),
        "reach": disk_tables.REACH,
        "debye_waller": str(material(spec.material).debye_waller),
    }


def _agree(kept: Any, spec: TableSpec) -> bool:
    # What is not there counts as False: a table of before derivatives could be kept has none.
    return all(np.array_equal(kept.get(key, False), value) for key, value in _attributes(spec).items())


def _write(file: Any, spec: TableSpec, table: DiskTable) -> None:
    # Written under a name that no reader looks for, then renamed: a table is there whole or not at all.
    group = file.create_group(UNFINISHED)
    group.attrs.update(_attributes(spec) | {"step": table.step})
    group.create_dataset("reflections", data=table.reflections)
    for name in ARRAYS if spec.strained else ARRAYS[:2]:
        # Half precision is 5e-4 of each value, a tenth of what the crystals' parameters leave open.
        group.create_dataset(name, data=getattr(table, name).astype(np.float16), compression="gzip", shuffle=True)
    file.move(UNFINISHED, spec.name)
    file.flush()


@contextlib.contextmanager
def client(scheduler: str, workers: int):
    """A Dask client of `workers` local processes, or of the scheduler at an address."""
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        address = scheduler
        if scheduler == "local":
            cluster: Any = LocalCluster(
                n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
            )
            stack.callback(cluster.close)
            address = cluster.scheduler_address
        found = stack.enter_context(Client(address, timeout=_PATIENCE, set_as_default=False))
        found.wait_for_workers(1, timeout=_PATIENCE)
        yield found


def generate(
    path: Path,
    specs: Sequence[TableSpec],
    scheduler: str = "local",
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write tables into an HDF5 file, or add those that it lacks.

    Parameters
    ----------
    path : Path
        File to write, or to complete.
    specs : sequence of TableSpec
        Tables that are wanted, one of a material and energy.
    scheduler : str
        "local" for worker processes on this machine, or the address of a Dask scheduler.
    workers : int
        Processes, one thread each, if local.
    progress : callable, optional
        Called with (tables done, tables wanted) after each.

    Returns
    -------
    int
        Tables that were computed now.

    Raises
    ------
    ValueError
        If the file holds a table of the same material and energy with other parameters, or is of another format.
    """
    path = Path(path)
    with resumable(path, "disks", lambda file, name: "material" in file[name].attrs) as file:
        if file.attrs.get("format", FORMAT) != FORMAT:
            raise ValueError(
                f"{path} is of format {file.attrs['format']}, this version writes {FORMAT}: use another file"
            )
        file.attrs["format"] = FORMAT
        for spec in specs:
            if spec.name in file and not _agree(file[spec.name].attrs, spec):
                raise ValueError(
                    f"{path} holds {spec.name} with other parameters ({dict(file[spec.name].attrs)}) than those wanted "
                    f"({_attributes(spec)}): choose another file, or those parameters"
                )
        missing = [spec for spec in specs if spec.name not in file]
        if not missing:
            return 0
        with client(scheduler, workers) as dask:
            from distributed import as_completed

            tasks = {dask.submit(TableSpec.compute, spec, pure=False): spec for spec in missing}
            done = len(specs) - len(missing)
            for task in as_completed(list(tasks), loop=dask.loop):
                _write(file, tasks.pop(task), task.result())
                task.release()
                done += 1
                if progress is not None:
                    progress(done, len(specs))
    return len(missing)


def contents(path: Path) -> list[tuple[str, float]]:
    """Materials and energies [keV] of the tables in a file, in order.

    Raises
    ------
    ValueError
        If there is no such file, it has no table, or is of another format.
    """
    import h5py

    if not Path(path).exists():
        raise ValueError(f"there is no library of disks {path}: make it with `edgestem train library`")
    none = ValueError(f"{path} is no library of disks of format {FORMAT}: make it with `edgestem train library`")
    if not h5py.is_hdf5(path):
        raise none
    with h5py.File(path, "r") as file:
        tables = sorted(set(file) - {UNFINISHED})
        if file.attrs.get("format") != FORMAT or not tables or any("material" not in file[t].attrs for t in tables):
            raise none
        return [(str(file[t].attrs["material"]), float(file[t].attrs["energy_keV"])) for t in tables]


def parameters(path: Path) -> str:
    """What the tables of a file were computed with, as JSON: an object of each by its name."""
    import h5py

    with h5py.File(path, "r") as file:
        told = {name: {k: np.asarray(v).tolist() for k, v in file[name].attrs.items()} for name in file}
    return json.dumps({name: told[name] for name in sorted(told) if name != UNFINISHED}, sort_keys=True)


def read(path: Path, name: str, energy_keV: float) -> DiskTable:
    """The table of a material at an energy.

    Raises
    ------
    ValueError
        If the file has no such table or is of another format; the message lists those that it has.
    """
    import h5py

    with h5py.File(path, "r") as file:
        if file.attrs.get("format") != FORMAT:
            raise ValueError(f"{path} is no library of disks of format {FORMAT}; make one with `generate`")
        wanted = TableSpec(name, energy_keV, ()).name
        if wanted not in file:
            raise ValueError(f"{path} has no table {wanted}; it has {', '.join(file) or 'none'}")
        group = file[wanted]
        return DiskTable(
            name,
            energy_keV,
            group.attrs["layers"],
            group["reflections"][()],
            float(group.attrs["step"]),
            *(group[array][()].astype(np.float32) for array in ARRAYS if array in group),
        )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """The options ``--scheduler`` and ``--workers``."""
    parser.add_argument(
        "--scheduler",
        type=scheduler_address,
        default="local",
        help="address of a Dask scheduler, for example tcp://host:8786, or local",
    )
    parser.add_argument("--workers", type=whole(1), default=1, help="processes on this machine, if local")


def main(arguments: Sequence[str]) -> int:
    """``edgestem train library``."""
    parser = argparse.ArgumentParser(
        prog="edgestem train library",
        description=(
            "Computes the Bragg disks of crystals by multislice, once for all strains, tilts and apertures: minutes to"
            " an hour of one core for a bulk material and energy. Interrupted, it goes on where it was when repeated."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("edgestem_data/disks.h5"), help="HDF5 file to write")
    parser.add_argument("--material", nargs="+", default=MATERIALS, metavar="NAME", help="crystals")
    parser.add_argument(
        "--energies",
        nargs="+",
        type=beam_energy,
        default=ENERGIES,
        metavar="KEV",
        help="of the beam [keV]",
    )
    parser.add_argument(
        "--step-nm", type=positive("a step [nm]"), default=1.0, help="between thicknesses of bulk crystals [nm]"
    )
    parser.add_argument(
        "--angle-mrad",
        type=positive("an angle [mrad]"),
        default=10.0,
        help="largest semiangle and mistilt together [mrad]",
    )
    parser.add_argument(
        "--step-mrad", type=positive("a step [mrad]"), default=0.25, help="between directions of the beam [mrad]"
    )
    add_workers(parser)
    options = parser.parse_args(arguments)
    specs = standard(options.material, options.energies, options.step_nm, options.angle_mrad, options.step_mrad)

    def progress(done: int, wanted: int) -> None:
        print(f"table {done} of {wanted}", flush=True)

    made = generate(options.out, specs, options.scheduler, options.workers, progress)
    print(f"{options.out}: {len(specs)} tables, {made} of them computed now")
    return 0
