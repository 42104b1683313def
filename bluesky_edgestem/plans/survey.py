"""Maps whose positions are known beforehand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import bluesky.preprocessors as bpp
import numpy as np
from bluesky.utils import Msg, MsgGenerator

from ..analysis.optics import Optics
from ..callbacks.derived import DerivedStream
from ..callbacks.descriptors import Descriptors, DescriptorSource
from ..callbacks.imaging import Imaging
from ..callbacks.strain_map import StrainMap
from ..devices.board import InferenceBoard
from ..devices.microscope import Microscope
from ..geometry import FieldOfView, ScanGrid
from .beam import as_field, checked_metadata, describe_beam, prepare_beam, set_dwell_time
from .boards import boards_of, describe_boards, read_boards
from .edge_rule import EdgeRule, added_stream, record_added, set_rule
from .publishing import declare, publish
from .stubs import declare_frames, fly_positions


def raster_map(
    microscope: Microscope,
    field_of_view: FieldOfView | Sequence[float],
    nx: int,
    ny: int,
    *,
    optics: Optics | dict[str, Any] | None = None,
    dwell_time: float | None = None,
    max_dose: float = 1e7,
    descriptors: DescriptorSource | InferenceBoard | str | None = None,
    imaging: Imaging | None = None,
    strain: StrainMap | None = None,
    rule: EdgeRule | dict[str, Any] | None = None,
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
        As for `adaptive_map`; without `descriptors`, `imaging` and `strain` the run has frames only.
    imaging : Imaging, optional
        Reduces the frames to images while the scan runs, and derives the stream ``imaging``; of a raster also
        ``imaging_maps``, once all frames are reduced.
    strain : StrainMap, optional
        Reads strain while the scan runs, and derives the streams ``strain`` and, of a raster, ``strain_maps``.
    rule : EdgeRule or dict, optional
        With ``descriptors=microscope.board``: where the rule holds for what the board reads it has the coils visit four
        positions around, in the same flight; they are in the stream ``added_positions``. Such a run is no raster any
        more: it has no ``shape``, and takes neither `imaging` nor `strain`.
    """
    field = as_field(field_of_view)
    grid = ScanGrid(field, nx, ny)
    metadata = {
        "plan_name": "raster_map",
        "shape": [ny, nx],
        "extents": [list(field.extent[2:]), list(field.extent[:2])],
    }
    if rule is not None:
        metadata = {"plan_name": "raster_map", "grid": [ny, nx]}
    survey = Survey(optics, dwell_time, max_dose, descriptors, imaging, strain, rule)
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
    descriptors: DescriptorSource | InferenceBoard | str | None = None,
    imaging: Imaging | None = None,
    strain: StrainMap | None = None,
    rule: EdgeRule | dict[str, Any] | None = None,
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
    survey = Survey(optics, dwell_time, max_dose, descriptors, imaging, strain, rule)
    yield from survey.over(microscope, field, positions[travel_order(positions)], {**metadata, **(md or {})})


@dataclass(frozen=True)
class Survey:
    """How positions are measured, whatever chose them; the fields are the plans' parameters of these names."""

    optics: Optics | dict[str, Any] | None
    dwell_time: float | None
    max_dose: float
    descriptors: DescriptorSource | InferenceBoard | str | None = None
    imaging: Imaging | None = None
    strain: StrainMap | None = None
    rule: EdgeRule | dict[str, Any] | None = None

    def over(
        self,
        microscope: Microscope,
        field: FieldOfView,
        positions: np.ndarray,
        md: dict[str, Any],
        conclude: Callable[[], MsgGenerator[None]] | None = None,
    ) -> MsgGenerator[None]:
        """Measure `positions` (n, 2) [nm] in `field`, in a run with the metadata `md`.

        Once all that is derived is in the run, `conclude` may add to it.
        """
        field, optics = prepare_beam(microscope, field, self.optics)
        describing = None if self.descriptors is None else Descriptors(self.descriptors)
        if describing is not None:
            describing.check_optics(optics)
        boards = [] if describing is None else boards_of(describing)
        rule = self._checked_rule(microscope, boards)
        metadata = {**describe_beam(field, optics), **describe_boards(boards), **checked_metadata(md)}
        if rule is not None:
            metadata["edge_rule"] = rule.metadata

        added = added_stream()
        scanning = [callback for callback in (self.imaging, self.strain) if callback is not None]
        deriving = [*([] if describing is None else [describing]), *scanning]

        @bpp.subs_decorator(deriving)
        @bpp.stage_decorator([*boards, microscope])
        @bpp.run_decorator(md=metadata)
        def measure() -> MsgGenerator[None]:
            yield from set_dwell_time(microscope, self.dwell_time)
            yield from declare_frames(microscope)
            yield from declare([callback.stream for callback in deriving])
            all_maps = [callback.maps for callback in scanning if callback.maps is not None]
            yield from declare(all_maps)
            if rule is not None:
                yield from declare([added])
                yield from set_rule(boards[0], rule)
            flight = fly_positions(microscope, positions, max_dose=self.max_dose)
            flight = _collect_along(flight, microscope, [callback.stream for callback in scanning])
            if rule is None:
                yield from flight
            else:
                # However it ends: what the board added cannot be told from anything else.
                first = microscope.get_index()
                record = partial(record_added, microscope, added, first, len(positions))
                yield from bpp.contingency_wrapper(flight, except_plan=lambda _: record(), else_plan=record)
            for callback in deriving:
                yield from publish(callback.stream, callback.finished())
            for maps in all_maps:
                yield Msg("collect", maps, name=maps.name)
            yield from read_boards(boards)
            if conclude is not None:
                yield from conclude()

        yield from measure()

    def _checked_rule(self, microscope: Microscope, boards: Sequence[InferenceBoard]) -> EdgeRule | None:
        if self.rule is None:
            return None
        if not boards:
            raise ValueError("a rule is the inference board's: give descriptors=microscope.board with it")
        if self.imaging is not None or self.strain is not None:
            raise ValueError("a rule adds positions that lie on no raster: leave out imaging and strain, or the rule")
        if not microscope.detector.may_grow:
            raise ValueError(
                f"{microscope.detector.name} needs all positions before the flight: leave out the rule, which adds some"
            )
        return EdgeRule.of(self.rule)


def _collect_along(
    plan: MsgGenerator[Any], microscope: Microscope, streams: Sequence[DerivedStream]
) -> MsgGenerator[Any]:
    """Collect `streams` whenever `plan` collects frames: they grow while the scan runs, and survive an abort."""

    def collect() -> MsgGenerator[None]:
        for stream in streams:
            yield Msg("collect", stream, name=stream.name)

    def follow(msg: Msg) -> tuple[None, MsgGenerator[Any] | None]:
        if streams and msg.command == "collect" and msg.obj is microscope:
            return None, collect()
        return None, None

    return (yield from bpp.plan_mutator(plan, follow))
