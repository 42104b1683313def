"""AdaHessian against what can be computed exactly."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from bluesky_edgestem.fpga.adahessian import AdaHessian, gradients_and_diagonal


def test_the_estimates_mean_is_the_hessians_diagonal():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Dense(3, "tanh", input_shape=(2,)), keras.layers.Dense(1)])
    x, y = tf.random.normal((20, 2)), tf.random.normal((20, 1))
    variables = model.trainable_variables

    def value():
        return tf.reduce_mean(tf.square(model(x) - y))

    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as inner:
            now = value()
        flat = tf.concat([tf.reshape(g, [-1]) for g in inner.gradient(now, variables)], 0)
        parts = [flat[i] for i in range(flat.shape[0])]
    rows = [outer.gradient(part, variables, unconnected_gradients="zero") for part in parts]
    hessian = np.array([np.concatenate([r.numpy().ravel() for r in row]) for row in rows])
    draws = 2000
    one = tf.function(lambda: tf.concat([tf.reshape(d, [-1]) for d in gradients_and_diagonal(value, variables)[2]], 0))
    estimates = np.array([one().numpy() for _ in range(draws)])
    # Of z ⊙ Hz, element i has the variance of row i's squares but for the diagonal's.
    sd = np.sqrt((np.square(hessian).sum(1) - np.square(np.diag(hessian))) / draws)
    assert np.all(np.abs(estimates.mean(0) - np.diag(hessian)) < 5 * sd + 1e-6)
    assert estimates.std(0) == pytest.approx(sd * np.sqrt(draws), rel=0.15)


def test_an_ill_conditioned_quadratic_takes_fewer_steps_than_with_adam():
    curvature = tf.constant(10.0 ** np.linspace(-2, 2, 9), tf.float32)

    def steps(rate: float, second_order: bool) -> int:
        x = tf.Variable(tf.constant([3.0, -0.1, 1.0, 0.3, -2.0, 0.5, -0.2, 1.5, -1.0]))
        adahessian, adam = AdaHessian(rate), keras.optimizers.legacy.Adam(rate)
        adahessian.build([x])

        def value():
            return 0.5 * tf.reduce_sum(curvature * x * x)

        @tf.function
        def step():
            if second_order:
                return adahessian.step(value, [x])
            with tf.GradientTape() as tape:
                now = value()
            adam.apply_gradients([(tape.gradient(now, x), x)])
            return now

        for n in range(1000):
            if float(step()) < 1e-8:
                return n
        return 1000

    rates = (0.01, 0.03, 0.1, 0.3, 1.0)
    assert min(steps(rate, True) for rate in rates) < min(steps(rate, False) for rate in rates) < 1000


def test_the_first_step_goes_to_the_minimum_of_a_parabola():
    x = tf.Variable([3.0, -2.0])
    optimiser = AdaHessian(1.0)
    optimiser.build([x])
    optimiser.step(lambda: 5 * x[0] ** 2 + 0.1 * (x[1] - 1) ** 2, [x])
    assert x.numpy() == pytest.approx([0.0, 1.0], abs=1e-4)


def test_constraints_hold_after_a_step():
    layer = keras.layers.Dense(2, kernel_constraint=keras.constraints.NonNeg(), use_bias=False)
    layer.build((None, 2))
    layer.set_weights([np.ones((2, 2), np.float32)])
    optimiser = AdaHessian(1.0)
    optimiser.build(layer.trainable_variables)
    optimiser.step(lambda: tf.reduce_sum(tf.square(layer(tf.eye(2)) + 1)), layer.trainable_variables)
    assert layer.kernel.numpy().min() >= 0
