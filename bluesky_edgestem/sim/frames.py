"""Where frames come from: the specimen under the beam, or plain disks for tests of everything but the physics."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from ..analysis.optics import Optics
from ..geometry import FieldOfView

SOURCES = ("specimen", "disks")


class FrameSource(Protocol):
    """What the detector sees at a probe position."""

    def frame(self, position: np.ndarray, dose: float, optics: Optics, rng: np.random.Generator) -> np.ndarray:
        """One recorded frame (n_pixels, n_pixels) uint16 at `position` (2,) [nm] and `dose` [electrons]."""
        ...


class Disks:
    """Seven soft disks in a hexagon that turns with x and widens with y: fast, and different at every position."""

    def frame(self, position: np.ndarray, dose: float, optics: Optics, rng: np.random.Generator) -> np.ndarray:
        """One frame of Poisson counts; see `FrameSource.frame`."""
        n, sigma = optics.n_pixels, max(optics.disk_radius / 2, 1.0)
        angles = np.arange(6) * np.pi / 3 + 0.005 * position[0]
        radius = n * (0.25 + 0.0005 * position[1])
        centres = (n - 1) / 2 + np.vstack([[0, 0], radius * np.column_stack([np.cos(angles), np.sin(angles)])])
        pixels = np.arange(n)
        along = np.exp(-((pixels - centres[:, :, None]) ** 2) / (2 * sigma**2))  # (7, 2, n): the disks are separable
        pattern = np.einsum("ki,kj->ij", along[:, 1], along[:, 0])
        return rng.poisson(dose * pattern / pattern.sum()).clip(0, 65535).astype(np.uint16)


def make_source(name: str, seed: int, field: FieldOfView) -> FrameSource:
    """The frame source called `name`, one of `SOURCES`."""
    if name == "disks":
        return Disks()
    if name == "specimen":
        from .specimen import Heterojunction  # brings abTEM

        return Heterojunction(seed, field)
    raise ValueError(f"no frame source is called {name!r}; there are {', '.join(SOURCES)}")


def die_with_parent() -> None:
    """Have the kernel end this process when the thread that started it does (Linux; elsewhere nothing)."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    except (AttributeError, OSError):
        return


_source: FrameSource | None = None


def _start_worker(name: str, seed: int, field: FieldOfView, own_process: bool) -> None:
    global _source
    if own_process:
        die_with_parent()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the IOC, which then ends its workers
    _source = make_source(name, seed, field)


def _render(position: tuple[float, float], dose: float, optics: Optics, seed: tuple[int, int]) -> np.ndarray:
    assert _source is not None
    return _source.frame(np.asarray(position), dose, optics, np.random.default_rng(seed))


class Renderer:
    """Computes frames outside the IOC's event loop, so that Channel Access answers while abTEM works.

    Parameters
    ----------
    source : {"specimen", "disks"}
        Where frames come from.
    seed : int
        Draws the specimen and the counting noise.
    field : FieldOfView
        Region in which the specimen's features lie [nm].
    workers : int
        Processes for multislice. Disks take under a millisecond and are drawn in a thread.
    """

    def __init__(self, source: str, seed: int, field: FieldOfView, workers: int = 2) -> None:
        if workers < 1:
            raise ValueError(f"frames need at least 1 worker, got {workers}")
        self.seed = seed
        self._executor: Executor
        if source == "disks":
            self._executor = ThreadPoolExecutor(1, "frames", _start_worker, (source, seed, field, False))
            self.workers = 1
        else:
            make_source(source, seed, field)  # a wrong name fails here, not in a worker
            for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
                os.environ.setdefault(name, "1")  # one pattern a worker: threads in each would only fight
            self._executor = ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn"), _start_worker, (source, seed, field, True)
            )
            self.workers = workers

    def submit(self, position: tuple[float, float], dose: float, optics: Optics, number: int) -> Future[np.ndarray]:
        """The frame at `position` [nm] with `dose` [electrons], as a future; `number` makes its noise its own."""
        if dose <= 0:
            dark: Future[np.ndarray] = Future()
            dark.set_result(np.zeros((optics.n_pixels, optics.n_pixels), np.uint16))
            return dark
        return self._executor.submit(_render, position, dose, optics, (self.seed, number))

    def close(self) -> None:
        """End the workers, which finish the frame that they are at; those that wait are dropped."""
        # Not waiting, the interpreter's end wakes the pool's thread over a pipe that this thread may have closed.
        self._executor.shutdown(wait=True, cancel_futures=True)
