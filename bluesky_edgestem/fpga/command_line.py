"""``edgestem fpga build``: what the command line asks for, carried out and reported."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..analysis.optics import Optics
from ..option_types import positive, whole
from . import report
from .build import Plan, build
from .frontend import Frontend
from .shipped import folder_of
from .student import NAME as STUDENT
from .student import Student
from .targets import TARGETS
from .widths import Widths

SHIPPED_TEACHERS = ("descriptors-MoS2", "descriptors-WS2")
#: Options that a student settles, and of these, those that are left to who goes on from it.
OF_STUDENT = (
    "pixels", "bin", "pixel_bits", "bin_bits", "energy", "semiangle", "view", "filters", "hidden",
    "filter_bits", "activation_bits", "luts", "weight_bits", "epochs",
)  # fmt: skip
LEFT = ("luts", "epochs")


def _clock(value: str) -> float:
    matched = re.fullmatch(r"(\d+(?:\.\d*)?)\s*MHz", value)
    if not matched or not 1 <= float(matched[1]) <= 1000:
        raise argparse.ArgumentTypeError(f"{value!r} is no clock; give 1MHz to 1000MHz, for example 100MHz")
    return float(matched[1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgestem fpga build",
        description=(
            "Distils a descriptor network into a student small enough for an FPGA, trains it with the numbers that the "
            "board has, writes it as a project of Vitis HLS and as Verilog, and verifies that all agree bit for bit."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--teacher", default="descriptors-MoS2",
        help=f"{' or '.join(SHIPPED_TEACHERS)}, the network that ships and reads both, or weights of your own",
    )  # fmt: skip
    parser.add_argument(
        "--student", default=None, metavar="BUILD",
        help="folder of another build, or shipped: its student, with its frames and optics, instead of training one",
    )  # fmt: skip
    parser.add_argument(
        "--start", default=None, metavar="BUILD",
        help="folder of another build, or shipped: its student is pruned for --luts and trained on, the last --epochs",
    )  # fmt: skip
    parser.add_argument(
        "--target",
        choices=sorted(TARGETS),
        default="xcu250",
        help="device that the project of Vitis HLS is for, whose board's port is in the budget",
    )
    parser.add_argument(
        "--clock", type=_clock, default="100MHz", help="clock that Vitis HLS aims at and the budget is of"
    )
    parser.add_argument("--out", type=Path, default=Path("build/board"), help="folder to write")
    parser.add_argument("--energy", type=positive("an energy [keV]"), default=80.0, help="beam energy [keV]")
    parser.add_argument(
        "--semiangle", type=positive("an angle [mrad]"), default=2.0, help="convergence semiangle [mrad]"
    )
    parser.add_argument(
        "--pixels", type=whole(48, 4096), default=48, help="pixels along each side of the detector's frames"
    )
    parser.add_argument(
        "--view", type=positive("an angle [mrad]"), default=64.0, help="angle that the frame spans [mrad]"
    )
    parser.add_argument("--bin", type=int, default=1, choices=(1, 2, 4), help="pixels that are added along each axis")
    parser.add_argument("--pixel-bits", type=int, default=16, choices=(8, 16), help="depth of a pixel on the wire")
    parser.add_argument("--bin-bits", type=whole(4, 12), default=7, help="depth of what the network sees, 4 to 12")
    parser.add_argument("--pixels-a-clock", type=int, default=8, choices=(1, 8, 16), help="on the board's input")
    parser.add_argument(
        "--patterns", type=whole(500, 10**7), default=Plan.patterns, help="patterns that the teacher reads"
    )
    parser.add_argument(
        "--epochs", type=whole(1, 10**4), nargs=3, default=list(Plan.epochs),
        help="in floating point, quantised, and once inputs are pruned; none of the last with --weight-bits",
    )  # fmt: skip
    parser.add_argument("--filters", type=whole(1, 256), default=Widths.filters, help="matched filters")
    parser.add_argument(
        "--hidden", type=whole(1, 1024), nargs="+", default=list(Widths.hidden), help="sizes of hidden layers"
    )
    parser.add_argument(
        "--filter-bits", type=int, default=Widths.filter_bits, choices=(2, 3, 4), help="of the filters' weights"
    )
    parser.add_argument(
        "--luts", type=whole(1, 10**7), default=Widths.luts,
        help="that dense layers may take, about, for which each neuron's inputs and bits are searched",
    )  # fmt: skip
    parser.add_argument(
        "--weight-bits",
        type=whole(2, 12),
        nargs="+",
        help="of each dense layer's weights, none pruned; searched if left out",
    )
    parser.add_argument(
        "--activation-bits",
        type=whole(2, 12),
        nargs="+",
        default=list(Widths.activation_bits),
        help="behind each hidden layer",
    )
    parser.add_argument("--frames", type=whole(10, 10**7), default=Plan.frames, help="on which all forms have to agree")
    parser.add_argument(
        "--scored", type=whole(1, 10**5), default=Plan.scored, help="multislice patterns that the accuracy is of"
    )
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help="settles every draw")
    parser.add_argument("--workers", type=whole(1, 1000), default=Plan.workers, help="processes that draw patterns")
    parser.add_argument("--synthesise", action="store_true", help="run Vitis HLS, where it is installed")
    parser.add_argument("--no-route", action="store_true", help="leave out the routed clock, which takes half an hour")
    return parser


def _given(arguments: Sequence[str]) -> set[str]:
    """Which of `OF_STUDENT` a command line has, be it with the values that they have by themselves."""
    parser = _parser()
    parser.set_defaults(**dict.fromkeys(OF_STUDENT))
    options = parser.parse_args(arguments)
    return {name for name in OF_STUDENT if getattr(options, name) is not None}


@contextmanager
def _named(options: str) -> Iterator[None]:
    """What is wrong, with the options that say it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{options}: {error}") from None


