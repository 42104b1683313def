"""Bits of each neuron's weights, searched on a network of random numbers."""

import numpy as np
import pytest

from bluesky_edgestem.fpga import precision
from bluesky_edgestem.fpga.widths import Widths


@pytest.fixture(scope="module")
def layers():
    rng = np.random.default_rng(0)
    features = np.clip(rng.normal(0, 0.3, (1500, 12)), -1, 1)
    made = []
    for shape in ((12, 20), (20, 3)):
        made.append((rng.normal(0, 0.5, shape), rng.normal(0, 0.1, shape[1])))
    made[1][0][5] = 0.0  # a neuron that nothing listens to
    return precision.network(made, features, Widths(filters=12, hidden=(20,), activation_bits=(6,)))


@pytest.fixture(scope="module")
def loss(layers):
    exact = layers[-1].reads @ layers[-1].weights + layers[-1].bias
    # The first output counts a hundred times as much as the others.
    return lambda outputs: float((np.square(outputs - exact) * [100.0, 1.0, 1.0]).mean())


def test_more_luts_lose_less_and_none_are_exceeded(layers, loss):
    _, front = precision.search(layers, loss, 1e9)
    assert len(front) > 10
    assert [point["luts"] for point in front] == sorted({point["luts"] for point in front})
    losses = np.array([point["loss"] for point in front])
    assert losses[0] > 30 * losses[-1]
    assert (losses[1:] < 1.3 * losses[:-1]).all()  # predicted neuron by neuron, tried with all: not quite monotone
    budget = front[len(front) // 2]["luts"] + 0.5
    bits, _ = precision.search(layers, loss, budget)
    took = sum(precision.luts(12, n, 1) for n in bits[0].tolist()) + sum(
        precision.luts(20, n, 2) for n in bits[1].tolist()
    )
    assert front[len(front) // 2 - 1]["luts"] < took <= budget


def test_bits_go_where_they_count(layers, loss):
    _, front = precision.search(layers, loss, 1e9)
    bits, _ = precision.search(layers, loss, front[len(front) // 2]["luts"] + 0.5)
    assert bits[1][0] > bits[1][1:].max()
    assert bits[0][5] == precision.BITS[0]
    # The same LUTs, the same bits for all: more is lost.
    uniform = [np.full(len(layer.bias), 6) for layer in layers]
    cost = sum(precision.luts(12, 6, 1) for _ in range(20)) + sum(precision.luts(20, 6, 2) for _ in range(3))
    chosen, _ = precision.search(layers, loss, cost)
    assert precision._loss(layers, chosen, loss) < 0.6 * precision._loss(layers, uniform, loss)


def test_a_budget_for_the_fewest_bits_only_is_kept_and_a_smaller_one_refused(layers, loss):
    fewest = int(np.ceil(20 * precision.luts(12, 4, 1) + 9 * precision.luts(20, 4, 2)))
    precision.check_budget(Widths(filters=12, hidden=(20,), luts=fewest))
    with pytest.raises(ValueError, match=f"{fewest - 1} are allowed: allow more, or take fewer neurons"):
        precision.check_budget(Widths(filters=12, hidden=(20,), luts=fewest - 1))
    bits, _ = precision.search(layers, loss, 20 * precision.luts(12, 4, 1) + 3 * precision.luts(20, 4, 2))
    assert {int(n) for of_layer in bits for n in of_layer} == {4}


def test_what_errors_gain_by_chance_is_none_of_the_bits_merit(layers, loss):
    """A loss that goes with the error itself, whichever way it is, tells nothing of how many bits it takes."""
    some = np.random.default_rng(1).normal(0, 30, (1500, 3))
    bits, _ = precision.search(layers, loss, 1e9)
    other, _ = precision.search(layers, lambda outputs: loss(outputs) + float((outputs * some).mean()), 1e9)
    assert np.array_equal(bits[1], other[1])  # of the last layer, behind which nothing is rounded or limited
