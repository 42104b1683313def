"""The build that ships with the package: its student, golden frames, report and card."""

from __future__ import annotations

from pathlib import Path

NAME = "shipped"
FOLDER = Path(__file__).parent / NAME


def folder_of(build: str | Path) -> Path:
    """The folder of a build; "shipped" is the one that comes with the package."""
    return FOLDER if str(build) == NAME else Path(build).expanduser().absolute()
