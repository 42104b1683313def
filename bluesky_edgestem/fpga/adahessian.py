"""AdaHessian: steps scaled by the Hessian's diagonal, which random vectors estimate.

After Yao, Gholami, Shen, Mustafa, Keutzer and Mahoney, "ADAHESSIAN: an adaptive second order optimizer for machine
learning", AAAI 2021 (arXiv:2006.00719), without the averaging over neighbouring parameters. Hutchinson's estimator: for
a vector z of independent signs, the mean of z ⊙ Hz is the diagonal of H.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .reproducible import tf


def gradients_and_diagonal(
    value: Callable[[], tf.Tensor], variables: Sequence[tf.Variable]
) -> tuple[tf.Tensor, list[tf.Tensor], list[tf.Tensor]]:
    """The value, its gradient, and one draw of Hutchinson's estimate of the Hessian's diagonal.

    Where a quantiser passes gradients straight through, H is that of the network without it, at quantised weights.
    """
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            now = value()
        gradients = [tf.convert_to_tensor(g) for g in inner.gradient(now, variables)]
        signs = [tf.cast(2 * tf.random.uniform(tf.shape(g), 0, 2, tf.int32) - 1, g.dtype) for g in gradients]
        # The derivative of g·z is Hz: no Hessian is ever formed.
        along = tf.add_n([tf.reduce_sum(g * z) for g, z in zip(gradients, signs, strict=True)])
    # A parameter that the gradient is the same for, whatever its value, has no curvature.
    products = outer.gradient(along, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return now, gradients, [z * tf.convert_to_tensor(p) for z, p in zip(signs, products, strict=True)]


class AdaHessian:
    """Adam, with the Hessian's diagonal in the place of the gradient in the second moment.

    Parameters
    ----------
    rate : float or callable
        Learning rate, or a schedule of it by step.
    beta1, beta2 : float
        How much of their past the averages of gradient and squared diagonal keep at each step.
    epsilon : float
        Added to the root of the latter.
    limit : float
        Largest global norm of a gradient.
    """

    def __init__(
        self,
        rate: float | Callable[[Any], Any],
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        limit: float = float("inf"),
    ) -> None:
        self.rate: Callable[[Any], Any] = rate if callable(rate) else lambda step: rate
        self.beta1, self.beta2, self.epsilon, self.limit = beta1, beta2, epsilon, limit
        self._steps = tf.Variable(tf.constant(0, tf.int64), trainable=False)
        self._moments: list[tuple[tf.Variable, tf.Variable]] = []

    def build(self, variables: Sequence[tf.Variable]) -> None:
        """Make the averages, at zero, before the first step."""

        def zeros(like: tf.Variable) -> tf.Variable:
            return tf.Variable(tf.zeros_like(like), trainable=False)

        self._moments = [(zeros(v), zeros(v)) for v in variables]

    def step(self, value: Callable[[], tf.Tensor], variables: Sequence[tf.Variable]) -> tf.Tensor:
        """Change `variables` so that `value` falls, and keep their constraints; the value before."""
        now, gradients, diagonal = gradients_and_diagonal(value, variables)
        if self.limit < float("inf"):
            gradients, _ = tf.clip_by_global_norm(gradients, self.limit)
        rate = self.rate(self._steps)
        steps = tf.cast(self._steps.assign_add(1), tf.float32)
        for variable, g, d, (first, second) in zip(variables, gradients, diagonal, self._moments, strict=True):
            first.assign(self.beta1 * first + (1 - self.beta1) * g)
            second.assign(self.beta2 * second + (1 - self.beta2) * tf.square(d))
            size = tf.sqrt(second / (1 - self.beta2**steps)) + self.epsilon
            variable.assign_sub(rate * first / (1 - self.beta1**steps) / size)
            if getattr(variable, "constraint", None) is not None:
                variable.assign(variable.constraint(variable))
        return now
