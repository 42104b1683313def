"""The average of weights over steps is that of its definition."""

import numpy as np
import pytest
import torch

from bluesky_edgestem.analysis.averaging import AveragedWeights


@pytest.mark.parametrize(("span", "every", "decay"), [(500, 10, 0.98), (30, 1, 29 / 30), (1, 1, 0.0), (0, 1, 0.0)])
def test_the_average_is_exponential_over_the_span(span, every, decay):
    model = torch.nn.Linear(1, 1)
    average = AveragedWeights(model, span)
    values, expected = np.random.default_rng(0).normal(size=200), None
    for step, value in enumerate(values):
        with torch.no_grad():
            model.weight.fill_(float(value))
        average.note()
        if step % every == 0:
            expected = value if expected is None else decay * expected + (1 - decay) * value
    assert float(average.model.weight.detach()) == pytest.approx(expected, rel=1e-4, abs=1e-6)
