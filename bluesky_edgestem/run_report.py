"""The report of a run that is in the catalog: written, and told in the terminal."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .analysis import crystals
from .geometry import ScanGrid
from .report import RunRecord, Score, described, figures, write_report

if TYPE_CHECKING:
    from tiled.client.container import Container


class NothingToReport(ValueError):
    """A run without a map of the energy."""


def report(client: Container, uid: str, folder: Path) -> None:
    """Write the report of a run, and print its figures, its path and how to find the run again.

    A run of the simulated microscope, which says its ``specimen_seed``, is compared with the specimen's truth.

    Parameters
    ----------
    client : Container
        Tiled client of the catalog.
    uid : str
        Of the run, or its beginning.
    folder : Path
        Holds the catalog, and the reports.

    Raises
    ------
    NothingToReport
        The run ended before its first batch was complete, or is of a plan that makes no map.
    ValueError
        There is no such run, or it cannot be read.
    OSError
        The report cannot be written.
    """
    try:
        run = client[uid]
    except (KeyError, ValueError):
        raise ValueError(f"no run {uid!r} in this catalog; `edgestem catalog search` lists those there are") from None
    try:
        record = RunRecord.read(run)
    except KeyError as missing:
        raise ValueError(f"run {uid!r} is in the catalog, but cannot be read: {missing} is missing") from None
    uid, plan = record.start["uid"], record.start.get("plan_name", "a plan")
    if not record.optimization:
        raise NothingToReport(
            f"run {uid[:8]} ({plan}) has no map of the energy, which the report is of: "
            "it ended before its first batch was complete, or its plan makes none"
        )
    truth = score(record) if "specimen_seed" in record.start else None
    query = (
        "from bluesky_edgestem.catalog.server import open_catalog\n"
        f"with open_catalog({str(folder / 'catalog')!r}) as catalog:\n"
        f"    run = catalog[{uid!r}]\n"
        '    print(run["energetics"].read())\n'
        '    frame = run["primary"]["detector"][0]\n'
    )
    reports = folder / "reports"
    reports.mkdir(exist_ok=True)
    path = write_report(record, reports / f"{uid}.html", query, truth)
    print()
    for name, value in described(figures(record, truth)).items():
        print(f"  {name}: {value}")
    print(f"\nreport: {path}")
    sought = f"sample={sample}" if (sample := record.start.get("sample")) else f"uid={uid}"
    print(f"find it again: {command_line('catalog', 'search', '--folder', folder, sought)}")
    print(f"read it back:\n{query}")


def command_line(*words: object) -> str:
    """What to type, in this shell, for ``edgestem`` with `words`: it need not be on the path, as after `make demo`."""
    program = Path(sys.executable).with_name("edgestem")
    found = shutil.which("edgestem")
    if found and program.exists() and os.path.samefile(found, program):
        own = ["edgestem"]
    else:
        own = [str(program)] if program.exists() else [sys.executable, "-m", "bluesky_edgestem"]
    return shlex.join([*own, *map(str, words)])


def score(record: RunRecord) -> Score:
    """Compare the energy map of a simulated run with the energies of the specimen's true structure.

    The truth is the committed table of DFT energies over strain, at the true strain of each point of the map: by the
    standard method, whatever the run's is.
    """
    from .energetics.emulator import Emulator
    from .sim.specimen import Heterojunction

    mean, sd = record.optimization["energy_mean"][-1], record.optimization["energy_sd"][-1]
    grid = ScanGrid(record.field, mean.shape[1], mean.shape[0])
    specimen = Heterojunction(record.start["specimen_seed"])
    strain, rotation = specimen.strain(grid.positions), specimen.rotation(grid.positions)
    phases = specimen.phase(grid.positions)
    truth = np.empty(len(phases))
    emulator = Emulator()
    for phase in np.unique(phases):
        there = phases == phase
        own = crystals.phase_strain(strain[there], rotation[there], str(phase))
        truth[there] = emulator.energy(str(phase), own)
    truth = truth.reshape(grid.shape)
    error = mean - truth
    return Score(
        rmse=float(np.sqrt(np.mean(error**2))),
        worst=float(np.abs(error).max()),
        coverage=float(np.mean(np.abs(error) <= 1.96 * sd)),
        truth=truth,
    )
