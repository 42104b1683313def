"""The collector of benchmark results: what it keeps, what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import readme
import run

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_last_line_is_the_result() -> None:
    assert run.last_object(["epoch 1", '{"rmse": 0.5}', "", "  \n"]) == {"rmse": 0.5}


@pytest.mark.parametrize("lines", [[], ["done"], ["[1, 2]"], ['{"a": 1}', "bye"]])
def test_anything_else_on_the_last_line_is_refused(lines: list[str]) -> None:
    with pytest.raises(run.BenchmarkError, match="one JSON object"):
        run.last_object(lines)


def test_an_entry_says_what_made_it(tmp_path: Path) -> None:
    path = tmp_path / "bench_answer.py"
    path.write_text("print('working')\nprint('{\"answer\": 42}')\n")
    entry = run.run(path)
    assert entry["result"] == {"answer": 42}
    assert entry["command"] == "python benchmarks/bench_answer.py"
    assert entry["machine"]["cores"] >= 1
    assert {"py4DSTEM": "0.14.18", "libertem-blobfinder": "0.6.1"}.items() <= entry["versions"].items()
    assert entry["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_a_failing_benchmark_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "bench_broken.py"
    path.write_text("print('{}')\nraise SystemExit(3)\n")
    with pytest.raises(run.BenchmarkError, match="status 3"):
        run.run(path)


def test_refreshing_one_entry_keeps_the_others(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    run.keep("b", {"result": 1}, results)
    run.keep("a", {"result": 2}, results)
    run.keep("b", {"result": 3}, results)
    assert json.loads(results.read_text()) == {"a": {"result": 2}, "b": {"result": 3}}
    assert list(tmp_path.iterdir()) == [results]


def test_the_readme_shows_the_results_as_they_are() -> None:
    text = readme.README.read_text()
    entries = json.loads(readme.RESULTS.read_text()) if readme.RESULTS.exists() else {}
    assert readme.updated(text, entries) == text, "run: python benchmarks/readme.py"


def test_the_table_names_figure_target_and_machine() -> None:
    entry = {
        "result": {"x": {"mean": 1.234}},
        "machine": {"cpu": "C", "cores": 2},
        "date": "2026-01-02T03:04:05",
    }
    rows = (
        readme.Row("speed", "≤ 2 s", "one", "{x[mean]:.1f} s"),
        readme.Row("other", "≤ 1", "absent", "{y}"),
    )
    assert readme.table({"one": entry}, rows).splitlines()[2:] == [
        "| speed | ≤ 2 s | 1.2 s | `one` |",
        "",
        "Measured 2026-01-02 on C, 2 cores.",
    ]


def test_a_readme_without_the_markers_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"README\.md needs the two lines"):
        readme.updated("no table here", {})
