"""What every plan settles before the beam is unblanked: where it may go, what it is, and what a pattern costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Real
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import MsgGenerator

from ..analysis.optics import Optics
from ..config import hint
from ..devices.microscope import Microscope
from ..devices.signals import FOUND_WITHIN
from ..geometry import FieldOfView, ScanGrid


def as_field(field_of_view: FieldOfView | Sequence[float]) -> FieldOfView:
    """A field of view, also from the (x0, y0, width, height) [nm] that a queue server sends.

    Raises
    ------
    ValueError
        It is neither.
    """
    if isinstance(field_of_view, FieldOfView):
        return field_of_view
    try:
        x0, y0, width, height = (float(v) for v in field_of_view)
    except (TypeError, ValueError):
        raise ValueError(
            f"field_of_view is {field_of_view!r}; give x0, y0, width and height [nm], for example (-50, -50, 100, 100)"
        ) from None
    return FieldOfView(x0, y0, width, height)


def as_optics(optics: Optics | Mapping[str, Any]) -> Optics:
    """Optics, also from a dict of some of their fields.

    Raises
    ------
    ValueError
        A key is unknown, or its value not allowed.
    """
    if isinstance(optics, Optics):
        return optics
    known = [field.name for field in fields(Optics)]
    for key, value in optics.items():
        if key not in known:
            raise ValueError(f"optics has the unknown key {key!r}; {hint(str(key), known)}")
        if not isinstance(value, Real):
            raise ValueError(f"optics has {key} = {value!r}; give a number")
    return Optics(**optics)


def prepare_beam(
    microscope: Microscope, field_of_view: FieldOfView | Sequence[float], optics: Optics | dict[str, Any] | None
) -> tuple[FieldOfView, Optics]:
    """The field and the optics of a run; nothing moves.

    Raises
    ------
    ophyd.utils.LimitError
        The field reaches beyond the coils' limits.
    TimeoutError
        A PV of the microscope is not there.
    ValueError
        A number is not allowed.
    """
    field = as_field(field_of_view)
    if optics is not None:
        optics = as_optics(optics)
    microscope.wait_for_connection(timeout=FOUND_WITHIN)
    microscope.check_value(ScanGrid(field, 2, 2).positions)
    return field, optics or microscope.optics


def describe_beam(field: FieldOfView, optics: Optics) -> dict[str, Any]:
    """Field and optics as they are kept in the start document."""
    return {
        "field_of_view": {k: getattr(field, k) for k in ("x0", "y0", "width", "height")},
        "optics": dict(vars(optics)),
    }


def set_dwell_time(microscope: Microscope, dwell_time: float | None) -> MsgGenerator[None]:
    """Set the exposure of one pattern [s]; None leaves it as it is."""
    if dwell_time is not None:
        yield from bps.abs_set(microscope.detector.exposure, dwell_time, wait=True)


#: What callbacks and readers rely on, and metadata must not replace.
RESERVED = ("uid", "time", "optics", "field_of_view", "target_sd", "budget", "energy_method", "resumes")


def checked_metadata(md: dict[str, Any] | None) -> dict[str, Any]:
    """The user's metadata, refused with a ValueError where it would replace what the run itself says."""
    if taken := [key for key in md or {} if key in RESERVED]:
        raise ValueError(f"metadata may not be called {', '.join(taken)}: the run keeps its own there; rename it")
    return dict(md or {})


def check_resumable(earlier: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ValueError where the run whose start document is `earlier` differs in a key of `now`."""
    for key, value in now.items():
        if earlier.get(key) != value:
            raise ValueError(
                f"run {earlier.get('uid', '')[:8]} cannot be resumed here: "
                f"its {key} was {earlier.get(key)}, now it is {value}"
            )
