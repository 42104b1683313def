"""The student in floating point: filters over the last of them, centred, and dense layers.

What it has learned about filters is taken over by the board's, which are rounded; see `quantised`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .bin_statistics import BinStatistics
from .frontend import CORE
from .reproducible import keras, tf
from .student import OUTPUTS
from .widths import Widths

BASIS = 400  #: sums of bins that filters are made of; further ones are less than their noise at 10⁶ electrons
STEADY = 0.1  #: size of the coefficients of filters whose features are of order one
#: Variance that rounding a filter to whole numbers up to one adds to its feature, over the sum of the weights' squares;
#: found with three bits, and rounded together.
ROUGH = 1.35e-7
FILLED = 0.6  #: of the limit of features in floating point, what all but one of a thousand stay within


class Filters(keras.layers.Layer):
    """Sums of bins, of which the last is the normaliser's; weights are those of a basis in which bins do not covary.

    Bins next to each other say nearly the same, and how a disk is strained is in how they differ: trained bin by bin,
    filters take two to three times as many epochs to find that.
    """

    def __init__(self, basis: np.ndarray, start: np.ndarray, column: np.ndarray, **kwargs) -> None:
        super().__init__(**kwargs)
        self._basis = tf.constant(basis, tf.float32)
        self._column = tf.constant(column[:, None], tf.float32)
        self._start = start.astype(np.float32)

    def build(self, shape) -> None:
        """Make what is trained."""
        self.coefficients = self.add_weight(
            name="coefficients", shape=self._start.shape, initializer=keras.initializers.Constant(self._start)
        )

    @property
    def kernel(self):
        """Weights of bins (CORE², filters + 1)."""
        return tf.concat([self._basis @ self.coefficients, self._column], 1)

    def call(self, bins):
        """Sums (n, filters + 1) of bins (n, CORE²)."""
        return bins @ self.kernel


@keras.utils.register_keras_serializable("edgestem")
class Divide(keras.layers.Layer):
    """The sums of filters over the last of them, as `student.divided` or plainly; gradients as of the latter."""

    def __init__(
        self, gains: Sequence[int], scale: int = 0, bits: int = 7, unit: float = 1.0, exact: bool = True, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.gains, self.scale, self.bits, self.unit, self.exact = list(gains), scale, bits, unit, exact

    def get_config(self) -> dict:
        """What a copy is made from."""
        own = {"gains": self.gains, "scale": self.scale, "bits": self.bits, "unit": self.unit, "exact": self.exact}
        return super().get_config() | own

    def call(self, sums):
        """Quotients (n, filters) of sums (n, filters + 1)."""
        whole = sums / self.unit
        divisor = whole[:, -1:] * 2.0**self.scale
        dividend = whole[:, :-1] * tf.constant(2.0 ** np.array(self.gains), tf.float32)
        plain = tf.where(divisor > 0, dividend / tf.maximum(divisor, 1.0), 0.0)
        if not self.exact:
            return plain
        limited = tf.clip_by_value(plain, -1.0, 1.0)
        u, s = tf.cast(tf.round(dividend), tf.int64), tf.cast(tf.round(divisor), tf.int64)
        whole = tf.math.floordiv(u * 2**self.bits, tf.maximum(s, 1))
        whole = tf.where(s > 0, tf.clip_by_value(whole, -(2**self.bits), 2**self.bits - 1), 0)
        rounded = tf.cast(whole, tf.float32) / 2.0**self.bits
        return limited + tf.stop_gradient(rounded - limited)


class Centred(keras.layers.Layer):
    """Features less their middle, over their size; limited, as the board's are."""

    def build(self, shape) -> None:
        """Make what `recentre` sets."""
        self.middle = self.add_weight(name="middle", shape=shape[-1:], initializer="zeros", trainable=False)
        self.size = self.add_weight(name="size", shape=shape[-1:], initializer="ones", trainable=False)
        self.limit = self.add_weight(name="limit", shape=shape[-1:], initializer="ones", trainable=False)

    def call(self, features):
        """Features (n, filters) of the same."""
        return tf.clip_by_value((features - self.middle) / self.size, -self.limit, self.limit)


