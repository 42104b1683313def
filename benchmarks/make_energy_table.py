"""Make the committed data of the energies: relaxed cells by each method, and DFT energies over strain.

python benchmarks/make_energy_table.py            # the table, about 5 minutes of one core
python benchmarks/make_energy_table.py --relax    # the relaxed cells first, about 3 minutes more
python benchmarks/make_energy_table.py --check    # the error of the standard method against a tight one, printed;
                                                  # --check WS2 of one phase, half an hour of a shared core
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

# Before numpy is loaded: with two threads these small matrices take 20 times as long.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from scipy.stats import qmc

from bluesky_edgestem.analysis.crystals import MONOLAYERS
from bluesky_edgestem.energetics import method as methods
from bluesky_edgestem.energetics.dft import MonolayerDFT
from bluesky_edgestem.energetics.relaxation import relax

DATA = Path(methods.__file__).parent / "data"
CELLS, TABLE = DATA / "relaxed_cells.json", DATA / "monolayer_energies.json"
EXTENT = np.array([0.04, 0.04, 0.03])  # exx, eyy, exy
POINTS = 48

CHECKED = [
    (0.03, 0.03, 0.0), (-0.03, -0.03, 0.0), (0.03, 0.0, 0.0), (-0.03, 0.0, 0.0), (0.0, 0.0, 0.03),
    (0.02, -0.015, 0.01), (-0.01, 0.025, 0.015), (0.005, -0.01, 0.004),
]  # fmt: skip


def provenance() -> dict[str, str]:
    """What made a file."""
    packages = ("gpaw", "gpaw-data", "ase", "numpy", "scipy")
    return {
        "command": "python " + " ".join(sys.argv),
        "versions": ", ".join(f"{name} {version(name)}" for name in packages),
        "date": time.strftime("%Y-%m-%d"),
    }


def make_cells() -> None:
    """Relax each phase by each method."""
    cells = {}
    for method in methods.METHODS.values():
        cells[method.model] = {}
        for formula in MONOLAYERS:
            cells[method.model][formula] = asdict(relax(formula, method))
            print(method.model, formula, cells[method.model][formula], flush=True)
    CELLS.write_text(json.dumps({**provenance(), "cells": cells}, indent=1) + "\n")
    methods.relaxed_cell.cache_clear()


def make_table(method: methods.DFTMethod) -> None:
    """Energies of each phase over strain, Sobol points and zero."""
    points = (2 * qmc.Sobol(3, seed=0).random(64)[: POINTS - 1] - 1) * EXTENT
    # Neighbours follow each other, so that each start is near its end.
    points = points[np.lexsort((points[:, 1], np.round(points[:, 0] / 0.02)))]
    phases = {}
    for formula in MONOLAYERS:
        calculation, rows = MonolayerDFT(formula, method), []
        for strain in [(0.0, 0.0, 0.0), *map(tuple, points)]:
            result = calculation.result(strain)
            if result.state != "converged":
                raise RuntimeError(f"{formula} at {strain}: {result.reason}")
            rows.append(
                [
                    *result.strain,
                    round(result.energy, 7),
                    *(round(g, 5) for g in result.gradient),
                    round(result.wall_s, 2),
                ]
            )
            print(formula, rows[-1], flush=True)
        phases[formula] = rows
    columns = ["exx", "eyy", "exy", "energy_eV", "dE_dexx_eV", "dE_deyy_eV", "dE_dexy_eV", "wall_s"]
    about = {**provenance(), "method": method.name, "settings": asdict(method), "columns": columns}
    head = json.dumps(about, indent=1)
    # One row a line: a table that a person and a diff can read.
    body = ",\n".join(
        f'  "{formula}": [\n' + ",\n".join(f"   {json.dumps(row)}" for row in rows) + "\n  ]"
        for formula, rows in phases.items()
    )
    TABLE.write_text(f'{head[:-2]},\n "energies": {{\n{body}\n }}\n}}\n')


def check(method: methods.DFTMethod, formulas: Sequence[str]) -> None:
    """Print energies of `formulas` by `method` and by a tight one, whose cell is relaxed by itself."""
    tight = replace(
        method, cutoff=500.0, kpoints=12, vacuum=9.0, grid=(20, 20, 68), density_tolerance=1e-5, energy_tolerance=1e-6,
        state_tolerance=1e-8,
    )  # fmt: skip
    for formula in formulas:
        begun = time.monotonic()
        ours, theirs = MonolayerDFT(formula, method), MonolayerDFT(formula, tight, relax(formula, tight))
        print(f"{formula}: a {ours.cell.a:.4f} Å, tight {theirs.cell.a:.4f} Å", flush=True)
        for strain in CHECKED:
            here, there = ours.result(strain), theirs.result(strain)
            slope = max(abs(np.subtract(here.gradient, there.gradient)))
            energies = f"{1e3 * here.energy:.2f} meV, tight {1e3 * there.energy:.2f} meV"
            print(f"  {strain}: {energies}, gradient differs by {slope:.3f} eV", flush=True)
        print(f"  {time.monotonic() - begun:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--relax", action="store_true", help="relax the cells first")
    parser.add_argument(
        "--check",
        nargs="*",
        choices=list(MONOLAYERS),
        metavar="FORMULA",
        help="only compare the standard method with a tight one, for these phases, or all",
    )
    arguments = parser.parse_args()
    if arguments.check is not None:
        check(methods.STANDARD, arguments.check or list(MONOLAYERS))
        return
    if arguments.relax:
        make_cells()
    make_table(methods.STANDARD)


if __name__ == "__main__":
    main()
