"""The dense layers in alkaid: another reading of the same whole numbers, and what a simulated board computes with.

alkaid traces each layer into adders of fixed-point numbers whose widths it finds by itself, and interprets those.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..analysis.weights_file import WeightsFile
from .packed_arrays import pack, unpack
from .student import OUTPUTS, Layer, Student

if TYPE_CHECKING:
    from alkaid.types import CombLogic

NAME = "dense.alkaid"
#: Of the file in the folder of a build.
FILE = WeightsFile(
    b"EDGESTEM-ALKAID", 1, "board's dense layers", "`edgestem fpga build --student` makes it, without training"
)


def combinational(layer: Layer, low: np.ndarray, high: np.ndarray, fraction: int) -> CombLogic:
    """A dense layer, from inputs between `low` and `high` (n,) whole numbers in units of 2^-fraction."""
    from alkaid.trace import FVArray, trace

    step = np.full(len(low), 2.0**-fraction)
    x = FVArray.from_lhs(low * step, high * step, step)
    half = 1 << layer.dropped(fraction)
    sums = x @ (layer.weights / 2.0**layer.weight_fraction)
    sums = sums + (layer.bias + half) / 2.0 ** (fraction + layer.weight_fraction + 1)
    # With half a unit added, what is behind the point is dropped. alkaid's own rounding (RND_CONV) errs where a single
    # bit is dropped, and does not round constants, as of a neuron all of whose weights are zero.
    shape, k = np.ones(sums.shape, int), int(layer.signed)
    words = sums.quantize(
        shape * k, shape * (layer.bits - layer.fraction - k), shape * layer.fraction,
        overflow_mode="SAT", round_mode="TRN",
    )  # fmt: skip
    return trace(x, words, keep_dead_inputs=True)


@dataclass(frozen=True)
class DenseLayers:
    """A student's dense layers as alkaid's interpreter takes them: of features, the words."""

    student: str  #: its hash
    programs: tuple[bytes, ...]  #: of each layer, from what leaves the one before
    fraction: int  #: bits of features behind the point
    leaving: int  #: and of words

    @classmethod
    def of(cls, student: Student) -> DenseLayers:
        """Trace them, which takes seconds."""
        most = 2**student.quotient_bits
        size = student.filters.shape[1]
        low, high, fraction = np.full(size, -most), np.full(size, most - 1), student.quotient_bits
        programs = []
        for layer in student.layers:
            programs.append(bytes(combinational(layer, low, high, fraction).to_bytecode()))
            fraction, size = layer.fraction, layer.weights.shape[1]
            low, high = np.zeros(size), np.full(size, 2**layer.bits - 1)
        return cls(student.hash, tuple(programs), student.quotient_bits, fraction)

    def __call__(self, features: np.ndarray, threads: int = 1) -> np.ndarray:
        """Words (n, 9) int64 of features (n, filters) int64."""
        from alkaid._binary import alir_interp_run

        if not len(features):
            return np.zeros((0, len(OUTPUTS)), np.int64)
        values = np.asarray(features, float) / 2.0**self.fraction
        # Not by `CombLogic.predict`, which makes its program anew in each call: that takes thirty times as long.
        for program in self.programs:
            values = alir_interp_run(program, values, threads).reshape(len(features), -1)
        return np.rint(values * 2.0**self.leaving).astype(np.int64)

    def save(self, path: Path) -> None:
        """Write them under a checksum."""
        facts = {"student": self.student, "fraction": self.fraction, "leaving": self.leaving}
        FILE.write(path, pack(facts, {str(i): np.frombuffer(p, np.uint8) for i, p in enumerate(self.programs)}))

    @classmethod
    def load(cls, path: Path) -> DenseLayers:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If alkaid, which reads it, cannot be used here; or the file is missing, cut short or altered.
        """
        try:
            import alkaid._binary  # noqa: F401
        except (ImportError, OSError) as error:
            raise ValueError(
                f"the simulated board computes with alkaid, which cannot be used here ({error}): install it with "
                "`pip install 'bluesky-edgestem[fpga]'`"
            ) from None
        facts, arrays = unpack(FILE.read(Path(path)))
        return cls(programs=tuple(array.tobytes() for array in arrays.values()), **facts)
