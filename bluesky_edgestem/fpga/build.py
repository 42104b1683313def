"""``edgestem fpga build``: from a teacher to verified Verilog."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import re
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.optics import Optics
from ..analysis.scattering import FIRST_ORDER
from . import fixed_point, golden, report
from .frontend import CORE, Frontend
from .rule import Rule
from .shipped import folder_of
from .student import NAME as STUDENT
from .student import OUTPUT_FRACTION, Student
from .teaching import Domain, Lessons
from .widths import Widths

#: Names of Xilinx boards' devices that may be asked for.
TARGETS = {"xcu250": "xcu250-figd2104-2L-e", "xcu55c": "xcu55c-fsvh2892-2L-e", "xczu9eg": "xczu9eg-ffvb1156-2-e"}
SHIPPED_TEACHERS = ("descriptors-MoS2", "descriptors-WS2")
#: Options that a student settles.
OF_STUDENT = (
    "frame", "bin", "pixel_bits", "bin_bits", "energy_keV", "semiangle_mrad", "view_mrad", "filters", "hidden",
    "filter_bits", "activation_bits", "luts", "weight_bits", "fan_in", "epochs",
)  # fmt: skip
GOLDEN = 60  #: frames that a board is tested with before it is used, about
DOSES = {"1e3": 1e3, "1e4": 1e4, "1e5": 1e5, "1e6": 1e6}


@dataclass(frozen=True)
class Plan:
    """All that a build depends on."""

    optics: Optics
    frontend: Frontend
    folder: Path
    teacher: Path | None = None  #: weights of a descriptor network; those that ship if left out
    student: Student | None = None  #: that was trained before; frames and optics are then its own
    target: str = "xcu250"
    clock_MHz: float = 100.0
    pixels_a_clock: int = 8
    patterns: int = 30000
    epochs: tuple[int, int] = (600, 200)
    widths: Widths = dataclasses.field(default_factory=Widths)
    domain: Domain = dataclasses.field(default_factory=Domain)
    frames: int = 10000  #: that all forms have to agree on
    scored: int = 1000  #: multislice patterns that the accuracy is of
    seed: int = 0
    workers: int = 1
    synthesise: bool = False
    route: bool = True
    command: str = ""


def build(plan: Plan, say: Callable[[str], None] = print) -> dict:
    """Carry out a plan; everything goes to its folder.

    Returns
    -------
    dict
        The report, which is in ``report.json``, too.
    """
    from ..analysis.networks import DescriptorNetwork
    from . import precision, scoring, teaching

    if plan.student is not None:
        plan = dataclasses.replace(plan, frontend=plan.student.frontend, optics=plan.student.optics)
    plan.frontend.check_beats(plan.pixels_a_clock)
    teacher = DescriptorNetwork.pretrained(plan.teacher)
    teacher.check_optics(plan.optics)
    check_view(plan.frontend, plan.optics, plan.domain)
    if plan.student is None and plan.widths.weight_bits is None:
        precision.check_budget(plan.widths)
    _check_folder(plan)
    _check_trainer()
    plan.folder.mkdir(parents=True, exist_ok=True)
    # Whatever ends this build, report, golden frames and dense layers of the one before do not stay beside its files.
    for name in (report.NAME, golden.NAME, fixed_point.NAME):
        (plan.folder / name).unlink(missing_ok=True)
    for project in (*plan.folder.glob("hls_*"), plan.folder / "rtl"):
        shutil.rmtree(project, ignore_errors=True)
    began = time.monotonic()

    def stage(text: str) -> None:
        say(f"{time.monotonic() - began:6.0f} s  {text}")

    # A twentieth is kept back, for what is said of the student; of one that was trained before, that is all it takes.
    patterns = plan.patterns if plan.student is None else max(1, plan.patterns // 20)
    stage(f"the teacher reads {patterns} patterns")
    lessons = teaching.lessons(
        plan.frontend, plan.optics, patterns, domain=plan.domain, teacher=plan.teacher, seed=plan.seed,
        workers=plan.workers,
        progress=lambda done, wanted: stage(f"  {done} of {wanted}") if done % 5000 == 0 or done == wanted else None,
    )  # fmt: skip
    held = max(1, len(lessons) // 20) if plan.student is None else len(lessons)
    kept = lessons[:held]
    student, model = _trained(plan, lessons[held:], kept, stage)
    student.save(plan.folder / STUDENT)
    stage(f"student {student.hash}: {plan.folder / STUDENT}")

    truth = scoring.cases(plan.optics, plan.scored, plan.seed, plan.domain, plan.frontend)
    accuracy = {label: scoring.scores(student, teacher, truth, dose, plan.seed) for label, dose in DOSES.items()}
    for label, row in accuracy.items():
        stage(f"at {label} electrons: {row['student']}; teacher {row['teacher'].get('strain_rms')}")
    unknown = {label: scoring.flagged_foreign(student, kept, dose, plan.seed) for label, dose in DOSES.items()}
    stage(f"flagged of frames without a lattice: {unknown}")
    out: dict = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"), "command": plan.command, "hash": student.hash,
        "target": plan.target, "clock_MHz": plan.clock_MHz,
        "frontend": asdict(plan.frontend), "optics": asdict(plan.optics), "domain": asdict(plan.domain),
        "network": {
            "filters": student.filters.shape[1], "filter_bits": student.filter_bits,
            "layers": [layer.weights.shape[1] for layer in student.layers],
            "zero_filter_weights": float(f"{(student.filters == 0).mean():.3g}"),
            "weight_bits": [float(f"{each.mean():.3g}") for each in student.weight_bits],
            "front": student.card.get("front"),
        },
        "accuracy": accuracy, "flagged_foreign": unknown,
        "shift": {label: int(plan.frontend.shift_for(dose, student.brightest)) for label, dose in DOSES.items()},
    }  # fmt: skip
    verified, agreed = verify(plan, student, model, kept, stage)
    out |= verified
    (plan.folder / report.NAME).write_text(json.dumps(out, indent=1) + "\n")
    if wrong := report.disagreeing(out):
        raise RuntimeError(f"not bit-exact: {', '.join(wrong)}; the build in {plan.folder} must not be used")
    golden.GoldenFrames(student.hash, *agreed).save(plan.folder / golden.NAME)
    return out


def _check_folder(plan: Plan) -> None:
    """Raise ValueError where a build would take the place of another student, which took long to train."""
    kept = plan.folder / STUDENT
    if not kept.exists():
        return
    there = Student.load(kept)
    if plan.student is None or plan.student.hash != there.hash:
        raise ValueError(
            f"{plan.folder} holds student {there.hash}: choose another --out, delete that folder, or go on with it by "
            f"--student {plan.folder}"
        )


def _check_trainer() -> None:
    missing = [name for name in ("tensorflow", "qkeras", "hls4ml", "alkaid") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"a build needs {', '.join(missing)}, not installed: pip install 'bluesky_edgestem[fpga]', in an "
            "environment of its own where its old versions are in the way"
        )


def _trained(plan: Plan, taught: Lessons, kept: Lessons, stage: Callable[[str], None]) -> tuple[Student, Any]:
    """The plan's student, or one that is trained on `taught` and calibrated on `kept`, and its QKeras model."""
    if plan.student is not None:
        from .quantised import model_of

        return plan.student, model_of(plan.student)
    from . import learning, scoring, teaching

    student, model = learning.train(
        taught, plan.frontend, plan.optics, teaching.PHASES, widths=plan.widths,
        domain=plan.domain, epochs=plan.epochs, seed=plan.seed, progress=lambda text: stage("  " + text),
    )  # fmt: skip
    return scoring.calibrated(student, kept, plan.domain, plan.seed), model


