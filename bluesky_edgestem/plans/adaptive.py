"""The closed loop as a plan."""

import contextlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

import bluesky.preprocessors as bpp
import numpy as np
from bluesky.utils import MsgGenerator

from ..analysis import crystals
from ..analysis.optics import Optics
from ..callbacks.descriptors import Descriptors, DescriptorSource
from ..callbacks.energetics import Energetics, Energies
from ..callbacks.recommender import Optimizer, Recommender
from ..devices.board import InferenceBoard
from ..devices.microscope import Microscope
from ..devices.statuses import NamedStatus
from ..energetics.method import STANDARD
from ..geometry import FieldOfView
from .beam import check_resumable, checked_metadata, describe_beam, prepare_beam, set_dwell_time
from .boards import boards_of, describe_boards, read_boards
from .budget import Budget
from .publishing import declare, publish, wait_for
from .stubs import declare_frames, fly_positions


def adaptive_map(
    microscope: Microscope,
    field_of_view: FieldOfView | Sequence[float],
    target_sd: float,
    *,
    optics: Optics | dict[str, Any] | None = None,
    dwell_time: float | None = None,
    initial: int = 32,
    batch: int = 24,
    max_positions: int = 400,
    max_time: float = 3600.0,
    max_dose: float = 1e7,
    max_total_dose: float | None = None,
    phases: Sequence[str] = ("MoS2", "WS2"),
    seed: int = 0,
    descriptors: DescriptorSource | InferenceBoard | str | None = None,
    energies: Energies | str | None = None,
    optimizer: Optimizer | None = None,
    resume_from: Iterable[tuple[str, dict]] = (),
    md: dict[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Map the energy over a field of view, measuring only where it is still uncertain.

    A first, space-filling batch is measured; from then on each batch goes where it lowers the uncertainty of the energy
    most. Patterns become descriptors, descriptors energies, and all become streams of the one run.

    Parameters
    ----------
    microscope : Microscope
        Flies the probe over positions and records a pattern at each.
    field_of_view : FieldOfView or (x0, y0, width, height)
        Region to map [nm].
    target_sd : float
        Largest posterior standard deviation wanted anywhere in the field [eV per formula unit].
    optics : Optics or dict, optional
        Beam and detector calibration; a dict has the fields of `Optics`. As the microscope says if left out.
    dwell_time : float, optional
        Exposure of one pattern [s]; as it is set if left out.
    initial, batch : int
        Positions of the first batch and of each further one.
    max_positions : int
        Budget of positions.
    max_time : float
        Budget of time [s]; no batch begins that would end after it, going by how long the one before took.
    max_dose : float
        Largest dose that a position may receive [electrons]; above it the beam is never unblanked.
    max_total_dose : float, optional
        Budget of dose for the whole run [electrons]; no position is visited that would exceed it.
    phases : sequence of str
        Formulas of the phases that may occur.
    seed : int
        Draws the first batch.
    descriptors : DescriptorSource, InferenceBoard or str, optional
        The network, or the path of its weights; the network that ships with the package if left out. With
        ``microscope.board`` the board on the detector's stream reads the patterns, and its `fallback` those that the
        board is silent about; which of them read a pattern is in the stream ``descriptors``.
    energies : Energies or str, optional
        What computes energies; "local" for density functional theory on worker processes here, as if left out, or the
        address of a Dask scheduler.
    optimizer : Optimizer, optional
        What chooses positions; `analysis.surrogate.EnergyMap` for `field_of_view` if left out.
    resume_from : iterable of (name, document), optional
        Documents of an earlier run of the same field, beam and method of energies; its points count as measured.
    md : dict, optional
        Metadata for the run.

    Returns
    -------
    str
        The run's uid. Why it ended, the target or a budget, is in the last row of its stream ``optimization``.

    Raises
    ------
    ValueError
        Before anything moves, if the field lies outside the coils' range or a number is not allowed.
    """
    _check(target_sd=target_sd, initial=initial, batch=batch)
    crystals.monolayers(phases)
    field, optics = prepare_beam(microscope, field_of_view, optics)
    if optimizer is None:
        from ..analysis.surrogate import EnergyMap

        optimizer = EnergyMap(field, target_sd, optics.resolution, phases, seed=seed)
    describing = Descriptors(descriptors, phases=phases)
    describing.check_optics(optics)
    boards = boards_of(describing)
    recommending = Recommender(optimizer)
    given: Energies | str = "local" if energies is None else energies
    method = STANDARD.name if isinstance(given, str) else given.method_name
    same = {**describe_beam(field, optics), "energy_method": method}
    earlier = ""
    for name, doc in resume_from:
        if name == "start":
            # Runs of before a run said it were by the standard method.
            check_resumable({"energy_method": STANDARD.name, **doc}, same)
            earlier = doc["uid"]
        recommending(name, doc)
    metadata = {
        "plan_name": "adaptive_map",
        **same,
        **describe_boards(boards),
        "target_sd": target_sd,
        "batch": batch,
        "seed": seed,
        "budget": {"positions": max_positions, "time": max_time, "dose_per_position": max_dose}
        | ({} if max_total_dose is None else {"dose": max_total_dose}),
        **({"resumes": earlier} if earlier else {}),
        **checked_metadata(md),
    }

    @bpp.stage_decorator([*boards, microscope])
    @bpp.run_decorator(md=metadata)
    def measure(lost: NamedStatus) -> MsgGenerator[None]:
        yield from set_dwell_time(microscope, dwell_time)
        yield from declare_frames(microscope)
        yield from declare([describing.stream, energising.stream, recommending.stream])
        began = time.monotonic()
        measured = 0
        budget = Budget(max_positions, max_time, max_total_dose, microscope.dose_per_pattern)
        choice = yield from wait_for(recommending.initial(min(initial, budget.positions)), lost)
        while not choice.stop:
            marks = [time.monotonic()]
            yield from fly_positions(microscope, choice.positions, max_dose=max_dose)
            marks.append(time.monotonic())
            yield from publish(describing.stream, describing.finished(), lost)
            recommending.anticipate()
            marks.append(time.monotonic())
            yield from publish(energising.stream, energising.finished(), lost)
            marks.append(time.monotonic())
            measured += len(choice.positions)
            following = min(batch, budget.positions - measured)
            takes = (marks[-1] - marks[0]) / len(choice.positions) * following
            spent = budget.spent(measured, marks[-1] - began, takes)
            seconds: dict[str, float] = dict(
                zip(("acquire_s", "descriptors_s", "energetics_s"), np.diff(marks), strict=True)
            )
            choice = yield from publish(
                recommending.stream,
                recommending.recommend(following, spent, seconds),
                lost,
            )
        yield from read_boards(boards)

    # Last of all that may be refused: whatever ends the plan from here on, a halt too, ends the workers.
    with contextlib.ExitStack() as ending:
        if isinstance(given, str):
            from ..energetics.cluster import DFTCluster

            given = ending.enter_context(DFTCluster(scheduler=given or "local", method=STANDARD))
        energising = Energetics(given)
        lost = ending.enter_context(microscope.watched())
        return (yield from bpp.subs_wrapper(measure(lost), [describing, energising, recommending]))


def _check(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be above 0")
