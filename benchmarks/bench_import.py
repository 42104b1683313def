"""How long ``import bluesky_edgestem`` and ``edgestem --help`` take, in fresh processes; at most 0.5 s each.

The peer is an interpreter that imports nothing (``python -c pass``): what the package costs is the rest.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPEATS = 15
COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import": [sys.executable, "-c", "import bluesky_edgestem"],
    "help": [str(Path(sys.executable).with_name("edgestem")), "--help"],
}


def seconds(command: list[str]) -> float:
    """Wall time of one run of `command` [s]."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def spread(times: list[float]) -> dict[str, float]:
    """Median, smallest and largest of `times` [s]."""
    return {
        "median_s": round(statistics.median(times), 4),
        "min_s": round(min(times), 4),
        "max_s": round(max(times), 4),
    }


if __name__ == "__main__":
    measured: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for command in COMMANDS.values():
        seconds(command)  # the first reads the files from disk and writes the byte code
    # Round by round, so that another process's load falls on all three alike.
    for _ in range(REPEATS):
        for name, command in COMMANDS.items():
            measured[name].append(seconds(command))
    figures = {name: spread(times) for name, times in measured.items()}
    ratio = figures["import"]["median_s"] / figures["python"]["median_s"]
    print(json.dumps({"repeats": REPEATS, **figures, "import_over_python": round(ratio, 2)}))