def check_view(frontend: Frontend, optics: Optics, domain: Domain) -> None:
    """Raise ValueError where first-order disks, strained and shifted, are not all on what the network sees."""
    from . import teaching

    core = teaching.core_optics(frontend, optics)
    first = FIRST_ORDER / core.pixel_reciprocal
    reach = first * (1 + domain.strain[0]) + core.disk_radius + domain.shift_bins
    if reach > CORE / 2:
        raise ValueError(
            f"first-order reflections reach {reach:.1f} bins from the beam; the network sees {CORE / 2:.0f} to each "
            f"side: choose a larger bin"
        )


def verify(
    plan: Plan, student: Student, model, lessons: Lessons, stage: Callable[[str], None]
) -> tuple[dict, tuple[np.ndarray, ...]]:
    """Make every other form of the student, and compare each with its whole numbers.

    Gives what the report says of it, and some of the frames, with the words and the status that the student gives.

    What could not be made for want of a program, and figures that a program failed to give, are said and in the report.

    Raises
    ------
    RuntimeError
        A form of the student cannot be compiled or run.
    """
    from . import area, hls, latency, logic
    from .verification import Mismatches, golden_frames, in_portions
    from .verilated import Simulation, ToolMissing, tool

    frames = golden_frames(student, lessons, plan.frames, plan.seed)
    bins = student.frontend(frames)
    words, status = student.outputs(frames)
    agreement: dict[str, Mismatches] = {}
    missing: list[str] = []
    out: dict = {}

    def compare(name: str, found: np.ndarray) -> None:
        agreement[name] = Mismatches.between(words, found)
        stage(f"{name}: {agreement[name].words} words differ, {len(frames)} frames")

    def attempt(step: Callable[[], None], may_fail: bool = False) -> None:
        try:
            step()
        except RuntimeError as reason:
            # A form of the student that fails is no form of it; a figure may be had another time.
            if not may_fail and not isinstance(reason, ToolMissing):
                raise
            missing.append(str(reason))
            stage(f"left out: {reason}")

    compare("QKeras", quantised_words(model, bins))

    def emulate() -> None:
        tool("g++", "no project of Vitis HLS is written, nor emulated")
        for io_type in hls.IO_TYPES:
            emulation = hls.Emulation(
                model, student, plan.folder / f"hls_{io_type}", io_type, 1e3 / plan.clock_MHz, TARGETS[plan.target]
            )
            compare(f"hls4ml, {io_type}", in_portions(emulation.words, bins))
            projects.append(emulation)

    def synthesise() -> None:
        tool("vitis-run", "no synthesis by Vitis HLS, and none of its figures")
        out["vitis"] = projects[0].synthesised()

    projects: list[hls.Emulation] = []
    attempt(emulate)

    verilog = plan.folder / "rtl"
    stream = logic.write(student, verilog, plan.pixels_a_clock)
    dense = fixed_point.DenseLayers.of(student)
    compare("alkaid", dense(student.features(bins)[0]))
    dense.save(plan.folder / fixed_point.NAME)

    def simulate() -> None:
        simulation = Simulation(verilog, stream)
        packets = list(frames.reshape(len(frames), -1))
        rule = Rule.of(student, "exx", -0.01, 0.01, inside=False)
        plain = simulation.send(packets, rule=rule)
        compare("Verilog, frames back to back", plain.words)
        few = max(1, len(frames) // 10)
        name, shift = "Verilog, gaps, stalls, shifted", 2
        held = simulation.send(packets[:few], gaps=0.3, stalls=0.5, seed=plan.seed, shift=shift)
        agreement[name] = Mismatches.between(student.outputs(frames[:few], shift)[0], held.words)
        stage(f"{name}: {agreement[name].words} words differ, {few} frames")
        labels = np.stack([plain.number, plain.status], 1) - np.stack([np.arange(len(frames)), status], 1)
        agreement["Verilog, frame numbers and status"] = Mismatches.between(0 * labels, labels)
        agreement["Verilog, rule"] = Mismatches.between(
            *(h[:, None].astype(int) for h in (rule(words, status), plain.holds))
        )
        out["cycles"] = {
            "latency": int(plain.latency.max()),
            "tail_latency": int(plain.tail_latency.max()),
            "interval": int(np.diff(plain.taken).max()),
        }
        cycles, tail = out["cycles"]["latency"], out["cycles"]["tail_latency"]
        out["budget"] = [asdict(p) for p in latency.budget(stream, cycles, tail, plan.clock_MHz)]

    attempt(simulate)

    def second() -> None:
        from .icarus import simulate as by_icarus

        few = min(len(frames), 5)
        found = by_icarus(verilog, stream, frames[:few])
        agreement["Verilog, by Icarus"] = Mismatches.between(words[:few], found)
        stage(f"Verilog, by Icarus: {agreement['Verilog, by Icarus'].words} words differ, {few} frames")

    attempt(second)

    def count() -> None:
        out["area"] = area.xilinx(verilog)
        stage(f"cells: {out['area']}")

    def route() -> None:
        out["routed_clock_MHz"] = area.routed_clock(verilog)
        stage(f"clock of the routed proxy: {out['routed_clock_MHz']} MHz")

    attempt(count, may_fail=True)
    if plan.route:
        attempt(route, may_fail=True)
    else:
        missing.append("no clock is routed: --no-route")
    if plan.synthesise and projects:
        attempt(synthesise, may_fail=True)
    # Some from end to end, with all of the last, which are the special ones.
    n = len(frames)
    some = np.unique(np.concatenate([np.linspace(0, n - 1, GOLDEN).astype(int), np.arange(n - 5, n)]))
    out |= {"agreement": {name: asdict(row) for name, row in agreement.items()}, "missing": missing}
    return out, (frames[some], words[some], status[some])


def quantised_words(model, bins: np.ndarray) -> np.ndarray:
    """Output words (n, 9) int64 that the QKeras model gives for bins (n, CORE²)."""
    out = model.predict(bins.astype(np.float32), verbose=0, batch_size=500)
    return np.rint(out * 2.0**OUTPUT_FRACTION).astype(np.int64)


def _whole(low: int, high: int) -> Callable[[str], int]:
    """What reads a whole number from `low` to `high` off the command line."""

    def read(value: str) -> int:
        if not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
            raise argparse.ArgumentTypeError(f"{value!r}: give a whole number from {low} to {high}")
        return int(value)

    return read


def _clock(value: str) -> float:
    matched = re.fullmatch(r"([\d.]+)\s*MHz", value)
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
        "--target", choices=sorted(TARGETS), default="xcu250", help="device that the project of Vitis HLS is for"
    )
    parser.add_argument(
        "--clock", type=_clock, default="100MHz", help="clock that Vitis HLS aims at and the budget is of"
    )
    parser.add_argument("--out", type=Path, default=Path("build/board"), help="folder to write")
    parser.add_argument("--energy-keV", type=float, default=80.0, help="beam energy [keV]")
    parser.add_argument("--semiangle-mrad", type=float, default=2.0, help="convergence semiangle [mrad]")
    parser.add_argument(
        "--frame", type=_whole(48, 4096), default=48, help="pixels along each side of the detector's frames"
    )
    parser.add_argument("--view-mrad", type=float, default=64.0, help="angle that the frame spans [mrad]")
    parser.add_argument("--bin", type=int, default=1, choices=(1, 2, 4), help="pixels that are added along each axis")
    parser.add_argument("--pixel-bits", type=int, default=16, choices=(8, 16), help="depth of a pixel on the wire")
    parser.add_argument("--bin-bits", type=_whole(4, 12), default=7, help="depth of what the network sees, 4 to 12")
    parser.add_argument("--pixels-a-clock", type=int, default=8, choices=(1, 8, 16), help="on the board's input")
    parser.add_argument("--patterns", type=_whole(500, 10**7), default=30000, help="patterns that the teacher reads")
    parser.add_argument(
        "--epochs", type=_whole(1, 10**4), nargs=2, default=(600, 200), help="in floating point, and quantised"
    )
    parser.add_argument("--filters", type=_whole(1, 256), default=28, help="matched filters")
    parser.add_argument("--hidden", type=_whole(1, 1024), nargs="+", default=[160], help="sizes of hidden layers")
    parser.add_argument("--filter-bits", type=int, default=3, choices=(2, 3, 4), help="of the filters' weights")
    parser.add_argument(
        "--luts", type=_whole(1, 10**7), default=Widths.luts,
        help="that dense layers may take, about, for which the bits of each neuron's weights are searched",
    )  # fmt: skip
    parser.add_argument(
        "--weight-bits", type=_whole(2, 12), nargs="+", help="of each dense layer's weights; searched if left out"
    )
    parser.add_argument(
        "--fan-in", type=_whole(1, 1024), nargs="+",
        help="inputs that a neuron of each dense layer reads at most; all if left out",
    )  # fmt: skip
    parser.add_argument(
        "--activation-bits", type=_whole(2, 12), nargs="+", default=[6], help="behind each hidden layer"
    )
    parser.add_argument("--frames", type=_whole(10, 10**7), default=10000, help="on which all forms have to agree")
    parser.add_argument(
        "--scored", type=_whole(1, 10**5), default=1000, help="multislice patterns that the accuracy is of"
    )
    parser.add_argument("--seed", type=_whole(0, 2**32 - 1), default=0, help="settles every draw")
    parser.add_argument("--workers", type=_whole(1, 1000), default=1, help="processes that draw patterns")
    parser.add_argument("--synthesise", action="store_true", help="run Vitis HLS, where it is installed")
    parser.add_argument("--no-route", action="store_true", help="leave out the routed clock, which takes half an hour")
    return parser


