"""Inputs of each neuron and bits of its weights, searched on a network of random numbers."""

import numpy as np
import pytest

from bluesky_edgestem.fpga import precision, rounding
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
    _, front = precision.search(layers, loss, 1e9, prune=False)
    assert len(front) > 10
    assert [point["luts"] for point in front] == sorted({point["luts"] for point in front})
    losses = np.array([point["loss"] for point in front])
    assert losses[0] > 30 * losses[-1]
    assert (losses[1:] < 1.3 * losses[:-1]).all()  # predicted neuron by neuron, tried with all: not quite monotone
    budget = front[len(front) // 2]["luts"] + 0.5
    choices, _ = precision.search(layers, loss, budget, prune=False)
    assert [set(choice.inputs.tolist()) for choice in choices] == [{12}, {20}]
    took = sum(precision.luts(12, n, 1) for n in choices[0].bits.tolist()) + sum(
        precision.luts(20, n, 2) for n in choices[1].bits.tolist()
    )
    assert front[len(front) // 2 - 1]["luts"] < took <= budget


def test_bits_go_where_they_count(layers, loss):
    _, front = precision.search(layers, loss, 1e9, prune=False)
    (first, last), _ = precision.search(layers, loss, front[len(front) // 2]["luts"] + 0.5, prune=False)
    assert last.bits[0] > last.bits[1:].max()
    assert first.bits[5] == precision.BITS[0]
    # The same LUTs, the same bits for all: more is lost.
    uniform = [precision.Choice(np.full(n, 6), np.full(n, inputs)) for inputs, n in ((12, 20), (20, 3))]
    cost = sum(precision.luts(12, 6, 1) for _ in range(20)) + sum(precision.luts(20, 6, 2) for _ in range(3))
    chosen, _ = precision.search(layers, loss, cost, prune=False)
    assert precision._loss(layers, chosen, loss) < 0.6 * precision._loss(layers, uniform, loss)


def test_inputs_go_by_sixes_where_they_are_not_worth_their_tables(layers, loss):
    (first, last), front = precision.search(layers, loss, 700)
    assert first.inputs[5] == 0  # nothing listens to it
    assert set(first.inputs.tolist()) <= {0, 6, 12} and set(last.inputs.tolist()) <= {0, 6, 12, 18, 20}
    assert last.inputs[0] > last.inputs[1:].max()  # the output that counts a hundred times as much
    took = sum(layer.luts(choice).sum() for layer, choice in zip(layers, (first, last), strict=True))
    assert took == pytest.approx(
        sum(
            precision.luts(inputs, bits, together)
            for choice, together in ((first, 1), (last, 2))
            for inputs, bits in zip(choice.inputs.tolist(), choice.bits.tolist(), strict=True)
        )
    )
    assert took <= 700
    # What bits alone reach with the fewest LUTs, pruning betters with as many.
    _, bits_alone = precision.search(layers, loss, 1e9, prune=False)
    as_many = max((point for point in front if point["luts"] <= bits_alone[0]["luts"]), key=lambda point: point["luts"])
    assert as_many["loss"] < 0.3 * bits_alone[0]["loss"]


def test_inputs_that_were_pruned_before_take_no_luts(layers):
    weights = layers[0].weights.copy()
    weights[:6, 3] = 0.0
    fewer = precision.Dense(weights, layers[0].bias, layers[0].reads, 1, 6)
    all_inputs = precision.Choice(np.full(20, 5), np.full(20, 12))
    took = fewer.luts(all_inputs)
    assert took[3] == precision.luts(6, 5, 1) < took[4] == precision.luts(12, 5, 1)
    assert precision.luts(0, 5, 1) == 0
    rounded, _ = fewer.rounded(all_inputs)
    assert (rounded[:6, 3] == 0).all() and (rounded[6:, 3] != 0).any()


def test_what_stays_makes_up_for_what_is_pruned():
    """By least squares over inputs: no other weights of the same inputs add up to nearly the same."""
    rng = np.random.default_rng(3)
    reads = rng.normal(0, 1, (4000, 5)) @ rng.normal(0, 1, (5, 8)) + rng.normal(0, 0.1, (4000, 8))
    weights = rng.normal(0, 1, (8, 4))
    all_numbers = rounding.pruned(weights, np.cov(reads.T))
    assert np.array_equal(all_numbers[8], weights) and not all_numbers[0].any()
    centred = reads - reads.mean(0)
    for k in range(1, 8):
        assert ((all_numbers[k] != 0).sum(0) == k).all()
        for j in range(4):
            kept = np.flatnonzero(all_numbers[k][:, j])
            assert set(kept) <= set(np.flatnonzero(all_numbers[k + 1][:, j]))
            best, *_ = np.linalg.lstsq(centred[:, kept], centred @ weights[:, j], rcond=None)
            # 1e-4 of the mean variance is added to every input's.
            np.testing.assert_allclose(all_numbers[k][kept, j], best, atol=0.03)


def test_one_input_is_a_layer_too():
    reads = np.linspace(0, 1, 50)[:, None]
    layer = precision.Dense(np.array([[0.7, -0.3]]), np.zeros(2), reads, 1, None)
    rounded, _ = layer.rounded(precision.Choice(np.full(2, 6), np.array([1, 0])))
    assert abs(rounded[0, 0] - 0.7) < 0.03 and rounded[0, 1] == 0
    constant = precision.Dense(np.ones((3, 2)), np.zeros(2), np.ones((50, 3)), 1, None)
    assert np.isfinite(constant.pruned).all()


def test_what_no_bits_give_is_refused(layers, loss):
    with pytest.raises(ValueError, match=r"the layers take 833 LUTs at least, 800 are allowed"):
        precision.search(layers, loss, 800, prune=False)


def test_a_budget_for_six_inputs_and_the_fewest_bits_is_kept_and_a_smaller_one_refused(layers, loss):
    fewest = int(np.ceil(20 * precision.luts(6, 4, 1) + 9 * precision.luts(6, 4, 2)))
    precision.check_budget(Widths(filters=12, hidden=(20,), luts=fewest))
    with pytest.raises(ValueError, match=f"{fewest - 1} are allowed: allow more, or take fewer neurons"):
        precision.check_budget(Widths(filters=12, hidden=(20,), luts=fewest - 1))
    choices, _ = precision.search(layers, loss, fewest)
    assert sum(layer.luts(choice).sum() for layer, choice in zip(layers, choices, strict=True)) <= fewest


def test_what_errors_gain_by_chance_is_no_merit_of_bits_or_inputs(layers, loss):
    """A loss that goes with the error itself, whichever way it is, tells nothing of how many bits it takes."""
    some = np.random.default_rng(1).normal(0, 30, (1500, 3))
    (_, one), _ = precision.search(layers, loss, 1e9)
    (_, other), _ = precision.search(layers, lambda outputs: loss(outputs) + float((outputs * some).mean()), 1e9)
    # Of the last layer, behind which nothing is rounded or limited.
    assert np.array_equal(one.bits, other.bits) and np.array_equal(one.inputs, other.inputs)
