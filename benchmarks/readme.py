"""Write the README's table of figures from ``benchmarks/results.json``, so that the two cannot differ.

python benchmarks/readme.py           # rewrite the table
python benchmarks/readme.py --check   # only say whether it is up to date (status 1 if not)
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results.json"
START = "<!-- figures: written by benchmarks/readme.py from benchmarks/results.json -->"
END = "<!-- figures: end -->"


@dataclass(frozen=True)
class Row:
    """One line of the table: `value` is a format string over the result of benchmark `name`."""

    what: str
    target: str
    name: str
    value: str


ROWS = (
    Row("`import bluesky_edgestem`, median", "≤ 0.5 s", "import", "{import[median_s]:.2f} s"),
    Row("`edgestem --help`, median", "≤ 0.5 s", "import", "{help[median_s]:.2f} s"),
)


def table(entries: dict[str, Any], rows: tuple[Row, ...] = ROWS) -> str:
    """The table in Markdown: one line for each of `rows` whose benchmark is in `entries`.

    Raises
    ------
    KeyError
        If a result lacks a figure that a row asks for.
    """
    present = [row for row in rows if row.name in entries]
    lines = ["| figure | asked | measured | benchmark |", "|---|---|---|---|"]
    for row in present:
        value = row.value.format_map(entries[row.name]["result"])
        lines.append(f"| {row.what} | {row.target} | {value} | `{row.name}` |")
    machines = {f"{e['machine']['cpu']}, {e['machine']['cores']} cores" for e in entries.values()}
    dates = sorted({e["date"][:10] for e in entries.values()})
    days = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "never"
    lines += ["", f"Measured {days} on {'; '.join(sorted(machines)) or 'no machine'}."]
    return "\n".join(lines)


def updated(text: str, entries: dict[str, Any]) -> str:
    """`text` with the table between its two markers written anew.

    Raises
    ------
    ValueError
        If the markers are not there, in order.
    """
    head, start, rest = text.partition(START)
    _, end, tail = rest.partition(END)
    if not start or not end:
        raise ValueError(f"README.md needs the two lines between which the table stands: {START} and {END}")
    return f"{head}{START}\n{table(entries)}\n{END}{tail}"


if __name__ == "__main__":
    before = README.read_text()
    after = updated(before, json.loads(RESULTS.read_text()) if RESULTS.exists() else {})
    if "--check" not in sys.argv[1:]:
        README.write_text(after)
    elif before != after:
        sys.exit("README.md's figures differ from benchmarks/results.json: run python benchmarks/readme.py")
