"""``edgestem train strain``: a strain autoencoder, learned from a scan that was recorded."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..analysis.weights_file import check_output
from ..option_types import whole
from .arguments import add_scan, opened, say_what_is_read

if TYPE_CHECKING:
    from ..analysis.strain_autoencoder import StrainAutoencoder


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; exit status 0 for a network that has converged, 1 for one that has not."""
    parser = argparse.ArgumentParser(
        prog="edgestem train strain",
        description=(
            "Learns the disks of a scan's own patterns, without labels, and writes weights that read strain from this "
            "scan and from others of the same material and beam."
        ),
    )
    add_scan(parser)
    parser.add_argument("--out", type=Path, default=Path("strain.pt"), help="weights file to write (%(default)s)")
    parser.add_argument("--seed", type=whole(), default=0, help="the same seed gives the same weights (%(default)s)")
    options = parser.parse_args(argv)
    from ..analysis.strain_autoencoder import StrainAutoencoder

    check_output(options.out)
    with opened(options) as (scan, _):
        say_what_is_read(options, scan)
        network = StrainAutoencoder.train(scan.frames, seed=options.seed, progress=tell)
    for name, value in network.report.items():
        print(f"  {name.replace('_', ' ').removesuffix(' px')}: {_told(value)}{' px' * name.endswith('_px')}")
    if network.base is not None:
        print(f"weights: {saved(network, options.out)}")
    return say_whether_converged(network)


def saved(network: StrainAutoencoder, output: Path) -> Path:
    """Where the weights were written: beside those that are there if they have not converged."""
    if not network.converged and output.exists():  # it may have cost others a scan
        output = output.with_stem(f"{output.stem}-not-converged")
    network.save(output)
    return output


def _told(value: object) -> str:
    """A figure, or a list of them, to four digits."""
    if isinstance(value, list):
        return "[" + ", ".join(map(_told, value)) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def tell(line: str) -> None:
    """Print how far training is."""
    print(line, flush=True)


def say_whether_converged(network: StrainAutoencoder) -> int:
    """Exit status 0, or 1 after the reason why the network has not converged."""
    if network.caution:
        print(f"edgestem: {network.caution}", file=sys.stderr)
    return int(bool(network.caution))


if __name__ == "__main__":
    sys.exit(main())
