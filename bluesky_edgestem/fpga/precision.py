"""How many bits the weights of each neuron have: those with the least loss within a number of LUTs.

Each neuron is tried with weights of each number of bits, all others as they were trained; what that adds to the loss,
and LUTs times a price, are least for each neuron by itself. A higher price gives fewer LUTs and a larger loss: prices
from low to high are the front, of which the largest that fits is taken. (Shoham and Gersho, "Efficient bit allocation
for an arbitrary set of quantizers", IEEE Trans. ASSP 36, 1445 (1988).)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from . import rounding
from .distributed import luts
from .logic import together
from .student import OUTPUTS
from .widths import Widths

BITS = np.arange(4, 10)  #: that are tried, with the sign
PRICES = np.geomspace(1e-7, 1e3, 201)  #: that are tried, loss per LUT: at the highest all have the fewest bits


@dataclass(frozen=True)
class Dense:
    """A layer of the network that is searched, with what it reads."""

    weights: np.ndarray  #: (inputs, neurons)
    bias: np.ndarray  #: (neurons,)
    reads: np.ndarray  #: (n, inputs), of patterns
    leaving_bits: int | None  #: behind the point, of what leaves between 0 and 1; None for the last layer

    def leaves(self, sums: np.ndarray) -> np.ndarray:
        """What the next layer reads, of sums (n, ...)."""
        if self.leaving_bits is None:
            return sums
        steps = 2.0**self.leaving_bits
        return np.clip(np.rint(sums * steps), 0, steps - 1) / steps

    def rounded(self, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights and biases, of `bits` (neurons,) each."""
        new = rounding.dense(self.weights, self.reads, bits)
        # What each neuron adds up to stays as it was on average.
        return new, self.bias + self.reads.mean(0) @ (self.weights - new)


def check_budget(widths: Widths) -> None:
    """Raise ValueError where dense layers take more LUTs than they may with the fewest bits that are tried."""
    sizes = [widths.filters, *widths.hidden, len(OUTPUTS)]
    fewest = sum(n * luts(inputs, int(BITS[0]), together(i)) for i, (inputs, n) in enumerate(pairwise(sizes)))
    if fewest > widths.luts:
        raise ValueError(
            f"the dense layers take {fewest:.0f} LUTs even with {BITS[0]} bits a weight, {widths.luts} are allowed: "
            "allow more, or take fewer neurons"
        )


def network(layers: list[tuple[np.ndarray, np.ndarray]], features: np.ndarray, widths: Widths) -> list[Dense]:
    """Dense layers of weights and biases, with what they read of features (n, filters)."""
    out, reads = [], features
    for i, (weights, bias) in enumerate(layers):
        layer = Dense(weights, bias, reads, widths.activation_bits[i] if i < len(widths.hidden) else None)
        out.append(layer)
        reads = layer.leaves(reads @ weights + bias)
    return out


def search(
    layers: list[Dense], loss: Callable[[np.ndarray], float], budget: float
) -> tuple[list[np.ndarray], list[dict[str, float]]]:
    """Bits of each neuron's weights, (neurons,) int for each layer, and the front.

    Parameters
    ----------
    layers : list of Dense
        From `network`.
    loss : function
        Of outputs (n, outputs).
    budget : float
        LUTs that all layers may take, as many as `check_budget` asks for.

    Returns
    -------
    list of array
    list of dict
        ``luts`` and ``loss``, from few LUTs to many: what was tried with whole networks.
    """
    exact = loss(layers[-1].reads @ layers[-1].weights + layers[-1].bias)
    added = [_added(layers, i, loss) - exact for i in range(len(layers))]
    cells = [
        np.array([[luts(len(layer.weights), bits, together(i))] for bits in BITS.tolist()])
        for i, layer in enumerate(layers)
    ]
    chosen: dict[float, list[np.ndarray]] = {}
    for price in PRICES:
        bits = [BITS[np.argmin(more + price * each, 0)] for more, each in zip(added, cells, strict=True)]
        total = sum(float(each[of_layer - BITS[0], 0].sum()) for each, of_layer in zip(cells, bits, strict=True))
        chosen.setdefault(total, bits)
    front = [
        {"luts": round(total), "loss": float(f"{_loss(layers, chosen[total], loss):.4g}")} for total in sorted(chosen)
    ]
    return chosen[max(total for total in chosen if total <= budget)], front


def _added(layers: list[Dense], i: int, loss: Callable[[np.ndarray], float]) -> np.ndarray:
    """Loss with one neuron of layer i at a time rounded, (bits, neurons)."""
    layer = layers[i]
    exact = layer.reads @ layer.weights + layer.bias
    out = np.empty((len(BITS), len(layer.bias)))
    for k, bits in enumerate(BITS.tolist()):
        new, bias = layer.rounded(np.full(len(layer.bias), bits))
        rounded = layer.reads @ new + bias
        for j in range(len(layer.bias)):
            # Errors and their opposites: what one sign gains by chance on these patterns is none of the bits' merit.
            there, back = rounded[:, j], 2 * exact[:, j] - rounded[:, j]
            out[k, j] = (loss(_outputs(layers, i, j, exact, there)) + loss(_outputs(layers, i, j, exact, back))) / 2
    return out


def _outputs(layers: list[Dense], i: int, j: int, exact: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Outputs where the sums (n,) of neuron j of layer i are others than its layer's (n, neurons)."""
    if i == len(layers) - 1:
        sums = exact.copy()
        sums[:, j] = changed
        return sums
    behind, *rest = layers[i + 1 :]
    more = layers[i].leaves(changed) - behind.reads[:, j]
    values = behind.leaves(behind.reads @ behind.weights + behind.bias + more[:, None] * behind.weights[j])
    for layer in rest:
        values = layer.leaves(values @ layer.weights + layer.bias)
    return values


def _loss(layers: list[Dense], bits: list[np.ndarray], loss: Callable[[np.ndarray], float]) -> float:
    values = layers[0].reads
    for layer, each in zip(layers, bits, strict=True):
        new, bias = layer.rounded(each)
        values = layer.leaves(values @ new + bias)
    return loss(values)
