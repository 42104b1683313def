"""The dense layers in alkaid: another reading of the same whole numbers, and the fastest one on a CPU.

alkaid traces each layer into adders of fixed-point numbers whose widths it finds by itself, and interprets those.
"""

from __future__ import annotations

import numpy as np
from alkaid.trace import FVArray, trace
from alkaid.types import CombLogic

from .student import Layer, Student


def combinational(layer: Layer, low: np.ndarray, high: np.ndarray, fraction: int) -> CombLogic:
    """A dense layer, from inputs between `low` and `high` (n,) whole numbers in units of 2^-fraction."""
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


def dense_layers(student: Student) -> list[CombLogic]:
    """The dense layers, each from what leaves the one before."""
    most = 2**student.quotient_bits
    size = student.filters.shape[1]
    low, high, fraction = np.full(size, -most), np.full(size, most - 1), student.quotient_bits
    layers = []
    for layer in student.layers:
        layers.append(combinational(layer, low, high, fraction))
        fraction, size = layer.fraction, layer.weights.shape[1]
        low, high = np.zeros(size), np.full(size, 2**layer.bits - 1)
    return layers


def tail(layers: list[CombLogic], student: Student, features: np.ndarray, threads: int = 1) -> np.ndarray:
    """Output words (n, 9) int64 of features (n, filters) int64, by alkaid's interpreter."""
    values = np.asarray(features, float) / 2.0**student.quotient_bits
    for logic in layers:
        values = logic.predict(np.ascontiguousarray(values), n_threads=threads)
    return np.rint(values * 2.0 ** student.layers[-1].fraction).astype(np.int64)
