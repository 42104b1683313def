"""Find runs by what their start documents say, whatever keys those hold.

A term is `key=value`, or `!=`, `<`, `<=`, `>`, `>=` in place of `=`; `key~text`, which finds a text or a list that
contains `text`; or words, looked for in the text of all metadata. Keys go down by dots (`beam.energy_keV>=200`);
without a prefix they are of the start document, and `stop.exit_status=fail` asks the stop document. What looks like a
number is a number, `true` and `false` are booleans, anything else is text, and quotes make a text of it in any case
(`sample="42"`). A run that lacks the key matches no comparison, not even `!=`.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bluesky_edgestem.catalog.errors import SearchError

if TYPE_CHECKING:
    from tiled.client.container import Container

_COMPARISON = re.compile(
    r"\s*(?P<key>[^=!<>~\"']*[^\s=!<>~\"'])\s*(?P<operator>!=|<=|>=|==|=|<|>|~)(?P<value>.*)", re.DOTALL
)
_NAME = r"[\w:\-]+(?: +[\w:\-]+)*"
_KEY = re.compile(rf"{_NAME}(\.{_NAME})*")
_ORDERINGS = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
# SQLite puts every number before every text, so "> 5" alone would find texts, and "< 'b'" numbers.
_LARGEST_NUMBER = 1.7e308
_SMALLEST_TEXT = ""


@dataclass(frozen=True)
class FoundRun:
    """One line of a search's result.

    Attributes
    ----------
    uid : str
    time : float
        Of the start, seconds since 1970 (UTC).
    plan, sample : str
        "" where the start document does not say.
    positions : int
        Probe positions measured: events of the stream `primary`.
    exit_status : str
        "success", "abort", "fail", or "open" where the run has no stop document (yet).
    """

    uid: str
    time: float
    plan: str
    sample: str
    positions: int
    exit_status: str


def search(client: "Container", *terms: str, limit: int = 100) -> list[FoundRun]:
    """Return the runs that match every term, newest first.

    Parameters
    ----------
    client : Container
        Tiled client of the catalog.
    *terms : str
        See the module's first lines; none finds every run.
    limit : int
        How many at most.

    Raises
    ------
    SearchError
        A term cannot be understood.

    Examples
    --------
    >>> search(client, "sample=MoS2", "target_sd<0.02")  # doctest: +SKIP
    """
    return [_found(run.metadata) for run in find(client, *terms).values().head(limit)]


def find(client: "Container", *terms: str) -> "Container":
    """Return the part of the catalog that matches every term, newest first, as a Tiled client.

    Its runs are `find(...).values()`; parameters and errors as `search`.
    """
    found = client
    for term in terms:
        for query in _queries(term):
            found = found.search(query)
    return found.sort(("start.time", -1))


def _queries(term: str) -> list[Any]:
    from tiled.queries import Comparison, Contains, Eq, FullText, NotEq

    match = _COMPARISON.fullmatch(term)
    if match is None:
        return [FullText(_words(term))]
    key, operator = match["key"], match["operator"]
    if not _KEY.fullmatch(key):
        raise _bad(term, f"{key!r} is not a key (letters, digits, spaces, _, - and :, with dots between levels)")
    key = key if key.startswith(("start.", "stop.")) else f"start.{key}"
    text = match["value"].strip()
    if operator == "~":
        return [Contains(key, _unquoted(term, text))]
    value = _value(term, text)
    if operator in ("=", "=="):
        return [Eq(key, value)]
    if operator == "!=":
        return [NotEq(key, value)]
    if isinstance(value, bool):
        raise _bad(term, f"true and false have no order; use = or != in place of {operator}")
    queries = [Comparison(_ORDERINGS[operator], key, value)]
    if isinstance(value, str) and operator in ("<", "<="):
        queries.append(Comparison("ge", key, _SMALLEST_TEXT))
    elif not isinstance(value, str) and operator in (">", ">="):
        queries.append(Comparison("le", key, _LARGEST_NUMBER))
    return queries


def _words(term: str) -> str:
    if re.search("[=<>~]", term):
        raise _bad(term, "there is no key before the comparison")
    if not re.search(r"\w", term):
        raise _bad(term, "there is no word to look for")
    # Each word quoted: bare, a hyphen or a colon would be an operator of SQLite's full-text search.
    return " ".join('"' + word.replace('"', "") + '"' for word in term.split() if word.strip('"'))


def _unquoted(term: str, text: str) -> str:
    if not text:
        raise _bad(term, "there is no value after the comparison")
    if text[0] not in "\"'":
        return text
    if len(text) < 2 or text[-1] != text[0]:
        raise _bad(term, "a quote is not closed")
    return text[1:-1]


def _value(term: str, text: str) -> str | bool | int | float:
    if (unquoted := _unquoted(term, text)) != text:
        return unquoted
    if text in ("true", "false"):
        return text == "true"
    try:
        number = float(text)
    except ValueError:
        return text
    if abs(number) > _LARGEST_NUMBER or number != number:
        raise _bad(term, f"{text} is not a number that can be compared")
    try:
        return int(text)
    except ValueError:
        return number


def _bad(term: str, what: str) -> SearchError:
    return SearchError(
        f"The search term {term!r} cannot be understood: {what}. Give key=value (or !=, <, <=, >, >=, or ~ for "
        '"contains"), for example sample~MoS2, target_sd<0.02, beam.energy_keV>=200; or words to look for in all '
        "metadata."
    )


def _found(metadata: Any) -> FoundRun:
    start, stop = metadata["start"], metadata.get("stop") or {}
    sample = start.get("sample", "")
    return FoundRun(
        uid=start["uid"],
        time=start["time"],
        plan=str(start.get("plan_name", "")),
        sample=sample if isinstance(sample, str) else json.dumps(sample, default=str),
        positions=(stop.get("num_events") or {}).get("primary", 0),
        exit_status=stop.get("exit_status", "open"),
    )


def table(runs: Iterable[FoundRun]) -> str:
    """Return the runs as lines of text with a heading, for a terminal."""
    rows = [("uid", "started", "plan", "sample", "positions", "exit status")]
    for run in runs:
        started = datetime.fromtimestamp(run.time).strftime("%Y-%m-%d %H:%M:%S")
        rows.append((run.uid[:8], started, run.plan, run.sample, str(run.positions), run.exit_status))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