class Roughened(keras.layers.Layer):
    """Adds to centred features, in training, noise of the size that rounding their filters will have.

    It goes with the root of the sum of a filter's squares. Filters that tell more by large weights of opposite signs
    would lose that when they are rounded: they are not learned.
    """

    def __init__(self, filters: Filters, centred: Centred, variance: float, **kwargs) -> None:
        super().__init__(**kwargs)
        self._filters, self._centred, self._variance = filters, centred, variance

    def call(self, features, training=False):
        """Features (n, filters) of the same."""
        if not training:
            return features
        weights = _centred(self._filters, self._centred)
        size = tf.sqrt(self._variance * tf.reduce_sum(tf.square(weights), 0))
        return features + size * tf.random.normal(tf.shape(features))


def float_model(
    widths: Widths, weights: np.ndarray, statistics: BinStatistics, bins: np.ndarray, seed: int
) -> keras.Model:
    """A model of floating point that has learned nothing, with the normaliser's `weights` (CORE²,).

    Parameters
    ----------
    widths : Widths
    weights : array (CORE²,)
    statistics : BinStatistics
        Of the bins that it will read.
    bins : array (n, CORE²)
        Some of them: their features have a standard deviation of about one.
    seed : int
    """
    keras.utils.set_random_seed(seed)
    basis, told = statistics.basis(BASIS)
    start = np.random.default_rng(seed).normal(size=(len(told), widths.filters)) * np.sqrt(told)[:, None]
    features = bins @ (basis @ start) / np.maximum(bins @ weights, 1)[:, None]
    # So that a step of training changes filters no more than layers.
    basis = basis / (STEADY * features.std(0).mean())
    x = first = keras.Input((CORE**2,), name="bins")
    filters, centred = Filters(basis, STEADY * start, weights, name="filters"), Centred(name="centred")
    x = centred(Divide([0] * widths.filters, exact=False, name="features")(filters(x)))
    x = Roughened(filters, centred, ROUGH / (2 ** (widths.filter_bits - 1) - 1) ** 2, name="roughened")(x)
    for i, size in enumerate(widths.hidden):
        start = keras.initializers.HeNormal(seed + i)
        x = keras.layers.Dense(size, activation="relu", kernel_initializer=start, name=f"dense{i}")(x)
    x = keras.layers.Dense(len(OUTPUTS), name=f"dense{len(widths.hidden)}")(x)
    model = keras.Model(first, x)
    start = model.get_layer("dense0").get_weights()
    recentre(model, bins)
    model.get_layer("dense0").set_weights(start)
    return model


def recentre(model: keras.Model, bins: np.ndarray) -> None:
    """Let the features of `bins` (n, CORE²) in a float model have no mean and a standard deviation of one.

    The layer behind makes up for it: the model stays the same, but for features that are limited.
    """
    sums = bins @ model.get_layer("filters").kernel.numpy()
    features = sums[:, :-1] / np.maximum(sums[:, -1:], 1)
    layer, behind = model.get_layer("centred"), model.get_layer("dense0")
    (middle, size, _), (w, b) = layer.get_weights(), behind.get_weights()
    mean, deviation = features.mean(0), np.maximum(features.std(0), 1e-6)
    limit = np.quantile(np.abs(features - mean), 0.999, axis=0) / deviation / FILLED
    layer.set_weights([mean, deviation, limit])
    behind.set_weights([w * (deviation / size)[:, None], b + ((mean - middle) / size) @ w])


def centred_filters(model: keras.Model) -> np.ndarray:
    """Filters (CORE², filters) whose sums, over the normaliser's, are what a float model's first dense layer reads."""
    return _centred(model.get_layer("filters"), model.get_layer("centred")).numpy().astype(float)


def _centred(filters, centred):
    """Weights of bins (CORE², filters) of centred features, by the layers `Filters` and `Centred`."""
    kernel = filters.kernel
    return (kernel[:, :-1] - centred.middle * kernel[:, -1:]) / centred.size
