"""Directive ``config-keys``: a table for each table of the experiment file, from the pydantic model itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args, get_origin

from docutils import nodes
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from bluesky_edgestem.config import Experiment

LIMITS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}", "min_length": "not empty"}


def is_table(field: FieldInfo) -> bool:
    """Whether the key holds a table of its own."""
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def kind(annotation: Any) -> str:
    """The type as a writer of TOML knows it."""
    if values := [v for v in get_args(annotation) if isinstance(v, str)]:
        return " or ".join(f'`"{v}"`' for v in values)
    names = {bool: "true or false", int: "integer", float: "number", str: "text", Path: "path", dict: "table"}
    choices = (get_origin(annotation), annotation, *get_args(annotation))
    return next((names[t] for t in choices if isinstance(t, type) and t in names), str(annotation))


def allowed(field: FieldInfo) -> str:
    """The limits of a value."""
    limits = [form.format(getattr(m, key)) for m in field.metadata for key, form in LIMITS.items() if hasattr(m, key)]
    return ", ".join(limits)


def default(field: FieldInfo) -> str:
    """The value of a key that is left out."""
    value = field.get_default(call_default_factory=True)
    if value is None or value == {}:
        return ""
    return f"`{json.dumps(value, default=str, ensure_ascii=False)}`"


def rows(model: type[BaseModel]) -> list[str]:
    """A Markdown table of the keys of `model` that hold values."""
    lines = ["| key | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if not is_table(field):
            lines.append(
                f"| `{name}` | {kind(field.annotation)} | {default(field)} | {allowed(field)} | {field.description} |"
            )
    return lines


def markdown() -> str:
    """All keys of the experiment file, table by table."""
    lines = ["At the top of the file, before the first table:", "", *rows(Experiment)]
    for name, field in Experiment.model_fields.items():
        if is_table(field):
            assert field.annotation is not None
            about = (field.annotation.__doc__ or "").splitlines()[0]
            lines += ["", f"## `[{name}]`", "", about, "", *rows(field.annotation)]
    return "\n".join(lines)


class ConfigKeys(SphinxDirective):
    """Put the tables where the directive stands."""

    def run(self) -> list[nodes.Node]:
        """The nodes of the tables."""
        return self.parse_text_to_nodes(markdown(), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("config-keys", ConfigKeys)
    return {"parallel_read_safe": True}
