"""Steps that the plans are made of."""

from __future__ import annotations

from collections.abc import Sequence

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.utils import Msg, MsgGenerator, short_uid

from ..devices.microscope import Microscope

FLUSH_PERIOD = 0.1
"""Time [s] between the documents of a flight."""


class DoseExceeded(ValueError):
    """A pattern would cost the specimen more than is allowed."""


def check_dose(microscope: Microscope, max_dose: float | None) -> None:
    """Raise where one pattern costs more than `max_dose` [electrons]; None allows any dose.

    Raises
    ------
    DoseExceeded
        The beam is still blanked, and nothing has moved.
    ValueError
        The budget itself is not positive.
    """
    if max_dose is None:
        return
    if not max_dose > 0:
        raise ValueError(f"max_dose is {max_dose:g} electrons per pattern; it has to be above 0")
    dose = microscope.dose_per_pattern
    if dose > max_dose * (1 + 1e-9):
        settle_time = microscope.coils.settle_time
        settle = float(settle_time.get())
        # The beam is on the specimen while the coils settle, too.
        exposure = microscope.exposure_for(max_dose) - settle
        shorten = (
            f"shorten {microscope.detector.exposure.setpoint_pvname} to at most {exposure:.4g} s"
            if exposure > 0
            else f"shorten {settle_time.setpoint_pvname}, now {settle:.4g} s, with which no exposure is short enough"
        )
        raise DoseExceeded(
            f"a pattern would cost {dose:.4g} electrons, the budget is {max_dose:.4g}: "
            f"{shorten}, or lower {microscope.beam.current.setpoint_pvname}"
        )


def declare_frames(microscope: Microscope, *, stream: str = "primary") -> MsgGenerator[None]:
    """Declare the stream that `fly_positions` appends to: once in a run, after staging."""
    yield from bps.declare_stream(microscope, name=stream, collect=True)


def fly_positions(
    microscope: Microscope,
    positions: Sequence | np.ndarray,
    *,
    max_dose: float | None = None,
    stream: str = "primary",
) -> MsgGenerator[tuple[int, int]]:
    """Measure a list of positions in a run that is open, with the microscope staged and the stream declared.

    May be called again and again: frames append to the same file and stream. However it ends, the beam is blanked and
    what was measured is in the stream.

    Parameters
    ----------
    microscope : Microscope
    positions : array_like, (n, 2)
        x, y [nm], in the order to visit them.
    max_dose : float, optional
        Budget per position [electrons]; checked before the beam is unblanked.
    stream : str
        As declared.

    Returns
    -------
    tuple[int, int]
        First index of the frames measured, and one past the last.

    Raises
    ------
    DoseExceeded
        A pattern costs more than `max_dose`; nothing has moved.
    LimitError
        A position is outside the coils' limits; nothing has moved.
    """
    microscope.check_value(positions)
    check_dose(microscope, max_dose)
    first = microscope.get_index()

    def flight() -> MsgGenerator[None]:
        yield from bps.prepare(microscope, positions, wait=True)
        yield from bps.kickoff(microscope, wait=True)
        group = short_uid("flight")
        complete = yield from bps.complete(microscope, group=group, wait=False)
        while not complete.done:
            waited = yield from bps.wait(group, timeout=FLUSH_PERIOD, error_on_timeout=False)
            yield from bps.collect(microscope, name=stream)
            if waited and not complete.done:  # a pause empties the group
                yield from bps.sleep(FLUSH_PERIOD)
        yield from bps.wait(group)

    def make_safe() -> MsgGenerator[None]:
        yield Msg("stop", microscope)  # blanks; and after an abort waits for the frames that were exposed
        yield from settle()

    def settle() -> MsgGenerator[None]:
        yield from bps.collect(microscope, name=stream)
        outcome = getattr(microscope.detector, "outcome", None)  # of a detector whose frames may be lost on their way
        if outcome is not None and outcome.waits:
            yield from bps.trigger_and_read([outcome], name="series")

    yield from bpp.contingency_wrapper(flight(), except_plan=lambda _: make_safe(), else_plan=settle, auto_raise=True)
    return first, microscope.get_index()
