"""Everything that the documentation shows as Python runs, and every experiment file in it is valid."""

from __future__ import annotations

import re
import subprocess
import sys
from codeop import CommandCompiler
from pathlib import Path

import pytest

from bluesky_edgestem.config import parse_experiment

ROOT = Path(__file__).parents[2]
STARTS = ("MicroscopeProcess", "SimplonProcess", "CatalogServer", "Cluster")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code blocks of `page` in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def having(language: str) -> list:
    """The pages with blocks in `language`, named by their path; marked where a block starts other processes."""
    made = []
    for page in PAGES:
        if found := blocks(page, language):
            starts = any(word in block for block in found for word in STARTS)
            made.append(pytest.param(page, id=str(page.relative_to(ROOT)), marks=[pytest.mark.system] * starts))
    return made


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("page", having("python"))
def test_a_pages_blocks_run_one_after_the_other(page: Path, tmp_path: Path) -> None:
    # As a reader would: one session for the page, in a folder of its own.
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks(page, "python")))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, f"{page.relative_to(ROOT)}:\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_pages_blocks_can_be_pasted_into_an_interactive_interpreter(page: Path) -> None:
    # It takes line by line: a blank line ends an indented block, and nothing else does.
    for block in blocks(page, "python"):
        compiler, typed = CommandCompiler(), ""
        for line in [*block.splitlines(), ""]:
            typed += f"{line}\n"
            try:
                complete = compiler(typed.removesuffix("\n"), page.name) is not None
            except SyntaxError as error:
                pytest.fail(f"{page.relative_to(ROOT)}: {error.msg}, pasted:\n{typed}")
            typed = "" if complete else typed
        assert not typed, f"{page.relative_to(ROOT)}: unfinished:\n{typed}"


@pytest.mark.parametrize("page", having("toml"))
def test_a_pages_experiment_files_are_valid(page: Path) -> None:
    for block in blocks(page, "toml"):
        parse_experiment(block, page.name)
