"""``edgestem fpga report``: what a build reached, and how each figure is known."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from .shipped import folder_of

NAME = "report.json"
_NEEDED = {"date", "command", "hash", "network", "accuracy", "flagged_foreign", "agreement", "missing"}


def load(folder: Path) -> dict:
    """The report in the folder of a build.

    Raises
    ------
    ValueError
        There is none, or it cannot be read.
    """
    path = Path(folder) / NAME
    try:
        report = json.loads(path.read_text())
        needed = _NEEDED | ({"budget"} if "cycles" in report else set())
        if not isinstance(report, dict) or needed - set(report):
            raise json.JSONDecodeError("not a report", "", 0)
        return report
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder} holds no {NAME}: it is no build; make one with `edgestem fpga build`") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise _altered(path) from None


def _altered(path: Path) -> ValueError:
    return ValueError(f"{path} is cut short or altered; make the build again with `edgestem fpga build`")


def disagreeing(report: dict) -> list[str]:
    """Forms of the student that are not bit-exact."""
    return [name for name, row in report["agreement"].items() if row["words"]]


def scored(row: dict) -> str:
    """What a network reached at one dose, in words."""
    told = f"{100 * row['flagged']:.1f} % flagged"
    if "strain_rms" in row:
        rms = ", ".join(f"{name} {100 * value:.3f}" for name, value in row["strain_rms"].items())
        told = f"strain RMS [%] {rms}; " + told
    return told


def shares(row: dict) -> str:
    """Shares by kind, in words."""
    return ", ".join(f"{kind} {100 * share:.1f} %" for kind, share in row.items())


def _ratio(row: dict) -> str:
    if "ratio_interval" not in row:  # hardly a frame is known, or an earlier version made the build
        return f"{row['ratio']:.2f}" if "ratio" in row else "-"
    low, high = row["ratio_interval"]
    return f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"


def _beside_strain(own: dict, its: dict) -> Iterator[str]:
    """Rotation, centre and phase of the student and its teacher at one dose, in words."""
    for what, unit, digits in (("rotation", 1e3, 2), ("centre", 1.0, 3)):
        yield (
            f"{unit * own[f'{what}_rms']:.{digits}f}, {100 * own[f'{what}_coverage']:.1f} % "
            f"({unit * its[f'{what}_rms']:.{digits}f}, {100 * its[f'{what}_coverage']:.1f} %)"
        )
    yield f"{100 * own['phase_right']:.1f} % ({100 * its['phase_right']:.1f} %)"


def text(report: dict) -> str:
    """The report as a person reads it."""
    lines = [f"student {report['hash']}, made {report['date']} by: {report['command']}", ""]
    if wrong := disagreeing(report):
        lines += [f"NOT BIT-EXACT, MUST NOT BE USED: {', '.join(wrong)}", ""]
    network = report["network"]
    lines.append(
        f"network: {network['filters']} matched filters of {network['filter_bits']} bits, then layers of "
        f"{', '.join(str(n) for n in network['layers'])} neurons, with weights of "
        f"{', '.join(f'{bits:g}' for bits in network['weight_bits'])} bits on average"
    )
    if zeros := network.get("zero_weights"):
        lines[-1] += f"; {', '.join(f'{share:.0%}' for share in zeros)} of them are zero"
    lines += ["", "strain RMS by dose, held-out multislice patterns (simulated), of those that neither flags:"]
    lines.append(
        "  electrons   student exx, eyy, exy [%]   teacher [%]             ratio (95 %)        flagged, its  95 % cover"
    )
    for dose, row in report["accuracy"].items():
        own, its = (
            ", ".join(f"{100 * v:.3f}" for v in row[who].get("strain_rms", {}).values()) or "none known"
            for who in ("student", "teacher")
        )
        lines.append(
            f"  {float(dose):9.0e}   {own:26}  {its:22}  {_ratio(row):18}  {100 * row['student']['flagged']:5.1f},"
            f" {100 * row['teacher']['flagged']:4.1f} %  {100 * row['student'].get('coverage', float('nan')):6.1f} %"
        )
    lines += ["", "RMS, 95 % cover (its teacher's) of rotation [mrad]; of the beam's centre [px]; phase right:"]
    for dose, row in report["accuracy"].items():
        own, its = row["student"], row["teacher"]
        if "centre_rms" in own:  # some frame is known, and no earlier version made the build
            lines.append(f"  {float(dose):9.0e}   " + "; ".join(_beside_strain(own, its)))
    if wider := report.get("beyond"):
        lines += ["", "with strains up to half as large again as it was taught, of all that the student does not flag:"]
        lines.append("  electrons   flagged (by its teacher), strain RMS, 95 % cover")
        for dose, row in wider.items():
            own = row.get("student alone", row["student"])  # a build by an earlier version has the latter alone
            rms = ", ".join(f"{100 * v:.2f}" for v in own.get("strain_rms", {}).values()) or "none known"
            flagged = f"{100 * own['flagged']:.1f} % ({100 * row['teacher']['flagged']:.1f} %)"
            cover = 100 * own.get("coverage", float("nan"))
            lines.append(f"  {float(dose):9.0e}   {flagged}, {rms} %, {cover:.1f} %")
    lines += ["", "flagged of frames that show no lattice:"]
    for dose, row in report["flagged_foreign"].items():
        lines.append(f"  {float(dose):9.0e}   {shares(row)}")
    lines += ["", "agreement with the student's whole numbers, bit for bit:"]
    for name, row in report["agreement"].items():
        lines.append(f"  {name:34} {row['words']} words differ, {row['frames']} frames")
    if timing := report.get("cycles"):
        lines += ["", "clock by clock (cycles measured by simulation):"]
        lines.append(
            f"  first pixel to result {timing['latency']} cycles, last pixel to result {timing['tail_latency']}, "
            f"initiation interval {timing['interval']}"
        )
        for part in report["budget"]:
            lines.append(f"  {part['name']:36} {1e6 * part['seconds']:8.3f} µs  {part['label']}: {part['source']}")
    if area := report.get("area"):
        cells = ", ".join(f"{n} {k}" for k, n in area.items())
        lines += ["", f"on UltraScale+ (mapped by yosys, not placed): {cells}"]
    if clock := report.get("routed_clock_MHz"):
        lines.append(
            "clock of the routed proxy (ECP5-85, speed grade 8, by nextpnr), in one placement, others differ by a tenth"
            f": {clock:g} MHz"
        )
        if timing := report.get("cycles"):
            at = ", ".join(f"{name.replace('_', ' ')} {timing[name] / clock:.2f} µs" for name in sorted(timing))
            lines.append(f"  at which: {at}")
    if vitis := report.get("vitis"):
        lines += ["", "Vitis HLS: " + ", ".join(f"{k} {v}" for k, v in vitis.items())]
    if known := report.get("versions"):
        lines += ["", "by: " + ", ".join(f"{name} {which}" for name, which in known.items())]
    if report["missing"]:
        lines += ["", "not done:"] + [f"  {reason}" for reason in report["missing"]]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Print the report of a build."""
    parser = argparse.ArgumentParser(
        prog="edgestem fpga report",
        description="Prints what a build reached: accuracy by dose, agreement of its forms, cycles, latency, area.",
    )
    parser.add_argument("folder", type=folder_of, help="of the build, or shipped: that of the board that ships")
    folder = parser.parse_args(arguments).folder
    found = load(folder)
    try:
        told = text(found)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise _altered(folder / NAME) from None
    print(told)
    return 0
