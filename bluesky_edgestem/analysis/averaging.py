"""Stochastic averaging in training: of weights over steps, and of gradients over noise that is drawn twice.

Weights are averaged exponentially over about the last `SPAN` steps, after Izmailov et al., "Averaging weights leads to
wider optima and better generalization", UAI 2018 (arXiv:1803.05407). Noise that is drawn twice for each pattern of a
step, of half as many patterns, averages it out of the gradient at the same cost.
"""

from __future__ import annotations

from typing import Generic, TypeVar, cast

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

#: What may be averaged.
WAYS = ("none", "weights", "noise", "both")
#: Steps over which weights are averaged, about, and from one to the next of which the average takes note.
SPAN, EVERY = 500, 10

M = TypeVar("M", bound=nn.Module)


def check(way: str) -> None:
    """Raise ValueError unless `way` is one of `WAYS`."""
    if way not in WAYS:
        raise ValueError(f"averaging is one of {', '.join(WAYS)}, got {way!r}")


def of_weights(way: str) -> bool:
    """Whether the averaged weights are what a training gives."""
    return way in ("weights", "both")


def of_noise(way: str) -> bool:
    """Whether each pattern's noise is drawn twice in a step."""
    return way in ("noise", "both")


class AveragedWeights(Generic[M]):
    """The average over steps of the weights of a model while it is trained."""

    def __init__(self, model: M) -> None:
        self._model = model
        self._average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - EVERY / SPAN))
        self._steps = 0

    def note(self) -> None:
        """To be called after each step, the first included."""
        if self._steps % EVERY == 0:
            self._average.update_parameters(self._model)
        self._steps += 1

    @property
    def model(self) -> M:
        """A model of the averaged weights."""
        return cast(M, self._average.module)
