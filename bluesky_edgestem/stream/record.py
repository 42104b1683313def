"""``edgestem stream record``: keeps a series, whatever started it."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from ..option_types import positive
from .gate import Reduce
from .nexus import Context
from .receiver import PROTOCOLS, VERIFY, Receiver
from .recorder import Recorder, Recording
from .series_file import abandoned


def record(
    address: str,
    path: str | Path,
    *,
    protocol: str = "v1",
    timeout: float = 10.0,
    grace: float = 1.0,
    start_timeout: float | None = None,
    workers: int = 1,
    reduce: Reduce | None = VERIFY,
    context: Context | None = None,
    waiting: Callable[[], object] | None = None,
    stop: threading.Event | None = None,
) -> Recording:
    """Keep the next series of a detector in a file.

    Parameters
    ----------
    address : str
        Of the detector's stream, ``tcp://HOST:PORT``.
    path : str or Path
        A file that does not exist yet.
    protocol : {"v1", "v2"}
        Of the stream: the detector's ``stream/config/format`` is ``legacy`` or ``cbor``.
    timeout : float
        A series without a message for so long [s], after its first frame, is closed as it is.
    grace : float
        After the end message frames may still come from another worker for so long [s].
    start_timeout : float, optional
        How long to wait for a series to begin [s]; for ever by default.
    workers : int
        Sockets, each in a thread, that share the stream.
    reduce : callable, optional
        Decodes the frames, see `gate.Reduce`. By default they are decoded to be verified; None believes them as they
        are.
    context : Context, optional
        Probe positions, optics and sample, for the file.
    waiting : callable, optional
        Called once the detector is connected: what it sends from then on comes here.
    stop : threading.Event, optional
        Once set, the series is closed as it is.

    Raises
    ------
    ValueError
        Address or protocol is none.
    FileExistsError, TimeoutError, OSError
        As for `Recorder.record`.
    """
    receiver = Receiver(address, protocol=protocol, workers=workers, reduce=reduce)
    try:
        recorder = Recorder(receiver, timeout=timeout, grace=grace)
        return recorder.record(Path(path), context=context, waiting=waiting, stop=stop, start_timeout=start_timeout)
    finally:
        receiver.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; exit status 0 for a complete series, 3 for one that lacks frames."""
    parser = argparse.ArgumentParser(
        prog="edgestem stream record", description="Keep the next series of a DECTRIS detector in an HDF5 file (NXmx)."
    )
    parser.add_argument("address", help="of the detector's stream, tcp://HOST:9999 (v1) or tcp://HOST:31001 (v2)")
    parser.add_argument("path", type=Path, help="file to write; it must not exist")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="v1", help="of the stream (%(default)s)")
    parser.add_argument(
        "--timeout",
        type=positive("a time to wait [s]"),
        default=10.0,
        help="close a series without a message for so long [s] (%(default)s)",
    )
    parser.add_argument(
        "--start-timeout", type=positive("a time to wait [s]"), help="wait so long for a series to begin [s] (for ever)"
    )
    parser.add_argument("--workers", type=int, default=1, help="sockets that share the stream (%(default)s)")
    parser.add_argument("--no-verify", action="store_true", help="do not decode frames: damaged ones go to the file")
    options = parser.parse_args(argv)
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(name, lambda *_: stop.set())
    status = 0
    try:
        recording = record(
            options.address,
            options.path,
            protocol=options.protocol,
            timeout=options.timeout,
            start_timeout=options.start_timeout,
            workers=options.workers,
            reduce=None if options.no_verify else VERIFY,
            waiting=lambda: print(f"waiting for a series at {options.address}", flush=True),
            stop=stop,
        )
        print(recording, flush=True)
        status = 0 if recording.complete else 3
    except (ValueError, OSError, RuntimeError) as error:
        print(f"edgestem: {error}", file=sys.stderr, flush=True)
        status = 1
    if abandoned:
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
