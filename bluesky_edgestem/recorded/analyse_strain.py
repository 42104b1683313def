"""``edgestem analyse strain``: strain maps of a scan that was recorded."""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import __version__
from ..analysis.materials import Material
from ..analysis.strain import COMPONENTS, MEASURES, StrainMaps
from ..analysis.strain_frame import Reference, StrainFrame, as_reference, check_reference, joined, strain_maps
from ..option_types import whole
from .arguments import add_scan, opened, say_what_is_read
from .scan import RecordedScan
from .strain_file import scan_of
from .train_strain import saved, say_whether_converged, tell

if TYPE_CHECKING:
    from ..analysis.affine_readings import AffineReadings
    from ..analysis.strain_autoencoder import StrainAutoencoder

BATCH = 256
"""Frames that are read from the recording before the network reads them."""
ANOTHER_SCALE = 0.02
"""Width of a lattice on the detector, against that of the weights, from which it is told."""
_NUMBER = re.compile(r"\d+(\.\d+)?")
EVERY = 4096
"""Frames between two lines of progress."""


def read_scan(
    network: StrainAutoencoder, scan: RecordedScan, progress: Callable[[str], None] | None = None
) -> AffineReadings:
    """Read all frames of a scan, a slice at a time."""
    parts = []
    n = len(scan.frames)
    for start in range(0, n, BATCH):
        parts.append(network.read(scan.frames[start : start + BATCH]))
        if progress is not None and start and start % EVERY == 0:
            progress(f"{start} of {n} frames read")
    return joined(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; exit status 0, or 1 where the network that was trained has not converged."""
    parser = argparse.ArgumentParser(
        prog="edgestem analyse strain",
        description=(
            "Strain and rotation of each frame of a scan, with their standard deviations: a picture, an HDF5 file and, "
            "of a run, a run in the catalog that names it. Without weights a network is trained on the scan first."
        ),
    )
    add_scan(parser)
    parser.add_argument("--weights", type=Path, help="of `edgestem train strain`")
    parser.add_argument("--seed", type=whole(), default=0, help="of the training, without weights (%(default)s)")
    parser.add_argument(
        "--reference",
        type=_reference,
        metavar="X0,Y0,WIDTH,HEIGHT | MATERIAL",
        help="what strain is relative to: region of the scan [nm] (--reference=-5,-5,2,2 if it begins with a minus) or "
        "material; the median of the scan without it",
    )
    parser.add_argument(
        "--rotation",
        type=_angle,
        default=0.0,
        help="from the scan's axes to the detector's, counter-clockwise [rad]",
    )
    parser.add_argument("--mirrored", action="store_true", help="the rows of a frame run the other way")
    parser.add_argument("--measure", choices=MEASURES, default="infinitesimal", help="of strain (%(default)s)")
    parser.add_argument("--out", type=Path, help="folder for the results (strain_SCAN)")
    options = parser.parse_args(argv)
    from ..analysis.strain_autoencoder import StrainAutoencoder

    # Refused before anything takes long: weights that cannot be read, frames without positions, no reference.
    network = None if options.weights is None else StrainAutoencoder.load(options.weights)
    with opened(options) as (scan, client):
        positions, grid = scan.positions, scan.grid
        check_reference(options.reference, positions, grid, scan.scan.optics)
        say_what_is_read(options, scan)
        output = options.out or _folder_of(scan.name)
        if output.exists() and not output.is_dir():
            raise FileExistsError(f"{output} is a file: name a folder by --out")
        weights = options.weights or output / "strain.pt"
        if network is None:
            network = StrainAutoencoder.train(scan.frames, seed=options.seed, progress=tell)
        # Before it reads: where the training has failed, reading may say only that it found nothing.
        status = say_whether_converged(network)
        if network.base is None:
            return status
        if options.weights is None:
            output.mkdir(parents=True, exist_ok=True)
            weights = saved(network, weights)
        if isinstance(options.reference, Material):  # a wrong calibration: told before thousands of frames are read
            StrainFrame.of_lattice(
                options.reference, network.base_vectors, scan.scan.optics, options.rotation, options.mirrored
            )
        readings = read_scan(network, scan, tell)
        if abs(wider := _wider(readings)) > ANOTHER_SCALE:
            print(
                f"the lattice is {100 * wider:+.1f} % wider on the detector than where the weights are from: another "
                "specimen, or camera length; strain relative to this scan's own median or region does not see it",
                file=sys.stderr,
            )
        maps = strain_maps(
            readings,
            positions,
            base_vectors=network.base_vectors,
            reference=options.reference,
            grid=grid,
            optics=scan.scan.optics,
            rotation=options.rotation,
            mirrored=options.mirrored,
            measure=options.measure,
            caution=network.caution,
        )
        provenance = {
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "converged": bool(network.converged),
            "version": __version__,
        }
        _write(output, maps, {"scan": scan.name, **provenance})
        if client is not None:
            from .strain_run import write_run

            uid = write_run(client, maps, scan.numbers, scan.start, provenance)
            print(f'in the catalog as run {uid}; all analyses of this run: "analyses={scan.name}"')
    return status


def _wider(readings: AffineReadings) -> float:
    """How much wider than the base pattern's the lattice is on the detector, of most patterns; 0 where none is read."""
    known = readings.transform[readings.flagged == ""]
    return float(np.median(np.sqrt(np.abs(np.linalg.det(known))))) - 1 if len(known) else 0.0


def _angle(text: str) -> float:
    try:
        angle = float(text)
    except ValueError:
        angle = np.nan
    if not abs(angle) <= 2 * np.pi:
        raise argparse.ArgumentTypeError(f"{text!r} is no angle in rad, from -6.283 to 6.283")
    return angle


def _folder_of(scan: str) -> Path:
    """For the results of a scan; raises FileExistsError where it has those of another."""
    folder = Path(f"strain_{Path(scan).stem}")
    kept = scan_of(folder / "strain.h5")
    if kept is not None and Path(kept).resolve() != Path(scan).resolve():
        raise FileExistsError(f"{folder} has the strain of {kept}, not of {scan}: choose another folder by --out")
    return folder


def _reference(text: str) -> Reference:
    try:
        if text.count(",") not in (0, 3):
            raise ValueError(f"a region is four numbers, got {text.count(',') + 1}")
        return as_reference([float(number) for number in text.split(",")] if "," in text else text)
    except (ValueError, TypeError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no reference: {error}. Give a region, x0,y0,width,height in nm, or a material"
        ) from None


def _write(output: Path, maps: StrainMaps, provenance: dict) -> None:
    from ..callbacks.strain_pictures import draw
    from .strain_file import write_strain

    output.mkdir(parents=True, exist_ok=True)
    write_strain(output / "strain.h5", maps, provenance)
    draw(maps).savefig(output / "strain.png", dpi=200)
    print(f"strain relative to {maps.reference}; {np.count_nonzero(maps.known)} of {len(maps)} patterns read")
    for k, name in enumerate(COMPONENTS):
        values, sd = maps.values(name)[maps.known], maps.sd[maps.known, k]
        scale, unit = (1e3, "mrad") if name == "rotation" else (100.0, "%")
        if len(values):
            middle, spread, typical = (scale * v for v in (np.median(values), np.std(values), np.median(sd)))
            print(f"  {name:8s} median {middle:+.4f}, spread {spread:.4f}, median sd {typical:.4f} {unit}")
    # The same reason with other numbers is the same reason; the first of its kind is told.
    kinds = Counter(_NUMBER.sub("", reason) for reason in maps.flagged[~maps.known])
    for kind, count in kinds.most_common(3):
        first = next(reason for reason in maps.flagged[~maps.known] if _NUMBER.sub("", reason) == kind)
        print(f"  not read, {count}: {first}")
    print(f"{output / 'strain.png'}, {output / 'strain.h5'}")


if __name__ == "__main__":
    sys.exit(main())
