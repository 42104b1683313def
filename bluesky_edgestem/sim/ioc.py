"""The simulated microscope as soft-IOCs: scan coils, beam, pixelated detector, inference board on Channel Access."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import caproto.server.common
from caproto.asyncio.server import Context

from ..analysis.optics import Optics
from ..fpga.shipped import folder_of
from ..fpga.student import NAME as STUDENT
from ..fpga.student import OF_OPTICS, Student, other_optics
from ..geometry import FieldOfView
from ..option_types import positive, stream_address, whole
from .board import Board, Model
from .column import Column
from .frames import SOURCES, Renderer, die_with_parent
from .hdf5_writer import abandoned
from .ioc_beam import BeamIOC
from .ioc_board import BoardIOC
from .ioc_detector import EigerIOC
from .ioc_hdf import HDFPluginIOC
from .ioc_scan import ScanCoilsIOC
from .queue_line import QueueLine, take_requests
from .records import Records
from .repeater import repeat
from .stream_tap import StreamTap
from .trigger_line import send_triggers, take_triggers

GROUPS: dict[str, type[Records]] = {
    "Scan:": ScanCoilsIOC,
    "Beam:": BeamIOC,
    "cam1:": EigerIOC,
    "HDF1:": HDFPluginIOC,
    "Board:": BoardIOC,
}
"""The IOCs by what follows the prefix."""

READY = "ready"
"""First word of the line that says, on standard output, that clients may connect."""


@dataclass(frozen=True)
class PV:
    """One process variable, for help and documentation."""

    name: str
    access: str
    units: str
    values: tuple[str, ...]
    doc: str


def pv_list(prefix: str = "SIM:") -> list[PV]:
    """Every PV of the simulated microscope, record fields left out."""
    return [
        PV(
            prefix + suffix + record.pvspec.name,
            "read" if record.pvspec.read_only else "read, write",
            record.pvspec.cls_kwargs.get("units", ""),
            tuple(record.pvspec.cls_kwargs.get("enum_strings", ())),
            record.pvspec.doc or "",
        )
        for suffix, group in GROUPS.items()
        for record in group._pvs_.values()
    ]


def pv_help(prefix: str = "SIM:") -> str:
    """The PV list as text for ``--help``: readbacks are named with their setting."""
    listed = pv_list(prefix)
    names = {pv.name for pv in listed}
    lines = ["process variables (NAME(_RBV): the setting and its readback):"]
    for pv in listed:
        if pv.name.endswith("_RBV") and pv.name.removesuffix("_RBV") in names:
            continue
        name = pv.name + ("(_RBV)" if f"{pv.name}_RBV" in names else "")
        units = f" [{pv.units}]" if pv.units else ""
        values = f" ({' | '.join(pv.values)})" if pv.values else ""
        read = "" if "write" in pv.access else " (read only)"
        lines.append(f"  {name:32s} {pv.doc}{units}{values}{read}")
    return "\n".join(lines)


class PromptContext(Context):
    """caproto's server, answering at once.

    asyncio sets TCP_NODELAY only on sockets made with an explicit protocol, which caproto's are not: without it Nagle's
    algorithm and the client's delayed acknowledgement make every put take 40 ms.
    """

    async def server_accept_loop(self, sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each accepted socket inherits it
        await super().server_accept_loop(sock)


async def serve(
    prefix: str,
    *,
    source: str = "specimen",
    seed: int = 0,
    field: FieldOfView | None = None,
    optics: Optics | None = None,
    scan_range: float = 120.0,
    bit_depth: int = 16,
    workers: int = 2,
    interface: str = "127.0.0.1",
    part: str = "all",
    line: Path | None = None,
    board: Path | None = None,
    tap: str | None = None,
    protocol: str = "v1",
    queue: Path | None = None,
) -> None:
    """Run the IOCs until cancelled.

    Parameters
    ----------
    prefix : str
        Goes before every PV's name.
    source : {"specimen", "disks"}
        Where frames come from.
    seed : int
        Draws the specimen and the counting noise.
    field : FieldOfView, optional
        Region in which the specimen's features lie [nm]; 100 nm around the origin by default.
    optics : Optics, optional
        Beam energy, semiangle and detector to start with.
    scan_range : float
        Reach of the coils along each axis, centred on 0 [nm].
    bit_depth : {16, 32}
        Bits of a pixel in the files.
    workers : int
        Processes that compute frames.
    interface : str
        Address to serve on; the loopback address keeps other machines out.
    part : {"all", "column", "detector", "board"}
        Which IOCs to run: scan coils and beam, or the detector, or the inference board, or all in this process.
    line : Path, optional
        Unix socket of the trigger line from the column's process to the detector's; the column makes it.
    board : Path, optional
        Folder of the build that the inference board has; without it there is no board.
    tap : str, optional
        Address of the copy of the detector's stream which the board takes; a free port by default.
    protocol : {"v1", "v2"}
        Of the stream that the board takes; the detector here speaks v1.
    queue : Path, optional
        Unix socket of the line on which the board asks the coils for positions; the column makes it.
    """
    # Below this pause between monitors caproto bundles them; its default of 10 ms delays each one by as much.
    caproto.server.common.HIGH_LOAD_TIMEOUT = 0.001
    column = Column(optics=optics or Optics())
    async with contextlib.AsyncExitStack() as stack:
        groups: list[Records] = []
        if queue is None and part == "all" and board is not None:
            queue = Path(stack.enter_context(TemporaryDirectory())) / "queue"
        splitter = None
        if part in ("all", "detector") and (board is not None or tap is not None):
            splitter = StreamTap(tap or "tcp://127.0.0.1:0")
            stack.callback(splitter.close)
            tap = splitter.address
        if part in ("all", "board") and board is not None:
            if tap is None:
                raise ValueError("a board by itself needs the address of the detector's stream: --tap tcp://HOST:PORT")
            inside = Board(Model.load(board), tap, protocol)
            stack.callback(inside.stop)
            if queue is not None:
                asks = QueueLine(queue)
                stack.callback(asks.close)
                inside.ask = asks.ask
            groups.append(BoardIOC(prefix + "Board:", board=inside))
        if part in ("all", "column"):
            coils = ScanCoilsIOC(prefix + "Scan:", column=column, scan_range=scan_range)
            if queue is not None:
                stack.callback((await take_requests(queue, coils.request)).close)
            groups += [coils, BeamIOC(prefix + "Beam:", column=column)]
        if part in ("all", "detector"):
            renderer = Renderer(source, seed, field or FieldOfView.centred(100.0), workers)
            stack.callback(renderer.close)
            # The first frame of a worker pays for its imports; pay before anyone waits for it.
            await asyncio.gather(
                *(
                    asyncio.wrap_future(renderer.submit((0.0, 0.0), 1.0, column.optics, n))
                    for n in range(renderer.workers)
                )
            )
            plugin = HDFPluginIOC(prefix + "HDF1:", column=column, bit_depth=bit_depth)
            groups += [
                EigerIOC(prefix + "cam1:", column=column, renderer=renderer, plugin=plugin, tap=splitter),
                plugin,
            ]
        if part == "column" and line is not None:
            stack.callback((await send_triggers(column, line)).close)
        if part == "detector" and line is not None:
            stack.callback((await take_triggers(column, line)).cancel)
        context = PromptContext({name: pv for group in groups for name, pv in group.pvdb.items()}, [interface])

        async def announce(async_lib):
            while context.port is None:
                await asyncio.sleep(0.01)
            for group in groups:
                if isinstance(group, BoardIOC):
                    await group.ready.wait()
            # What is loaded by now is there to stay: no collection looks at it again, for a third of a second.
            gc.collect()
            gc.freeze()
            print(f"{READY} {prefix} {os.getpid()}", flush=True)

        await context.run(startup_hook=announce)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the simulated microscope's options to `parser`; `run` takes what it parses."""
    default = Optics()
    parser.add_argument("--prefix", default="SIM:", help="goes before every PV's name (default: %(default)s)")
    parser.add_argument("--source", choices=SOURCES, default="specimen", help="where frames come from")
    parser.add_argument(
        "--seed", type=whole(), default=0, help="draws the specimen and the noise (default: %(default)s)"
    )
    parser.add_argument(
        "--field",
        type=positive("a length [nm]"),
        default=100.0,
        help="size of the specimen's region [nm] (%(default)s)",
    )
    parser.add_argument(
        "--scan-range", type=positive("a length [nm]"), default=120.0, help="reach of the coils [nm] (%(default)s)"
    )
    # Of a board's build, where there is one: it reads no other frames.
    for name, type_, what, usual in (
        ("--energy", float, "beam energy [keV]", default.energy_keV),
        ("--semiangle", float, "convergence semiangle [mrad]", default.semiangle_mrad),
        ("--pixel", float, "angle of a detector pixel [mrad]", default.pixel_mrad),
        ("--pixels", int, "pixels along a frame's side", default.n_pixels),
    ):
        parser.add_argument(name, type=type_, help=f"{what} ({usual}, or that of the board's build)")
    parser.add_argument(
        "--psf",
        type=float,
        default=default.psf_px,
        help="standard deviation of the point spread [pixels] (%(default)s)",
    )
    parser.add_argument(
        "--background",
        type=float,
        default=default.background,
        help="fraction of the electrons in the diffuse background (%(default)s)",
    )
    parser.add_argument(
        "--bit-depth", type=int, choices=(16, 32), default=16, help="bits of a pixel in the files (%(default)s)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that compute frames (%(default)s)")
    parser.add_argument("--interface", default="127.0.0.1", help="address to serve on (%(default)s: this machine only)")
    parser.add_argument(
        "--board",
        type=folder_of,
        help="folder of a build by `edgestem fpga build`, or 'shipped': adds the inference board that has it",
    )
    parser.add_argument(
        "--tap", type=stream_address, help="address of the copy of the detector's stream for the board (a free port)"
    )
    parser.add_argument(
        "--protocol",
        choices=("v1", "v2"),
        default="v1",
        help="of the stream that a board by itself takes (%(default)s)",
    )
    parser.add_argument(
        "--part", choices=("all", "column", "detector", "board"), default="all",
        help="IOCs to run in this process (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--queue", type=Path, help="Unix socket of the line from board to coils, where they run apart")
    parser.add_argument("--line", type=Path, help="Unix socket of the trigger line, where the parts run apart")
    parser.add_argument(
        "--die-with-parent", action="store_true", help="end when the process that started this one does"
    )


