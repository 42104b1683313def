"""What every plan settles before the beam is unblanked: where it may go, what it is, and what a pattern costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import MsgGenerator

from ..analysis.optics import Optics
from ..devices.microscope import Microscope
from ..geometry import FieldOfView, ScanGrid

CONNECTION_TIMEOUT = 5.0
"""Time [s] that the microscope's PVs have to be found."""


def as_field(field_of_view: FieldOfView | Sequence[float]) -> FieldOfView:
    """A field of view, also from the (x0, y0, width, height) [nm] that a queue server sends."""
    return field_of_view if isinstance(field_of_view, FieldOfView) else FieldOfView(*field_of_view)


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
    if isinstance(optics, dict):
        optics = Optics(**optics)
    microscope.wait_for_connection(timeout=CONNECTION_TIMEOUT)
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
        yield from bps.abs_set(microscope.detector.cam.acquire_time, dwell_time, wait=True)
