"""Which inputs each neuron reads, and of how many bits its weights are: the least loss within a number of LUTs.

Each neuron is tried with weights of each number of bits and with fewer and fewer inputs, all others as they were
trained; what that adds to the loss, and LUTs times a price, are least for each neuron by itself. A higher price gives
fewer LUTs and a larger loss: prices from low to high are the front, of which the largest that fits is taken. (Shoham
and Gersho, "Efficient bit allocation for an arbitrary set of quantizers", IEEE Trans. ASSP 36, 1445 (1988).)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from . import rounding
from .distributed import TABLE, luts
from .logic import together
from .student import OUTPUTS
from .widths import Widths

BITS = np.arange(4, 10)  #: that are tried, with the sign
PRICES = np.geomspace(1e-7, 1e3, 201)  #: that are tried, loss per LUT, and last the cheapest of all, whatever it loses


@dataclass(frozen=True)
class Choice:
    """What is chosen for each neuron of a layer."""

    bits: np.ndarray  #: of its weights, with the sign, (neurons,) int
    inputs: np.ndarray  #: that it reads, (neurons,) int


@dataclass(frozen=True)
class Dense:
    """A layer of the network that is searched, with what it reads."""

    weights: np.ndarray  #: (inputs, neurons)
    bias: np.ndarray  #: (neurons,)
    reads: np.ndarray  #: (n, inputs), of patterns
    together: int  #: digits that it reads in a clock
    leaving_bits: int | None  #: behind the point, of what leaves between 0 and 1; None for the last layer

    def leaves(self, sums: np.ndarray) -> np.ndarray:
        """What the next layer reads, of sums (n, ...)."""
        if self.leaving_bits is None:
            return sums
        steps = 2.0**self.leaving_bits
        return np.clip(np.rint(sums * steps), 0, steps - 1) / steps

    @cached_property
    def pruned(self) -> np.ndarray:
        """Weights with fewer and fewer inputs, (inputs + 1, inputs, neurons)."""
        return rounding.pruned(self.weights, rounding.covariance_of(self.reads))

    def with_inputs(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights and biases, with `inputs` (neurons,) of each."""
        if (inputs >= len(self.weights)).all():
            return self.weights, self.bias
        return self._steady(self.pruned[inputs, :, np.arange(len(inputs))].T)

    def rounded(self, choice: Choice) -> tuple[np.ndarray, np.ndarray]:
        """Weights and biases, as chosen."""
        return self._steady(rounding.dense(self.with_inputs(choice.inputs)[0], self.reads, choice.bits))

    def luts(self, choice: Choice) -> np.ndarray:
        """LUTs that each neuron takes, (neurons,)."""
        used = np.minimum(choice.inputs, (self.weights != 0).sum(0))
        each = zip(used.tolist(), choice.bits.tolist(), strict=True)
        return np.array([luts(inputs, bits, self.together) for inputs, bits in each])

    def _steady(self, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # What each neuron adds up to stays as it was on average.
        return new, self.bias + self.reads.mean(0) @ (self.weights - new)


def check_budget(widths: Widths) -> None:
    """Raise ValueError where neurons that read six inputs, with the fewest bits, take more LUTs than there may be."""
    sizes = [widths.filters, *widths.hidden, len(OUTPUTS)]
    fewest = sum(
        n * luts(min(inputs, TABLE), int(BITS[0]), together(i)) for i, (inputs, n) in enumerate(pairwise(sizes))
    )
    if fewest > widths.luts:
        raise ValueError(
            f"the dense layers take {fewest:.0f} LUTs even with {TABLE} inputs a neuron and {BITS[0]} bits a weight, "
            f"{widths.luts} are allowed: allow more, or take fewer neurons"
        )


def network(layers: list[tuple[np.ndarray, np.ndarray]], features: np.ndarray, widths: Widths) -> list[Dense]:
    """Dense layers of weights and biases, with what they read of features (n, filters)."""
    out, reads = [], features
    for i, (weights, bias) in enumerate(layers):
        leaving = widths.activation_bits[i] if i < len(widths.hidden) else None
        layer = Dense(weights, bias, reads, together(i), leaving)
        out.append(layer)
        reads = layer.leaves(reads @ weights + bias)
    return out


def search(
    layers: list[Dense], loss: Callable[[np.ndarray], float], budget: float, prune: bool = True
) -> tuple[list[Choice], list[dict[str, float]]]:
    """The best choice for each layer, and the front.

    Parameters
    ----------
    layers : list of Dense
        From `network`.
    loss : function
        Of outputs (n, outputs).
    budget : float
        LUTs that all layers may take: as many as `check_budget` asks for if neurons may lose inputs.
    prune : bool
        Whether neurons may lose inputs, by sixes, which share a table; bits alone are searched otherwise.

    Returns
    -------
    list of Choice
    list of dict
        ``luts`` and ``loss``, from few LUTs to many: what was tried with whole networks.

    Raises
    ------
    ValueError
        Nothing that was tried is within the budget.
    """
    exact = loss(layers[-1].reads @ layers[-1].weights + layers[-1].bias)
    options = [_options(layer, prune) for layer in layers]
    added = [np.array([_added(layers, i, choice, loss) for choice in options[i]]) - exact for i in range(len(layers))]
    cells = [np.array([layer.luts(choice) for choice in of]) for layer, of in zip(layers, options, strict=True)]
    chosen: dict[float, list[Choice]] = {}
    cheapest = [np.argmin(each, 0) for each in cells]
    priced = ([np.argmin(more + p * each, 0) for more, each in zip(added, cells, strict=True)] for p in PRICES)
    for which in (*priced, cheapest):
        total = sum(float(each[of, np.arange(len(of))].sum()) for each, of in zip(cells, which, strict=True))
        if total not in chosen:
            chosen[total] = [_picked(of, each) for of, each in zip(options, which, strict=True)]
    front = [
        {"luts": round(total), "loss": float(f"{_loss(layers, chosen[total], loss):.4g}")} for total in sorted(chosen)
    ]
    if (least := min(chosen)) > budget:
        raise ValueError(f"the layers take {least:.0f} LUTs at least, {budget:.0f} are allowed")
    return chosen[max(total for total in chosen if total <= budget)], front


def _options(layer: Dense, prune: bool) -> list[Choice]:
    """What is tried, the same for all neurons of a layer."""
    n_inputs, n = layer.weights.shape
    fewer = list(range(0, n_inputs, TABLE)) if prune else []
    return [Choice(np.full(n, bits), np.full(n, inputs)) for inputs in [*fewer, n_inputs] for bits in BITS.tolist()]


def _picked(options: list[Choice], which: np.ndarray) -> Choice:
    """Of each neuron the option of that number."""
    each = np.arange(len(which))
    return Choice(*(np.array([getattr(o, name) for o in options])[which, each] for name in ("bits", "inputs")))


def _added(layers: list[Dense], i: int, choice: Choice, loss: Callable[[np.ndarray], float]) -> np.ndarray:
    """Loss with one neuron of layer i at a time as chosen, (neurons,)."""
    layer = layers[i]
    exact = layer.reads @ layer.weights + layer.bias
    new, bias = layer.rounded(choice)
    rounded = layer.reads @ new + bias
    out = np.empty(len(bias))
    for j in range(len(out)):
        # Errors and their opposites: what one sign gains by chance on these patterns is no merit of the choice.
        there, back = rounded[:, j], 2 * exact[:, j] - rounded[:, j]
        out[j] = (loss(_outputs(layers, i, j, exact, there)) + loss(_outputs(layers, i, j, exact, back))) / 2
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


def _loss(layers: list[Dense], choices: list[Choice], loss: Callable[[np.ndarray], float]) -> float:
    values = layers[0].reads
    for layer, choice in zip(layers, choices, strict=True):
        new, bias = layer.rounded(choice)
        values = layer.leaves(values @ new + bias)
    return loss(values)
