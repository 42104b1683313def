"""Sets of training patterns of thick crystals in HDF5, drawn in parallel from a library of disks, resumable.

Patterns come in blocks. A block has one material and energy, so that a worker needs one table at a time, and one
detector, with its dead and hot pixels. Each pattern's parameters stand beside it; the set's seed, the block's number
and the pattern's settle its draws. Whoever splits patterns into those to train on and those to judge by splits by
blocks.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..option_types import whole
from . import disk_library
from .diffraction import counted
from .disk_tables import DiskTable
from .pattern_draws import DTYPE, draw, expected
from .pixel_defects import PixelDefects
from .resumable_file import UNFINISHED, resumable

FORMAT = 1
PER_BLOCK = 500


@dataclass(frozen=True)
class Block:
    """Patterns of one material and energy on one detector."""

    index: int
    material: str
    energy_keV: float
    counts: np.ndarray  #: (n, n_pixels, n_pixels) uint16
    drawn: np.ndarray  #: (n,) of `pattern_draws.DTYPE`, a field for each of `pattern_draws.Drawn`
    dead: np.ndarray  #: (n_pixels, n_pixels) bool
    hot: np.ndarray  #: (n_pixels, n_pixels) counts that a pixel adds to a frame


@lru_cache(maxsize=1)
def _table(library: Path, name: str, energy_keV: float) -> DiskTable:
    return disk_library.read(library, name, energy_keV)


def draw_block(
    library: Path, name: str, energy_keV: float, seed: int, index: int, n_pixels: int, patterns: int
) -> Block:
    """A block; seed and index settle every draw of it, pattern i is settled by (seed, index, i)."""
    table = _table(library, name, energy_keV)
    defects = PixelDefects.draw(n_pixels, np.random.default_rng([seed, index]))
    rows, counts = [], np.empty((patterns, n_pixels, n_pixels), np.uint16)
    for i in range(patterns):
        rng = np.random.default_rng([seed, index, i])
        drawn = draw(table, n_pixels, rng)
        counts[i] = defects.applied(counted(expected(table, drawn, n_pixels), drawn.dose, rng), rng)
        rows.append(tuple(getattr(drawn, field) for field in DTYPE.names or ()))
    return Block(index, name, energy_keV, counts, np.array(rows, DTYPE), defects.dead, defects.hot)


def _group(index: int) -> str:
    return f"block_{index:05d}"


def _write(file: Any, block: Block) -> None:
    # Written under a name that no reader looks for, then renamed: a block is there whole or not at all.
    group = file.create_group(UNFINISHED)
    group.attrs.update(material=block.material, energy_keV=block.energy_keV)
    group.create_dataset("counts", data=block.counts, compression="lzf", shuffle=True, chunks=(1, *block.dead.shape))
    for name in ("drawn", "dead", "hot"):
        group.create_dataset(name, data=getattr(block, name))
    file.move(UNFINISHED, _group(block.index))
    file.flush()


def generate(
    path: Path,
    library: Path,
    seed: int,
    patterns: int,
    n_pixels: int = 128,
    scheduler: str = "local",
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    per_block: int = PER_BLOCK,
) -> int:
    """Write at least `patterns` patterns into an HDF5 file, or add those that it lacks.

    Parameters
    ----------
    path : Path
        File to write, or to complete.
    library : Path
        Library of disks, which the workers can read too; its materials and energies take turns.
    seed : int
        Settles every draw; a file holds one seed.
    patterns : int
        Rounded up to whole blocks.
    n_pixels : int
        Along each side of the frames.
    scheduler, workers
        As in `disk_library.generate`.
    progress : callable, optional
        Called with (blocks done, blocks wanted) after each.
    per_block : int
        Patterns in a block.

    Returns
    -------
    int
        Blocks that were drawn now.

    Raises
    ------
    ValueError
        If the file holds patterns of another seed, size, library or format.
    """
    path, library = Path(path), Path(library).absolute()
    tables = disk_library.contents(library)
    parameters = disk_library.parameters(library)
    which = hashlib.sha256(parameters.encode()).hexdigest()[:16]
    stated = {"format": FORMAT, "seed": seed, "n_pixels": n_pixels, "per_block": per_block, "library": which}
    wanted = -(-patterns // per_block)
    with resumable(path, "training patterns", lambda file, name: name.startswith("block_")) as file:
        if different := [f"{k} {file.attrs[k]}, wanted {v}" for k, v in stated.items() if file.attrs.get(k, v) != v]:
            raise ValueError(f"{path} holds other patterns ({'; '.join(different)}): choose another file, or those")
        missing = [index for index in range(wanted) if _group(index) not in file]
        if not missing:
            return 0
        # One table after the other, so that a worker reads each a few times at most.
        missing.sort(key=lambda index: (index % len(tables), index))
        with disk_library.client(scheduler, workers) as dask:
            from distributed import as_completed

            tasks = [
                dask.submit(
                    draw_block, library, *tables[index % len(tables)], seed, index, n_pixels, per_block, pure=False
                )
                for index in missing
            ]
            for done, task in enumerate(as_completed(tasks, loop=dask.loop), wanted - len(missing) + 1):
                block = task.result()
                file.attrs.update(
                    stated, tables=parameters
                )  # with the first of its blocks: a run that drew none settles nothing
                _write(file, block)
                task.release()
                if progress is not None:
                    progress(done, wanted)
    return len(missing)


def read_block(path: Path, index: int) -> Block:
    """One block of a file.

    Raises
    ------
    ValueError
        If the file has no such block, or is of another format.
    """
    import h5py

    with h5py.File(path, "r") as file:
        if file.attrs.get("format") != FORMAT or _group(index) not in file:
            raise ValueError(f"{path} has no block {index} of format {FORMAT}; make it with `edgestem train patterns`")
        group = file[_group(index)]
        arrays = {name: group[name][()] for name in ("counts", "drawn", "dead", "hot")}
        return Block(index, str(group.attrs["material"]), float(group.attrs["energy_keV"]), **arrays)


def main(arguments: Sequence[str]) -> int:
    """``edgestem train patterns``."""
    parser = argparse.ArgumentParser(
        prog="edgestem train patterns",
        description=(
            "Draws training patterns from a library of disks: strain, rotation, thickness, mistilt, aperture, "
            "calibration, descan, ellipticity, dose, background, point spread, dead and hot pixels. Where there is no "
            "library, that of `edgestem train library` is computed first, in hours. Interrupted, it goes on where it "
            "was when repeated."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, default=Path("edgestem_data/crystal_patterns.h5"), help="HDF5 file to write"
    )
    parser.add_argument("--library", type=Path, default=Path("edgestem_data/disks.h5"), help="library of disks")
    parser.add_argument("--patterns", type=whole(1), default=50_000, help="rounded up to whole blocks of 500")
    parser.add_argument("--pixels", type=whole(32, 1024), default=128, help="along each side of the frames")
    parser.add_argument("--seed", type=whole(), default=0, help="settles every draw")
    disk_library.add_workers(parser)
    options = parser.parse_args(arguments)

    def progress(done: int, wanted: int) -> None:
        print(f"block {done} of {wanted}", flush=True)

    if not options.library.exists():
        print(f"there is no library of disks {options.library}: that of `edgestem train library` is computed first")
        disk_library.generate(
            options.library, disk_library.standard(), options.scheduler, options.workers,
            lambda done, wanted: print(f"table {done} of {wanted}", flush=True),
        )  # fmt: skip
    made = generate(
        options.out, options.library, options.seed, options.patterns, options.pixels, options.scheduler,
        options.workers, progress,
    )  # fmt: skip
    print(f"{options.out}: {made} blocks of {PER_BLOCK} patterns drawn now")
    return 0