def plan_of(arguments: Sequence[str]) -> Plan:
    """The plan that a command line asks for.

    Raises
    ------
    ValueError
        If something is not allowed; the message says what is.
    """
    options, given = _parser().parse_args(arguments), _given(arguments)
    if options.weight_bits and "luts" in given:
        raise ValueError("--luts is what inputs and bits are searched for; with --weight-bits there is no search")
    teacher = None
    if options.teacher not in SHIPPED_TEACHERS:
        teacher = Path(options.teacher)
        if not teacher.is_file():
            raise ValueError(
                f"teacher {options.teacher!r}: neither {' nor '.join(SHIPPED_TEACHERS)}, which ship, nor a weights file"
            )
    if options.student and options.start:
        raise ValueError("--student takes a student as it is, --start goes on from one: give one of them")
    taken: dict[str, Student | None] = {"student": None, "start": None}
    for how, own_names in (("student", OF_STUDENT), ("start", [name for name in OF_STUDENT if name not in LEFT])):
        if getattr(options, how) is None:
            continue
        if own := [name for name in own_names if name in given]:
            told = ", ".join("--" + name.replace("_", "-") for name in own)
            raise ValueError(f"with --{how}, what {told} says is the student's own: leave it out")
        taken[how] = Student.load(folder_of(getattr(options, how)) / STUDENT)
    start = taken["start"]
    with _named("--hidden, --weight-bits, --activation-bits"):
        widths = (
            Widths.of(start, options.luts)
            if start
            else Widths(
                options.filters,
                tuple(options.hidden),
                options.filter_bits,
                activation_bits=tuple(options.activation_bits),
                luts=options.luts,
                weight_bits=tuple(options.weight_bits) if options.weight_bits else None,
            )
        )
    with _named("--energy, --semiangle, --view by --pixels"):
        optics = Optics(options.energy, options.semiangle, options.view / options.pixels, options.pixels)
    with _named("--pixels, --bin, --pixel-bits, --bin-bits"):
        frontend = Frontend(options.pixels, options.bin, options.pixel_bits, options.bin_bits)
    return Plan(
        optics, frontend, options.out, teacher, taken["student"], start, options.target, options.clock,
        options.pixels_a_clock, options.patterns, tuple(options.epochs), widths,
        frames=options.frames, scored=options.scored, seed=options.seed, workers=options.workers,
        synthesise=options.synthesise, route=not options.no_route,
        command=shlex.join(["edgestem", "fpga", "build", *arguments]),
    )  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Build, and print the report."""
    plan = plan_of(arguments)
    print(report.text(build(plan)))
    print(f"\nall of it is in {plan.folder}")
    return 0