def plan_of(arguments: Sequence[str]) -> Plan:
    """The plan that a command line asks for.

    Raises
    ------
    ValueError
        If something is not allowed; the message says what is.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    teacher = None
    if options.teacher not in SHIPPED_TEACHERS:
        teacher = Path(options.teacher)
        if not teacher.exists():
            raise ValueError(
                f"teacher {options.teacher!r}: neither {' nor '.join(SHIPPED_TEACHERS)}, which ship, nor a weights file"
            )
    student = None
    if options.student:
        own = [name for name in OF_STUDENT if getattr(options, name) != parser.get_default(name)]
        if own:
            told = ", ".join("--" + name.replace("_", "-") for name in own)
            raise ValueError(f"with --student, what {told} says is the student's own: leave it out")
        student = Student.load(folder_of(options.student) / STUDENT)
    return Plan(
        Optics(options.energy_keV, options.semiangle_mrad, options.view_mrad / options.frame, options.frame),
        Frontend(options.frame, options.bin, options.pixel_bits, options.bin_bits),
        options.out, teacher, student, options.target, options.clock, options.pixels_a_clock, options.patterns,
        tuple(options.epochs),
        Widths(
            options.filters, tuple(options.hidden), options.filter_bits, activation_bits=tuple(options.activation_bits),
            luts=options.luts, weight_bits=tuple(options.weight_bits) if options.weight_bits else None,
            fan_in=tuple(options.fan_in) if options.fan_in else None,
        ),
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