def _served_already(pv: str) -> bool:
    """Whether another IOC serves `pv`: a second would start without complaint, and take half the clients."""
    from caproto import CaprotoTimeoutError
    from caproto.sync.client import read

    try:
        read(pv, timeout=0.5, repeater=False)
    except (CaprotoTimeoutError, TimeoutError, OSError):
        return False
    return True


def _optics(options: argparse.Namespace) -> Optics:
    """What the options say of beam and detector; what they leave out is that of the board's build, if there is one."""
    student = None if options.board is None else Student.load(options.board / STUDENT)
    usual = Optics() if student is None else student.optics
    asked = {
        "energy_keV": options.energy, "semiangle_mrad": options.semiangle, "pixel_mrad": options.pixel,
        "n_pixels": options.pixels,
    }  # fmt: skip
    said = {name: value for name, value in asked.items() if value is not None}
    optics = replace(usual, psf_px=options.psf, background=options.background, **said)
    if student is not None and (told := other_optics({name: getattr(usual, name) for name in OF_OPTICS}, optics)):
        print(f"edgestem: the board will read no frame: {told}", file=sys.stderr)
    return optics


def run(options: argparse.Namespace) -> int:
    """Run the IOCs with parsed `options` until Ctrl-C or SIGTERM; 1 where the prefix is taken."""
    if options.part == "board" and options.board is None:
        print("edgestem: --part board needs --board, the folder of a build by `edgestem fpga build`", file=sys.stderr)
        return 1
    if options.die_with_parent:  # started on ports of its own
        die_with_parent()
        if options.part in ("all", "column"):
            port = int(os.environ["EPICS_CA_REPEATER_PORT"])
            threading.Thread(target=repeat, args=(port,), daemon=True).start()
    elif _served_already(options.prefix + ("Board:" if options.part == "board" else "Scan:") + "State_RBV"):
        print(f"another IOC serves {options.prefix} already; end it, or choose another --prefix", file=sys.stderr)
        return 1
    logging.basicConfig(format="%(levelname)s %(message)s")
    # A refused write and a client that went away come with a traceback each from caproto; refusals are logged here.
    logging.getLogger("caproto").setLevel(logging.CRITICAL)
    optics = _optics(options)

    async def until_signalled() -> None:
        task = asyncio.current_task()
        assert task is not None
        for ends in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(ends, task.cancel)
        await serve(
            options.prefix,
            source=options.source,
            seed=options.seed,
            field=FieldOfView.centred(options.field),
            optics=optics,
            scan_range=options.scan_range,
            bit_depth=options.bit_depth,
            workers=options.workers,
            interface=options.interface,
            part=options.part,
            line=options.line,
            board=options.board,
            tap=options.tap,
            protocol=options.protocol,
            queue=options.queue,
        )

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(until_signalled())
    if abandoned:
        sys.stdout.flush()
        os._exit(0)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the simulated microscope alone."""
    parser = argparse.ArgumentParser(
        description="Simulated microscope: scan coils, beam, pixelated detector and, with --board, inference board on "
        "Channel Access.",
        epilog=pv_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
