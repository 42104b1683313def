"""The command ``edgestem train descriptors``: the likelihood network of monolayers, or the crystal network."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..option_types import whole
from . import crystals
from .materials import MATERIALS
from .training_data import PATTERNS_PER_CONDITION
from .weights_file import check_output

#: Options of the crystal network's training alone.
CRYSTAL = ("steps", "minutes", "batch", "device")
#: Multislice patterns, at least: of two conditions, one to train on and one to judge by.
_LEAST = 2 * PATTERNS_PER_CONDITION


def main(arguments: list[str]) -> int:
    """Train, and print the card.

    Raises
    ------
    ValueError, OSError
        A setting is not allowed, or a file cannot be used; the message says which.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    thick_only = [f"--{k}" for k in CRYSTAL if getattr(options, k) != parser.get_default(k)]
    # Of monolayers alone nothing reads better than the likelihood network.
    thick = bool(set(options.material or ()) - set(crystals.MONOLAYERS))
    if thick_only and not thick:
        parser.error(f"{', '.join(thick_only)}: for the crystal network; name a thick --material, or leave it out")
    if thick and options.patterns != parser.get_default("patterns"):
        parser.error("--patterns: for the likelihood network; the crystal network sees --batch patterns a step")
    data = options.data or Path("edgestem_data") / ("training_disks.h5" if thick else "patterns.h5")
    out = options.out or Path("crystal.pt" if thick else "descriptor.pt")
    check_output(out, (".md", ".json") if thick else (".md",))
    typed = f"edgestem train descriptors --seed {options.seed}"
    averaged = f" --averaging {options.averaging}" if options.averaging else ""
    chosen = {"averaging": options.averaging} if options.averaging else {}
    if thick:
        from .crystal_card import card_text
        from .crystal_training import train

        settings = {name: getattr(options, name) for name in CRYSTAL}
        changed = "".join(f" --{k} {v}" for k, v in settings.items() if v != parser.get_default(k))
        typed += f" --material {' '.join(options.material)}" + changed + averaged
        card = train(
            out, data, options.material, seed=options.seed, workers=options.workers, command=typed, **settings, **chosen
        )
    else:
        from .training import train
        from .training_card import card_text

        if options.material and set(options.material) != set(crystals.MONOLAYERS):
            print("MoS2 and WS2 are read by one network, which is trained on both")
        typed += f" --patterns {options.patterns}" + averaged
        card = train(out, data, options.seed, options.patterns, options.workers, command=typed, **chosen)
    print(card_text(card))
    print(f"weights: {out}; card: {out.with_suffix('.md')}")
    return 0


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not 0 <= minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no time: minutes, 0 or more")
    return minutes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgestem train descriptors",
        description=(
            "Computes multislice patterns, trains on them, judges the network on conditions held out, and writes the "
            "weights and a card. Without materials it trains the likelihood network of MoS2 and WS2 monolayers; with "
            "them, the crystal network, on patterns drawn from tables of disks. An interrupted computation of patterns "
            "or tables goes on where it was when the command is repeated."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="settles patterns, noise and training")
    parser.add_argument("--workers", type=whole(1), default=1, help="processes that compute patterns or tables")
    parser.add_argument("--out", type=Path, help="weights file to write; descriptor.pt, or crystal.pt")
    parser.add_argument(
        "--data",
        type=Path,
        help="HDF5 file of the patterns, edgestem_data/patterns.h5, or tables, edgestem_data/training_disks.h5",
    )
    parser.add_argument(
        "--patterns",
        type=whole(_LEAST),
        default=4800,
        help=f"multislice patterns of monolayers, {_LEAST} or more; 60 ms each",
    )
    parser.add_argument(
        "--averaging",
        choices=("weights", "noise", "both", "none"),
        help="weights (over steps), noise (drawn twice), both or none; if not given, weights for the crystal network, "
        "none for the likelihood network",
    )
    crystal = parser.add_argument_group("the crystal network")
    crystal.add_argument(
        "--material",
        nargs="+",
        choices=tuple(MATERIALS),
        metavar="NAME",
        help=f"of {', '.join(MATERIALS)}, which it shall know; MoS2 and WS2 alone are the likelihood network's",
    )
    crystal.add_argument(
        "--steps", type=whole(1), default=3000, help="of the optimiser; a tenth of a second each on a GPU"
    )
    crystal.add_argument("--minutes", type=_minutes, default=0.0, help="train no longer than so long; 0 for no limit")
    crystal.add_argument("--batch", type=whole(2), default=480, help="patterns a step")
    crystal.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="what computes")
    return parser
