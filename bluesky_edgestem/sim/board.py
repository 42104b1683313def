"""The inside of the simulated inference board: the detector's stream in, a result for each frame out.

It computes with the fixed-point numbers of a build: filters as `fpga.student.Student` has them in whole numbers, dense
layers by alkaid. All forms of that build were found to agree bit for bit: what it gives for a frame is what the Verilog
gives. How long it takes says nothing of the hardware.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..fpga import fixed_point, golden, results, student
from ..fpga.fixed_point import DenseLayers
from ..fpga.golden import GoldenFrames
from ..fpga.rule import Rule
from ..fpga.student import Student
from ..stream.encoding import decompress
from ..stream.frames import Frames
from ..stream.gate import Refusal
from ..stream.receiver import Early, Receiver
from ..stream.series import ProtocolError, Series
from .queue_line import Ask

KEPT = 1024
"""Latest results that can be read at once: a client that misses some hears of them with the next."""
EDGES = np.geomspace(1e-6, 10.0, 29)
"""Edges [s] of the latency histogram, four bins a decade."""
LOOK = 0.1
"""Time [s] between two looks at whether the board is to stop."""


@dataclass(frozen=True)
class Model:
    """A build that is loaded."""

    folder: Path
    student: Student
    dense: DenseLayers

    @classmethod
    def load(cls, folder: Path) -> Model:
        """From the folder of a build.

        Raises
        ------
        ValueError
            Its student or the dense layers cannot be read, or are of two builds; the message says why, and what to do.
        """
        folder = Path(folder)
        known, dense = Student.load(folder / student.NAME), DenseLayers.load(folder / fixed_point.NAME)
        if dense.student != known.hash:
            raise ValueError(
                f"{folder / fixed_point.NAME} is of student {dense.student}, {student.NAME} beside it is {known.hash}: "
                f"make both anew with `edgestem fpga build --student {folder} --out` and another folder"
            )
        return cls(folder, known, dense)

    def outputs(self, images: np.ndarray, electrons: float) -> tuple[np.ndarray, np.ndarray]:
        """Output words (n, 9) and status (n,) of frames that are expected to have so many electrons."""
        side = self.student.frontend.n_pixels
        if np.prod(images.shape[1:]) == side**2:  # pixels are counted, not rows
            images = images.reshape(len(images), side, side)
            shift = self.student.frontend.shift_for(electrons, self.student.brightest)
            return self.student.outputs(images, shift, self.dense)
        # As the Verilog has it: a result without words, whose status says that the frame ended early or late.
        words = np.zeros((len(images), len(self.student.layers[-1].bias)), np.int64)
        return words, np.full(len(images), 1 if np.prod(images.shape[1:]) < side**2 else 2)

    def test(self) -> str:
        """Run the golden frames: why the board must not be used; "" where all bits are right."""
        try:
            return GoldenFrames.load(self.folder / golden.NAME).complaint(self.student, self.dense)
        except ValueError as error:
            return str(error)


@dataclass(eq=False)
class Counts:
    """What went through the board since it was told to run."""

    frames_in: int = 0
    results_out: int = 0
    dropped: int = 0  #: numbers that never came, between those that did
    hits: int = 0  #: results for which the rule held
    unasked: int = 0  #: of these, those that the line to the coils did not take
    refused: int = 0  #: frames that could not be decoded, or were not those that their series announced
    latency: np.ndarray = field(default_factory=lambda: np.zeros(len(EDGES) - 1))  #: frames by time taken, see `EDGES`
    refusal: str = ""  #: why the latest was refused


class Board:
    """Takes the stream at `address` while it runs. Its attributes may be read by any thread.

    Parameters
    ----------
    model : Model
    address : str
        Of the stream, ``tcp://HOST:PORT``.
    protocol : {"v1", "v2"}

    Attributes
    ----------
    electrons : float
        That a frame is expected to have; bins are shifted for it.
    rule : Rule, optional
        For which results it asks the scan coils for positions; for none without one.
    ask : callable, optional
        The line to the coils: called with series, frame and `spacing` [nm] where the rule holds, gives whether it was
        taken.
    counts : Counts
    latest : numpy.ndarray
        Rows of the last results, at most `KEPT`; see `fpga.results.COLUMNS`.
    failure : str
        What ended it; "" while all is well.
    """

    def __init__(self, model: Model, address: str, protocol: str = "v1") -> None:
        Receiver.load(protocol)  # not at `start`, which clients wait for
        self.model, self.address, self._protocol = model, address, protocol
        self.electrons = 1e4
        self.rule: Rule | None = None
        self.spacing = 1.0
        self.ask: Ask | None = None
        self._images = np.empty((0, 0, 0), np.uint16)  # decoded, of the last batch
        self._clear()
        self._receiver: Receiver | None = None
        self._worker: threading.Thread | None = None

    def _clear(self) -> None:
        self.counts = Counts()
        self.latest = np.empty((0, len(results.COLUMNS)))
        self.failure = ""
        self._numbers: dict[int, tuple[int, int]] = {}  # of each series: frames that came, and one past the highest

    @property
    def running(self) -> bool:
        """Whether it takes the stream."""
        return self._receiver is not None

    def start(self) -> None:
        """Take the stream; counts and results begin anew."""
        self.stop()
        self._clear()
        receiver = self._receiver = Receiver(self.address, protocol=self._protocol, reduce=self._infer)
        self._worker = threading.Thread(target=self._follow, args=(receiver,), name="board", daemon=True)
        self._worker.start()

    @property
    def connected(self) -> bool:
        """Whether the detector has answered since it was started."""
        return self._receiver is not None and self._receiver.connected()

    def stop(self) -> None:
        """Leave the stream; results stay."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.close()
        if self._worker is not None:
            self._worker.join()
            self._worker = None

    def _infer(self, series: Series, frames: Frames) -> list[str]:
        """Results of frames; why each is refused, "" where it is not."""
        began = time.perf_counter()
        student, electrons, layout = self.model.student, self.electrons, frames.layouts[0]
        if (
            self._images.shape[1:] != layout.shape
            or self._images.dtype != layout.dtype
            or len(self._images) < len(frames)
        ):
            self._images = np.empty((len(frames), *layout.shape), layout.dtype)
        images = self._images[: len(frames)]
        reasons = []
        for k in range(len(frames)):
            try:
                chunk = frames.chunk(k)
                if chunk.column_major:
                    images[k] = decompress(chunk).T
                else:
                    decompress(chunk, images[k])
                reasons.append("")
            except ProtocolError as error:
                reasons.append(str(error))
        good = np.array([not reason for reason in reasons])
        words, status = self.model.outputs(images if good.all() else images[good], electrons)
        rule, numbers = self.rule, frames.numbers[good]
        if rule is not None and self.ask is not None:
            # First of all: the coils may be about to end the flight.
            for number in numbers[rule(words, status)].tolist():
                self.counts.hits += 1
                self.counts.unasked += not self.ask(series.number, number, self.spacing)
        rows = results.rows(series.number, numbers, electrons, student.described(words, status))
        taken = time.perf_counter() - began
        bin_ = int(np.clip(np.searchsorted(EDGES, taken, "right") - 1, 0, len(EDGES) - 2))
        counts = self.counts
        counts.latency[bin_] += len(rows)
        self.latest = np.concatenate([self.latest, rows])[-KEPT:]
        counts.results_out += len(rows)
        return reasons

    def _follow(self, receiver: Receiver) -> None:
        try:
            while self._receiver is receiver:
                for item in receiver.get(LOOK):
                    if isinstance(item, Frames):
                        self._count(item.series, item.numbers)
                    elif isinstance(item, Early):
                        self.counts.refused += len(item.frames)
                        self.counts.refusal = "frames came without the header of their series"
                    elif isinstance(item, Refusal):
                        self.counts.refused += 1
                        self.counts.refusal = item.reason
                        if item.series is not None and item.number is not None:
                            self._count(item.series, np.array([item.number]))
        except Exception as error:
            self.failure = str(error)

    def _count(self, series: int, numbers: np.ndarray) -> None:
        came, end = self._numbers.get(series, (0, 0))
        self._numbers[series] = came + len(numbers), max(end, int(numbers.max(initial=-1)) + 1)
        self.counts.frames_in += len(numbers)
        self.counts.dropped = sum(max(0, end - came) for came, end in self._numbers.values())
