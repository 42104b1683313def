"""Carry out an experiment: start what it needs, run its plan, and leave a report."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .analysis import crystals
from .analysis.optics import Optics
from .config import Experiment
from .geometry import FieldOfView

if TYPE_CHECKING:
    from bluesky import RunEngine

    from .devices.microscope import Microscope


def optics_of(experiment: Experiment) -> Optics:
    """The beam and detector that the experiment file describes."""
    return Optics(
        energy_keV=experiment.beam.energy_keV,
        semiangle_mrad=experiment.beam.semiangle_mrad,
        pixel_mrad=experiment.detector.pixel_mrad,
        n_pixels=experiment.detector.n_pixels,
        psf_px=experiment.detector.psf_px,
        background=experiment.detector.background_fraction,
    )


def calibrated_optics(experiment: Experiment, microscope: Microscope) -> Optics:
    """The optics as a real microscope says; point spread and background, which it does not know, as the file says.

    Raises
    ------
    ValueError
        If the file states a value of its own that differs from the microscope's by more than 0.1 %.
    """
    says = microscope.optics
    beam, detector = experiment.beam, experiment.detector
    for table, name, value in (
        (beam, "energy_keV", says.energy_keV),
        (beam, "semiangle_mrad", says.semiangle_mrad),
        (beam, "current_pA", float(microscope.beam.current.get())),
        (detector, "pixel_mrad", says.pixel_mrad),
        (detector, "n_pixels", says.n_pixels),
    ):
        stated = getattr(table, name)
        if name in table.model_fields_set and abs(stated - value) > 1e-3 * abs(value):
            raise ValueError(
                f"the experiment file says {name} = {stated:g}, the microscope says {value:g}: correct the one that is "
                "wrong, or leave it out of the file"
            )
    return replace(says, psf_px=detector.psf_px, background=detector.background_fraction)


def field_of(experiment: Experiment) -> FieldOfView:
    """The field of view that the experiment file describes."""
    f = experiment.field
    return FieldOfView(f.centre_x_nm - f.width_nm / 2, f.centre_y_nm - f.height_nm / 2, f.width_nm, f.height_nm)


def carry_out(experiment: Experiment, resumes: str | None = None) -> int:
    """Run an experiment from start to report, with progress in the terminal.

    Parameters
    ----------
    experiment : Experiment
        From an experiment file.
    resumes : str, optional
        uid, or its beginning, of an interrupted run in the same catalog whose measurements count, as do those of the
        runs that it resumed itself.

    Returns
    -------
    int
        Exit status: 0 if the run ended by itself, 1 if it failed, 130 if it was interrupted.
    """
    began = time.monotonic()
    crystals.monolayers(experiment.phases)
    folder = experiment.catalog.folder.expanduser().absolute()
    folders = {name: folder / name for name in ("catalog", "frames", "journals", "reports")}
    for each in folders.values():
        _make(each)
    print("starting the microscope, the catalog and the workers ...", flush=True)
    with contextlib.ExitStack() as stack:
        server, energies, network, epics = _start(experiment, folders, stack)
        os.environ.update(epics)

        from bluesky import RunEngine

        from .callbacks.progress import Progress
        from .catalog.writer import CatalogWriter
        from .devices.microscope import Microscope
        from .plans.adaptive import adaptive_map
        from .run_report import NothingToReport, command_line, report

        client = server.client()
        earlier = _documents(client, resumes) if resumes else ()
        microscope = Microscope(experiment.microscope.prefix, name="microscope", directory=str(folders["frames"]))
        stack.callback(microscope.destroy)  # before the IOCs end, or the EPICS client takes it for a fault
        microscope.wait_for_connection(timeout=10)
        if experiment.microscope.simulated:
            microscope.beam.current.set(experiment.beam.current_pA).wait(5)
            optics = optics_of(experiment)
            specimen = {"specimen_seed": experiment.microscope.specimen_seed}  # the report compares with its truth
        else:
            optics, specimen = calibrated_optics(experiment, microscope), {}
        reader = network
        if experiment.microscope.board is not None:
            reader = microscope.board
            reader.wait_for_connection(timeout=10)
            reader.load(experiment.microscope.board)
            reader.fallback = network
        writer = stack.enter_context(CatalogWriter(client, folders["journals"]))
        engine = RunEngine({}, context_managers=[_ends_when_told])
        engine.subscribe(writer)
        engine.subscribe(Progress(lambda: (energies.completed, energies.submitted)))
        # What is loaded by now is there to stay. A full collection that looks at it all, half a million objects, takes
        # a quarter of a second, in which no pattern is read.
        gc.collect()
        gc.freeze()
        stack.callback(gc.unfreeze)
        print(f"ready after {time.monotonic() - began:.0f} s", flush=True)
        plan = adaptive_map(
            microscope,
            field_of(experiment),
            experiment.stop.target_sd_eV,
            optics=optics,
            dwell_time=experiment.detector.dwell_time_s,
            initial=experiment.loop.initial,
            batch=experiment.loop.batch,
            max_positions=experiment.stop.max_positions,
            max_time=experiment.stop.max_time_s,
            max_dose=experiment.stop.max_dose_per_position_electrons,
            max_total_dose=experiment.stop.max_dose_electrons,
            phases=experiment.phases,
            seed=experiment.loop.seed,
            descriptors=reader,
            energies=energies,
            resume_from=earlier,
            md={"sample": experiment.sample, **experiment.metadata, **specimen},
        )
        status, uid = _run(engine, plan)
        if not writer.flush(60):
            print(
                "the catalog has not taken everything; nothing is lost: "
                f"`{command_line('catalog', 'replay', '--folder', folder)}`"
                + (f", then `{command_line('report', '--folder', folder, uid)}`" if uid else ""),
                file=sys.stderr,
            )
            status = status or 1
        elif uid is not None:
            try:
                report(client, uid, folder)
            except NothingToReport as nothing:
                print(nothing)
    return status


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the folder {folder}: {error.strerror}; choose another one") from None
    if not os.access(folder, os.W_OK):
        raise OSError(f"cannot write in the folder {folder}; choose another one, or change its permissions")


def _start(experiment: Experiment, folders: dict[str, Path], stack: contextlib.ExitStack) -> tuple[Any, ...]:
    """Start the server, the workers and the simulated microscope, all at once since each takes seconds."""
    from .analysis.pretrained import pretrained
    from .catalog.server import CatalogServer
    from .energetics.cache import EnergyCache
    from .energetics.cluster import DFTCluster
    from .energetics.method import METHODS
    from .fpga import student
    from .fpga.shipped import folder_of
    from .sim.board import Model

    weights = experiment.network.weights
    cache = experiment.energetics.cache.expanduser()
    # Refused before anything is started.
    network = pretrained(weights)
    EnergyCache(cache).close()
    if experiment.microscope.board is not None:
        board = folder_of(experiment.microscope.board)
        if experiment.microscope.simulated:
            Model.load(board)
        else:
            student.Student.load(board / student.NAME)

    server, given_up = CatalogServer(folders["catalog"], frames=[folders["frames"]]), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        serving = pool.submit(server.start)
        computing = pool.submit(
            DFTCluster,
            experiment.energetics.scheduler,
            workers=experiment.energetics.workers,
            cache=cache,
            method=METHODS[experiment.energetics.method],
            given_up=given_up,
        )
        try:
            # In this thread: the process ends with the thread that started it.
            epics = stack.enter_context(_simulate(experiment)) if experiment.microscope.simulated else {}
            for future in (serving, computing):
                future.exception()  # waits
        except BaseException:
            print("ending what was started ...", flush=True)
            given_up.set()
            while wait((serving,), timeout=0.1).not_done:  # its process may not have begun yet
                server.stop()
            raise
        finally:
            # Whatever did start is closed, also where something else did not.
            for future, close in ((serving, "stop"), (computing, "close")):
                if future.exception() is None:
                    stack.callback(getattr(future.result(), close))
    return serving.result(), computing.result(), network, epics


@contextlib.contextmanager
def _simulate(experiment: Experiment) -> Iterator[dict[str, str]]:
    """The simulated microscope; gives the EPICS environment that finds it."""
    from .fpga.shipped import folder_of
    from .sim.launch import MicroscopeProcess

    optics, board = optics_of(experiment), experiment.microscope.board
    options: dict[str, Any] = {} if board is None else {"board": folder_of(board)}
    with MicroscopeProcess(
        experiment.microscope.prefix,
        seed=experiment.microscope.specimen_seed,
        energy=optics.energy_keV,
        semiangle=optics.semiangle_mrad,
        pixel=optics.pixel_mrad,
        pixels=optics.n_pixels,
        psf=optics.psf_px,
        background=optics.background,
        **options,
    ) as microscope:
        yield microscope.client_env


@contextlib.contextmanager
def _ends_when_told(engine: RunEngine) -> Iterator[None]:
    """While the RunEngine runs, Ctrl-C, a closed terminal and SIGTERM interrupt the plan at once; `_run` aborts it."""

    def interrupt(signum: int, frame: object) -> None:
        said = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        with contextlib.suppress(OSError):  # the terminal may have gone
            print(f"\n{said}: blanking the beam and ending the run ...", flush=True)
        if engine.state == "running":
            engine.request_pause()

    before = {told: signal.signal(told, interrupt) for told in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for told, handler in before.items():
            signal.signal(told, handler)


def _run(engine: RunEngine, plan) -> tuple[int, str | None]:
    """Exit status, and the uid of the run if one began."""
    from bluesky.utils import RunEngineInterrupted

    # It logs each exception with its traceback, an abort too; here they are told in a line.
    logging.getLogger("bluesky").setLevel(logging.CRITICAL)
    begun: list[str] = []
    engine.subscribe(lambda name, doc: begun.append(doc["uid"]), "start")
    try:
        engine(plan)
        status = 0
    except RunEngineInterrupted:
        engine.abort("Ctrl-C")
        status = 130
    except Exception as error:
        print(f"edgestem: {error}", file=sys.stderr)
        status = 1
    return status, begun[0] if begun else None


def _documents(client, uid: str) -> list[tuple[str, dict]]:
    """Documents of a run, after those of the runs that it resumed, from the first on: all that they visited, counts.

    Raises
    ------
    ValueError
        If one of the runs is not in the catalog.
    """
    runs: list[list[tuple[str, dict]]] = []
    seen: set[str] = set()
    wanted, of = uid, ""
    while wanted and wanted not in seen:
        try:
            run = client[wanted]
        except (KeyError, ValueError):
            raise ValueError(
                f"no run {wanted!r}{of} in this catalog; `edgestem catalog search` lists those there are"
            ) from None
        runs.append(list(run.documents()))
        start = runs[-1][0][1]
        seen.add(start["uid"])
        wanted, of = start.get("resumes", ""), f", which {start['uid'][:8]} resumed,"
    return [document for run in reversed(runs) for document in run]
