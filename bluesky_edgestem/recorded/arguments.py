"""How a recorded scan is named on the command line."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..option_types import whole
from .scan import Given, RecordedScan, open_file, open_run

if TYPE_CHECKING:
    from tiled.client.container import Container

SUFFIXES = (".h5", ".hdf5", ".nxs", ".nx5", ".hdf", ".emd")


def add_scan(parser: argparse.ArgumentParser) -> None:
    """Add what names a scan; `opened` takes it."""
    parser.add_argument("scan", help="uid of a run in the catalog (its first characters do), or an HDF5 file of frames")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("edgestem_data"),
        help="folder of the catalog and the frames (%(default)s)",
    )
    asked = parser.add_argument_group("what the recording does not say, or says wrongly")
    asked.add_argument("--shape", type=int, nargs=2, metavar=("NY", "NX"), help="rows and columns of the raster")
    asked.add_argument("--step", type=float, help="from one point of the raster to the next [nm]")
    asked.add_argument("--flyback", type=int, help="frames at the end of each row while the probe goes back")
    asked.add_argument("--energy", type=float, help="of the beam [keV]")
    asked.add_argument("--pixel", type=float, help="angle of a detector pixel [mrad]")
    asked.add_argument(
        "--saturation",
        type=whole(1),
        metavar="COUNTS",
        help="at which a pixel saturates; patterns with one are not read",
    )
    asked.add_argument("--dataset", help="path of the frames in the file; data key of those of a run")


@contextlib.contextmanager
def opened(options: argparse.Namespace) -> Iterator[tuple[RecordedScan, Container | None]]:
    """The scan that `options` name, and a client of the catalog that it is in; None for a file.

    Raises
    ------
    ValueError, OSError, RuntimeError
        It cannot be opened; the message says what to do.
    """
    given = Given(
        shape=tuple(options.shape) if options.shape else None,
        step=options.step,
        flyback=options.flyback,
        energy_keV=options.energy,
        pixel_mrad=options.pixel,
        dataset=options.dataset,
        saturation=options.saturation,
    )
    path = Path(options.scan)
    if path.exists() or path.suffix.lower() in SUFFIXES:
        with open_file(path, given) as scan:
            yield scan, None
        return
    from ..catalog.server import open_catalog

    with (
        open_catalog(options.folder / "catalog", frames=[options.folder / "frames"]) as client,
        open_run(client, options.scan, given) as scan,
    ):
        yield scan, client


def say_what_is_read(options: argparse.Namespace, scan: RecordedScan) -> None:
    """How many of the frames, and whether they are too few for the raster that `options` name."""
    print(f"{len(scan.frames)} of {scan.recorded} frames of {scan.name}", flush=True)
    grid = scan.grid
    needed = 0 if grid is None else grid.shape[0] * (grid.shape[1] + scan.scan.flyback)
    if options.shape is not None and scan.recorded < needed:
        print(
            f"the recording has {scan.recorded} frames of the {needed} that its raster takes: if the scan was not "
            "stopped, --shape or --flyback is wrong, and its map is sheared",
            file=sys.stderr,
        )
