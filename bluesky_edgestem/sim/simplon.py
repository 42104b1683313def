"""``edgestem sim simplon``: a DECTRIS detector to test against, with SIMPLON's REST interface and both its streams."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..option_types import not_negative, whole
from .frames import die_with_parent
from .ioc import READY
from .simplon_config import VERSIONS
from .simplon_detector import Detector
from .simplon_faults import Faults
from .simplon_frames import SOURCES, DrawnFrames, FileFrames, Frames, draw
from .simplon_rest import RestServer
from .stream_tap import StreamTap

PORTS = {"v1": 9999, "v2": 31001}


FRAME, COUNT, PORT = whole(), whole(1), whole(0, 65535)


def _delay(text: str) -> tuple[int, float]:
    number, colon, seconds = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed is a frame's number and seconds, as 7:0.5")
    return FRAME(number), not_negative(seconds)


def parser() -> argparse.ArgumentParser:
    """The options of the simulated detector."""
    made = argparse.ArgumentParser(
        prog="edgestem sim simplon",
        description="Simulated DECTRIS detector: SIMPLON over REST, frames over ZeroMQ. Arm it by "
        "PUT /detector/api/1.8.0/command/arm; external triggers then come by themselves.",
    )
    seen = made.add_argument_group("what it sees")
    seen.add_argument("--file", type=Path, help="replay the frames of this file (HDF5, /entry/data/data)")
    seen.add_argument("--source", choices=SOURCES, default="disks", help="or compute them (%(default)s)")
    seen.add_argument("--pixels", type=COUNT, default=192, help="pixels along a frame's side (%(default)s)")
    seen.add_argument("--bits", type=int, choices=(8, 16, 32), default=16, help="of a pixel (%(default)s)")
    seen.add_argument("--dose", type=not_negative, default=1e4, help="electrons per frame (%(default)g)")
    seen.add_argument("--distinct", type=COUNT, default=64, help="computed frames, sent in turn (%(default)s)")
    seen.add_argument(
        "--masked", type=whole(), default=0, help="pixels that it masks, of computed frames (%(default)s)"
    )
    seen.add_argument("--seed", type=whole(), default=0, help="draws specimen and noise (%(default)s)")
    sends = made.add_argument_group("how it sends")
    sends.add_argument("--rate", type=not_negative, default=1000.0, help="frames a second; 0: all it can (%(default)g)")
    sends.add_argument("--frames", type=COUNT, help="external triggers to begin with (those of the file, or 1000)")
    sends.add_argument("--protocol", choices=tuple(PORTS), default="v1", help="of the stream (%(default)s)")
    sends.add_argument("--channels", type=COUNT, default=1, help="thresholds, in stream v2 (%(default)s)")
    sends.add_argument("--port", type=PORT, help="of the stream; 0: a free one (9999 for v1, 31001 for v2)")
    sends.add_argument("--tap-port", type=PORT, help="of a copy of the stream for an inference board; 0: a free one")
    sends.add_argument("--api-port", type=PORT, default=8080, help="of REST; 0: a free one (%(default)s)")
    sends.add_argument("--api-version", choices=VERSIONS, default="1.8.0", help="of SIMPLON (%(default)s)")
    sends.add_argument("--interface", default="127.0.0.1", help="address to serve on (%(default)s: this machine only)")
    sends.add_argument("--buffer", type=COUNT, default=1000, help="messages that its memory holds (%(default)s)")
    sends.add_argument("--lossy", action="store_true", help="lose frames where its memory is full, as a real one does")
    sends.add_argument("--manual", action="store_true", help="external triggers come by PUT /simulator/pulse only")
    wrong = made.add_argument_group("what goes wrong (n: a frame's number, from 0; may be given again)")
    for name, what in (
        ("drop", "do not send it"),
        ("duplicate", "send it twice"),
        ("corrupt", "damage its bytes"),
        ("wrong-shape", "say that it has one row less"),
    ):
        wrong.add_argument(f"--{name}", type=FRAME, action="append", default=[], metavar="n", help=what)
    wrong.add_argument(
        "--delay", type=_delay, action="append", default=[], metavar="n:s", help="wait for s seconds before it"
    )
    wrong.add_argument("--cut", type=FRAME, metavar="n", help="send neither it nor any after it")
    wrong.add_argument("--no-end", action="store_true", help="send no end message")
    wrong.add_argument("--wrong-header", action="store_true", help="announce twice the rows that frames have")
    made.add_argument("--die-with-parent", action="store_true", help="end when the process that started this one does")
    return made


def make_detector(options: argparse.Namespace) -> Detector:
    """The detector that parsed `options` describe."""
    frames: Frames
    if options.file is not None:
        frames = FileFrames(options.file)
    else:
        images = draw(options.source, options.pixels, options.bits, options.distinct, options.seed, options.dose)
        pixels = np.arange(options.pixels**2)
        chosen = np.random.default_rng(options.seed).choice(pixels, min(options.masked, len(pixels)), replace=False)
        frames = DrawnFrames(images, masked=np.isin(pixels, chosen).reshape(images[0].shape))
    detector = Detector(
        frames,
        rate=options.rate,
        protocol=options.protocol,
        version=options.api_version,
        address=f"tcp://{options.interface}:{PORTS[options.protocol] if options.port is None else options.port}",
        channels=options.channels,
        faults=Faults(
            drop=frozenset(options.drop),
            duplicate=frozenset(options.duplicate),
            corrupt=frozenset(options.corrupt),
            wrong_shape=frozenset(options.wrong_shape),
            delay=dict(options.delay),
            cut=options.cut,
            no_end=options.no_end,
            wrong_header=options.wrong_header,
        ),
        automatic=not options.manual,
        lossy=options.lossy,
        buffer=options.buffer,
        tap=None if options.tap_port is None else StreamTap(f"tcp://{options.interface}:{options.tap_port}"),
    )
    detector.put("detector", "ntrigger", options.frames or (len(frames) if options.file is not None else 1000))
    return detector


def main(argv: Sequence[str] | None = None) -> int:
    """Run the simulated detector until Ctrl-C or SIGTERM."""
    options = parser().parse_args(argv)
    if options.die_with_parent:
        die_with_parent()
    ended = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: ended.set())
    try:
        detector = make_detector(options)
    except (OSError, ValueError) as error:
        print(f"edgestem: {error}", file=sys.stderr)
        return 1
    try:
        server = RestServer(detector, options.interface, options.api_port)
    except OSError as error:
        print(f"edgestem: {error}", file=sys.stderr)
        detector.close()
        return 1
    print(
        f"{READY} stream tcp://{options.interface}:{detector.port} REST http://{options.interface}:{server.port} "
        f"{os.getpid()}" + ("" if detector.tap is None else f" tap {detector.tap.address}"),
        flush=True,
    )
    ended.wait()
    detector.close()
    server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
