"""A DFT worker: ``OMP_NUM_THREADS=1 python -m bluesky_edgestem.energetics.worker ADDRESS`` is one, with one thread."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import threading

from .dft import MonolayerDFT, load_gpaw
from .method import DFTMethod
from .result import EnergyResult

# The calculators of this process: their wave functions are the start of the next calculation.
_calculations: dict[tuple[str, DFTMethod], MonolayerDFT] = {}


def compute(formula: str, strain: tuple[float, float, float], method: DFTMethod, time_limit: float) -> EnergyResult:
    """Compute one energy; the task that a worker is given.

    Parameters
    ----------
    formula : str
        Phase.
    strain : (3,) floats
        exx, eyy, exy relative to its relaxed lattice, zigzag along x.
    method : DFTMethod
        Settings.
    time_limit : float
        Longest duration [s]. A calculation that does not even come to the end of an iteration ends with its process at
        twice the limit.
    """
    hard_limit = threading.Timer(2 * time_limit + 10.0, os._exit, (1,))
    hard_limit.daemon = True
    hard_limit.start()
    try:
        if (formula, method) not in _calculations:
            _calculations[formula, method] = MonolayerDFT(formula, method)
        return _calculations[formula, method].result(strain, time_limit)
    finally:
        hard_limit.cancel()


async def _work(address: str) -> None:
    from distributed import Worker

    # The host, not the network's name of it: loopback stays on the loopback.
    host = address.split("://")[-1].rsplit(":", 1)[0]
    worker = Worker(
        address, nthreads=1, host=host if host in ("127.0.0.1", "localhost") else None, dashboard=False, memory_limit=0,
        death_timeout=60,
    )  # fmt: skip
    async with worker:
        # While the first descriptors are still to be measured, so that the first energy is not kept waiting.
        threading.Thread(target=_warm_up, daemon=True).start()
        await worker.finished()


def _warm_up() -> None:
    # Without GPAW each calculation fails with the reason, which is where it is read.
    with contextlib.suppress(ImportError):
        load_gpaw()


def _end_with_input() -> None:
    # A pipe's end is the one sign of a parent's death that comes however it died.
    while os.read(0, 1):
        pass
    os._exit(0)


def main() -> None:
    """Run a worker until its scheduler or its parent ends."""
    parser = argparse.ArgumentParser(description="A DFT worker of one thread.")
    parser.add_argument("address", help="address of the Dask scheduler, such as tcp://127.0.0.1:8786")
    parser.add_argument("--child", action="store_true", help="end when the standard input ends")
    arguments = parser.parse_args()
    if arguments.child:
        threading.Thread(target=_end_with_input, daemon=True).start()
    if arguments.child:
        # Importing it configures its loggers; a child's coming and going is no news, nor is the connection's end.
        import distributed  # noqa: F401

        logging.getLogger("distributed").setLevel(logging.CRITICAL)
    asyncio.run(_work(arguments.address))
    # Not by way of the interpreter's end, which waits for whatever GPAW computes.
    os._exit(0)


if __name__ == "__main__":
    main()
