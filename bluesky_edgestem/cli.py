"""The command line: `edgestem demo | run | resume | report | catalog | sim | train | analyse | fpga | stream`.

Nothing heavy is imported before the command is known, so that `edgestem --help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType

from . import __version__
from .option_types import whole

#: Commands with a command line of their own, and where it is: module and what it does. Two words go before one.
DELEGATED = {
    "sim": ("bluesky_edgestem.sim.ioc", "the simulated microscope alone, for any EPICS client"),
    "sim simplon": ("bluesky_edgestem.sim.simplon", "a simulated DECTRIS detector"),
    "train descriptors": (
        "bluesky_edgestem.analysis.train_descriptors",
        "patterns to strain, rotation, phase and, of thick crystals, thickness",
    ),
    "train library": ("bluesky_edgestem.analysis.disk_library", "compute the disks that training patterns are made of"),
    "train patterns": ("bluesky_edgestem.analysis.pattern_sets", "draw training patterns of thick crystals"),
    "train strain": ("bluesky_edgestem.recorded.train_strain", "the strain autoencoder, on a scan of your own"),
    "analyse strain": ("bluesky_edgestem.recorded.analyse_strain", "strain maps of a recorded scan"),
    "stream record": ("bluesky_edgestem.stream.record", "keep a series that a DECTRIS detector streams"),
    "stream mend": ("bluesky_edgestem.stream.mend", "close a file whose receiver was killed"),
    "fpga build": (
        "bluesky_edgestem.fpga.command_line",
        "a network for an FPGA board: trained, written as Verilog, verified",
    ),
    "fpga report": ("bluesky_edgestem.fpga.report", "what a build reached, and how each figure is known"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit status: 0, 1 after an error that was explained, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if traceback := words[:1] == ["--traceback"]:
        words = words[1:]
    for length in (2, 1):
        if module := DELEGATED.get(" ".join(words[:length])):
            own = import_module(module[0]).main
            return _explained(partial(own, words[length:]), traceback)
    options = _parser().parse_args(words)
    return _explained(lambda: options.command(options), traceback)


def _explained(command: Callable[[], int | None], traceback: bool) -> int:
    try:
        with _interrupted_outside_imports():
            return command() or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if traceback:
            raise
        print(f"edgestem: {error}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def _interrupted_outside_imports() -> Iterator[None]:
    """Inside, Ctrl-C waits for the end of an import that it comes in.

    Raised in the middle of one, KeyboardInterrupt can leave the lock of all imports taken: other threads, which are to
    end what was started, then wait for it for ever.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield  # Ctrl-C is ignored, or somebody else's
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code is not _explained.__code__:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                again = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signum))
                again.daemon = True
                again.start()
                return
            frame = frame.f_back
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgestem", description="Closed-loop 4D-STEM on Bluesky.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--traceback", action="store_true", help="show where in the program an error comes from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="run the closed loop on a simulated microscope and write a report")
    demo.add_argument("--seed", type=whole(), help="another seed is another specimen")
    _folder(demo)
    demo.set_defaults(command=_demo)

    run = commands.add_parser("run", help="carry out an experiment file")
    run.add_argument("experiment", type=Path, help="TOML file; every quantity names its unit")
    run.set_defaults(command=_run)

    resume = commands.add_parser("resume", help="go on with an interrupted run: what it measured counts")
    resume.add_argument("experiment", type=Path, help="the experiment file of the interrupted run")
    resume.add_argument("uid", help="uid of the interrupted run, or its first characters")
    resume.set_defaults(command=_resume)

    report = commands.add_parser("report", help="write the report of a run that is in the catalog")
    report.add_argument("uid", help="uid of the run, or its first characters")
    _folder(report)
    report.set_defaults(command=_report)

    # For the list of commands alone: with the right words after them, `main` has called their own command line.
    for first in dict.fromkeys(command.split()[0] for command in DELEGATED):
        own = {command: what for command, (_, what) in DELEGATED.items() if command.split()[0] == first}
        described = "; ".join(what if command == first else f"{command}: {what}" for command, what in own.items())
        group = commands.add_parser(first, help=described)
        group.set_defaults(command=partial(_incomplete, own))
        if seconds := {command.split()[1]: what for command, what in own.items() if command != first}:
            actions = group.add_subparsers(metavar="ACTION")
            for second, what in seconds.items():
                actions.add_parser(second, help=what)

    catalog = commands.add_parser("catalog", help="search, serve and repair the catalog of runs")
    actions = catalog.add_subparsers(required=True, metavar="ACTION")
    search = actions.add_parser("search", help='find runs, for example "sample~MoS2" "target_sd<0.02"')
    search.add_argument(
        "terms", nargs="*", help="key=value, key~text (contains), key<number, key>=number ..., or words to look for"
    )
    _folder(search)
    search.set_defaults(command=_search)
    replay = actions.add_parser("replay", help="bring in runs that were kept on disk while the server was down")
    _folder(replay)
    replay.set_defaults(command=_replay)
    serve = actions.add_parser("serve", help="serve the catalog to Tiled clients until Ctrl-C")
    _folder(serve)
    serve.add_argument("--port", type=int, default=0, help="port on the loopback address; a free one if left out")
    serve.set_defaults(command=_serve)
    return parser


def _folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("edgestem_data"),
        help="folder of the catalog, the frames and the reports (default: %(default)s)",
    )


def _incomplete(own: dict[str, str], _: argparse.Namespace) -> int:
    raise ValueError("say which: " + "; ".join(f"`edgestem {command}` ({what})" for command, what in own.items()))


def _demo(options: argparse.Namespace) -> int:
    from .config import CatalogTable, demo_experiment
    from .experiment import carry_out

    experiment = demo_experiment()
    changes: dict = {"catalog": CatalogTable(folder=options.folder)}
    if options.seed is not None:
        changes["microscope"] = experiment.microscope.model_copy(update={"specimen_seed": options.seed})
    return carry_out(experiment.model_copy(update=changes))


def _run(options: argparse.Namespace) -> int:
    from .config import load_experiment
    from .experiment import carry_out

    return carry_out(load_experiment(options.experiment))


def _resume(options: argparse.Namespace) -> int:
    from .config import load_experiment
    from .experiment import carry_out

    return carry_out(load_experiment(options.experiment), resumes=options.uid)


def _report(options: argparse.Namespace) -> int:
    from .catalog.server import open_catalog
    from .run_report import report

    folder = options.folder.expanduser().absolute()
    with open_catalog(folder / "catalog", frames=[folder / "frames"]) as client:
        report(client, options.uid, folder)
    return 0


def _search(options: argparse.Namespace) -> int:
    from .catalog.search import search, table
    from .catalog.server import open_catalog

    with open_catalog(options.folder / "catalog") as client:
        print(table(search(client, *options.terms)))
    return 0


def _replay(options: argparse.Namespace) -> int:
    from .catalog.replay import replay
    from .catalog.server import open_catalog

    with open_catalog(options.folder / "catalog", frames=[options.folder / "frames"]) as client:
        replayed = replay(options.folder / "journals", client)
    for run in replayed:
        print(f"{run.uid[:8]}  {run.outcome}" + (f": {run.reason}" if run.reason else ""))
    if not replayed:
        print("no run is waiting: all are in the catalog")
    return 1 if any(run.outcome == "failed" for run in replayed) else 0


def _serve(options: argparse.Namespace) -> int:
    from .catalog.server import serve

    serve(options.folder / "catalog", port=options.port)
    return 0
