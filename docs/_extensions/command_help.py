"""Directive ``command-help ARGUMENTS``: what ``edgestem ARGUMENTS --help`` prints."""

from __future__ import annotations

import os
import subprocess
import sys

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class CommandHelp(SphinxDirective):
    """Put the help text where the directive stands."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """A literal block with the text."""
        words = self.arguments[0].split() if self.arguments else []
        done = subprocess.run(
            [sys.executable, "-m", "bluesky_edgestem", *words, "--help"],
            env={**os.environ, "COLUMNS": "110"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise self.error(f"edgestem {' '.join(words)} --help failed: {done.stderr.strip()[-300:]}")
        return [nodes.literal_block(done.stdout, done.stdout, language="none")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
