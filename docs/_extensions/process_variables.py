"""Directive ``process-variables``: every PV of the microscope, from the soft-IOCs' own records."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from bluesky_edgestem.sim.ioc import GROUPS, PV, pv_list


def row(pv: PV, with_readback: bool) -> str:
    """One line of a table; a readback is named with its setting."""
    name = f"`{pv.name}`" + (", `…_RBV`" if with_readback else "")
    access = "read, write" if "write" in pv.access else "read"
    return f"| {name} | {access} | {pv.units} | {', '.join(pv.values)} | {pv.doc} |"


def markdown() -> str:
    """A table for each IOC, the prefix left out."""
    listed = pv_list("")
    names = {pv.name for pv in listed}
    lines = []
    for suffix, group in GROUPS.items():
        about = (group.__doc__ or "").splitlines()[0]
        lines += [
            "",
            f"## `{suffix}`",
            "",
            about,
            "",
            "| PV | access | unit | states | meaning |",
            "|---|---|---|---|---|",
        ]
        for pv in listed:
            if pv.name.startswith(suffix) and pv.name.removesuffix("_RBV") not in names - {pv.name}:
                lines.append(row(pv, f"{pv.name}_RBV" in names))
    return "\n".join(lines)


class ProcessVariables(SphinxDirective):
    """Put the tables where the directive stands."""

    def run(self) -> list[nodes.Node]:
        """The nodes of the tables."""
        return self.parse_text_to_nodes(markdown(), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("process-variables", ProcessVariables)
    return {"parallel_read_safe": True}
