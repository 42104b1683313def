"""Golden frames: what a build was verified with, to test a board against before it is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..analysis.weights_file import WeightsFile
from .fixed_point import DenseLayers
from .packed_arrays import pack, unpack
from .student import Student

NAME = "golden.frames"
FILE = WeightsFile(b"EDGESTEM-GOLDEN", 1, "board's golden frames", "build the board anew with `edgestem fpga build`")


@dataclass(frozen=True)
class GoldenFrames:
    """Frames, and what every form of one student gives for them."""

    student: str  #: its hash
    frames: np.ndarray  #: (n, n_pixels, n_pixels) unsigned
    words: np.ndarray  #: (n, 9) int64
    status: np.ndarray  #: (n,) int64

    def save(self, path: Path) -> None:
        """Write them under a checksum."""
        FILE.write(path, pack({"student": self.student}, {n: getattr(self, n) for n in ("frames", "words", "status")}))

    @classmethod
    def load(cls, path: Path) -> GoldenFrames:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file is missing, cut short or altered; the message names it.
        """
        facts, arrays = unpack(FILE.read(Path(path)))
        return cls(facts["student"], **arrays)

    def complaint(self, student: Student, dense: DenseLayers | None = None) -> str:
        """Why a board with this student must not be used; "" where it gives each word as it should.

        `dense` is what it has for the student's own dense layers.
        """
        if student.hash != self.student:
            return f"the golden frames are those of student {self.student}, loaded is {student.hash}"
        if dense is not None and dense.student != self.student:
            return f"the dense layers are those of student {dense.student}, loaded is {student.hash}"
        words, status = student.outputs(self.frames, dense=dense)
        wrong = (words != self.words).any(1) | (status != self.status)
        if not wrong.any():
            return ""
        first = int(np.flatnonzero(wrong)[0])
        return (
            f"{int(wrong.sum())} of {len(wrong)} golden frames gave other words than they should; the first is frame "
            f"{first}: {words[first].tolist()}, not {self.words[first].tolist()}"
        )
