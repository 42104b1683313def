"""What the package asks for, what the lock pins, and what a wheel carries."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, str]:
    """Name to version, from the lock."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(r.name): str(r.specifier) for r in requirements}


def test_the_lock_holds_exact_versions_and_nothing_else() -> None:
    assert len(pins()) > 200
    for name, pin in pins().items():
        assert pin.startswith("=="), f"{name} {pin}"
        assert "+" not in pin and "*" not in pin, f"{name} {pin} names one build"


def test_the_core_asks_for_lower_bounds_only() -> None:
    for text in PROJECT["dependencies"]:
        operators = [s.operator for s in Requirement(text).specifier]
        assert operators == [">="], text


@pytest.mark.parametrize("group", ["core", "fpga", "dev", "docs"])
def test_the_lock_meets_what_the_package_asks_for(group: str) -> None:
    wanted = PROJECT["dependencies"] if group == "core" else PROJECT["optional-dependencies"][group]
    for requirement in map(Requirement, wanted):
        version = pins()[canonicalize_name(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(version), f"{requirement} against {version}"


def test_the_boards_pins_do_not_bind_the_core() -> None:
    board = {canonicalize_name(Requirement(text).name) for text in PROJECT["optional-dependencies"]["fpga"]}
    core = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert {"tensorflow-cpu", "qkeras", "hls4ml"} <= board
    assert board & core == {"numpy"}


def test_a_wheel_carries_every_file_of_the_package(tmp_path: Path) -> None:
    source = tmp_path / "source"
    skip = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(ROOT / "bluesky_edgestem", source / "bluesky_edgestem", ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [*(sys.executable, "-m", "pip", "wheel", "-q"), "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "-w", str(tmp_path), str(source)], check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("bluesky_edgestem-*.whl")
    carried = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("bluesky_edgestem/")}
    there = {path.relative_to(source).as_posix() for path in (source / "bluesky_edgestem").rglob("*") if path.is_file()}
    assert carried == there
