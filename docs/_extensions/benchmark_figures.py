"""Directive ``benchmark-figures NAME ...``: the README's rows of these benchmarks, as last measured."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


class BenchmarkFigures(SphinxDirective):
    """Put the table where the directive stands."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """The table, or a line that nothing was measured."""
        spec = importlib.util.spec_from_file_location("benchmarks_readme", BENCHMARKS / "readme.py")
        assert spec is not None and spec.loader is not None
        readme = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = readme  # dataclasses look their module up here
        spec.loader.exec_module(readme)
        names = self.arguments[0].split()
        if unknown := set(names) - {row.name for row in readme.ROWS}:
            raise self.error(f"no figures of {', '.join(sorted(unknown))} are in the README's table")
        self.env.note_dependency(str(readme.RESULTS))
        entries = {name: entry for name, entry in json.loads(readme.RESULTS.read_text()).items() if name in names}
        text = readme.table(entries) if entries else "*Not measured yet.*"
        holder = nodes.container()
        self.state.nested_parse(StringList(text.splitlines(), source="benchmarks/results.json"), 0, holder)
        return holder.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("benchmark-figures", BenchmarkFigures)
    return {"parallel_read_safe": True}
