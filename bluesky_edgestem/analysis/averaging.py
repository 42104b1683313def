"""Stochastic averaging in training: of weights over steps, and of gradients over noise that is drawn twice.

Weights are averaged exponentially over about the last steps, after Izmailov et al., "Averaging weights leads to
wider optima and better generalization", UAI 2018 (arXiv:1803.05407). Noise that is drawn twice for each pattern of a
step, of half as many patterns, averages it out of the gradient at the same cost.
"""

from __future__ import annotations

from typing import Generic, TypeVar, cast

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

#: What may be averaged.
WAYS = ("none", "weights", "noise", "both")
#: The average takes note so many times in the steps that it spans.
_NOTES = 50

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
    """The average over steps of the weights of a model while it is trained.

    Parameters
    ----------
    model : torch.nn.Module
    span : int
        Steps that the average is over, about: few beside those of the training, for what came before them is part of
        it, too, less with each step.
    """

    def __init__(self, model: M, span: int) -> None:
        self._model = model
        self._every = max(1, span // _NOTES)
        self._average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - self._every / max(1, span)))
        self._steps = 0

    def note(self) -> None:
        """To be called after each step, the first included."""
        if self._steps % self._every == 0:
            self._average.update_parameters(self._model)
        self._steps += 1

    @property
    def model(self) -> M:
        """A model of the averaged weights."""
        return cast(M, self._average.module)
