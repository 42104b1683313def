"""Maps whose positions are known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import bluesky.preprocessors as bpp
import numpy as np
from bluesky.utils import Msg, MsgGenerator

from ..analysis.optics import Optics
from ..callbacks.derived import DerivedStream
from ..callbacks.descriptors import Descriptors, DescriptorSource
from ..devices.microscope import Microscope
from ..geometry import FieldOfView, ScanGrid
from .beam import as_field, checked_metadata, describe_beam, prepare_beam, set_dwell_time
from .publishing import declare, publish
from .stubs import declare_frames, fly_positions

if TYPE_CHECKING:
    from ..callbacks.imaging import Imaging


def raster_map(
    microscope: Microscope,
    field_of_view: FieldOfView | Sequence[float],
    nx: int,
    ny: int,
    *,
    optics: Optics | dict[str, Any] | None = None,
    dwell_time: float | None = None,
    max_dose: float = 1e7,
    descriptors: DescriptorSource | None = None,
    imaging: Imaging | None = None,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[None]:
    """Record a pattern at each of `nx` x `ny` positions, row by row from the lower left corner.

    Parameters
    ----------
    microscope : Microscope
        Flies the probe over positions and records a pattern at each.
    field_of_view : FieldOfView or (x0, y0, width, height)
        Region to scan, edges included [nm].
    nx, ny : int
        Positions along x and y, 2 or more.
    optics, dwell_time, max_dose, descriptors, md
        As for `adaptive_map`; without `descriptors` and `imaging` the run has frames only.
    imaging : Imaging, optional
        Reduces the frames to images while the scan runs, and derives the stream ``imaging``; of a raster also
        ``imaging_maps``, once all frames are reduced.
    """
    field = as_field(field_of_view)
    grid = ScanGrid(field, nx, ny)
    metadata = {
        "plan_name": "raster_map",
        "shape": [ny, nx],
        "extents": [list(field.extent[2:]), list(field.extent[:2])],
    }
    survey = _Survey(optics, dwell_time, max_dose, descriptors, imaging)
    yield from survey.over(microscope, field, grid.positions, {**metadata, **(md or {})})


def sobol_map(
    microscope: Microscope,
    field_of_view: FieldOfView | Sequence[float],
    num_points: int,
    *,
    seed: int = 0,
    optics: Optics | dict[str, Any] | None = None,
    dwell_time: float | None = None,
    max_dose: float = 1e7,
    descriptors: DescriptorSource | None = None,
    imaging: Imaging | None = None,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[None]:
    """Record a pattern at `num_points` positions of a scrambled Sobol sequence, in a short tour.

    Parameters are those of `raster_map`; `seed` scrambles the sequence.
    """
    from ..analysis.routing import travel_order
    from ..analysis.surrogate import sobol_design

    field = as_field(field_of_view)
    positions = sobol_design(field, num_points, np.random.default_rng(seed))
    metadata = {"plan_name": "sobol_map", "num_points": num_points, "seed": seed}
    survey = _Survey(optics, dwell_time, max_dose, descriptors, imaging)
    yield from survey.over(microscope, field, positions[travel_order(positions)], {**metadata, **(md or {})})


@dataclass(frozen=True)
class _Survey:
    """How positions are measured, whatever chose them; the fields are the plans' parameters of these names."""

    optics: Optics | dict[str, Any] | None
    dwell_time: float | None
    max_dose: float
    descriptors: DescriptorSource | None
    imaging: Imaging | None

    def over(
        self, microscope: Microscope, field: FieldOfView, positions: np.ndarray, md: dict[str, Any]
    ) -> MsgGenerator[None]:
        """Measure `positions` (n, 2) [nm] in `field`, in a run with the metadata `md`."""
        field, optics = prepare_beam(microscope, field, self.optics)
        if self.descriptors is not None:
            self.descriptors.check_optics(optics)
        describing = None if self.descriptors is None else Descriptors(self.descriptors)
        metadata = {**describe_beam(field, optics), **checked_metadata(md)}

        deriving = [callback for callback in (describing, self.imaging) if callback is not None]

        @bpp.subs_decorator(deriving)
        @bpp.stage_decorator([microscope])
        @bpp.run_decorator(md=metadata)
        def measure() -> MsgGenerator[None]:
            yield from set_dwell_time(microscope, self.dwell_time)
            yield from declare_frames(microscope)
            yield from declare([callback.stream for callback in deriving])
            maps = None if self.imaging is None else self.imaging.maps
            if maps is not None:
                yield from declare([maps])
            flight = fly_positions(microscope, positions, max_dose=self.max_dose)
            yield from flight if self.imaging is None else _collect_along(flight, microscope, self.imaging.stream)
            for callback in deriving:
                yield from publish(callback.stream, callback.finished())
            if maps is not None:
                yield Msg("collect", maps, name=maps.name)

        yield from measure()


def _collect_along(plan: MsgGenerator[Any], microscope: Microscope, stream: DerivedStream) -> MsgGenerator[Any]:
    """Collect `stream` whenever `plan` collects frames: it grows while the scan runs, and survives an abort."""

    def follow(msg: Msg) -> tuple[None, MsgGenerator[Any] | None]:
        if msg.command == "collect" and msg.obj is microscope:
            return None, bpp.single_gen(Msg("collect", stream, name=stream.name))
        return None, None

    return (yield from bpp.plan_mutator(plan, follow))
