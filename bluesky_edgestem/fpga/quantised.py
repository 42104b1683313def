"""Training of the student by QKeras: with floating point first, then with the numbers that the board has.

The first training has batch normalisation behind the division; it is folded into the layer that follows, a power of two
is found for each set of weights, and the second training, with straight-through gradients, starts there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its order of adding, and so its results, differ by machine

import tensorflow as tf
from qkeras import QActivation, QDense, quantized_bits, quantized_relu
from tensorflow import keras

from ..analysis.optics import Optics
from .foreign import KINDS, foreign
from .frontend import CORE, Frontend
from .student import FOLD, OUTPUT_BITS, OUTPUT_FRACTION, OUTPUTS, STRAIN_UNIT, Layer, Student
from .teaching import Domain, Lessons
from .widths import Widths

BATCH = 256
FOREIGN = 4  #: frames of each kind without a lattice in a batch
EPSILON = 1e-9  #: of the variance of features, whose size is any


class Normalised(keras.constraints.Constraint):
    """Keeps the last column of the filters' kernel at the mask of bins that add up to the normaliser."""

    def __init__(self, mask: np.ndarray, unit: float) -> None:
        self.column = (mask * unit).astype(np.float32)[:, None]

    def __call__(self, w):
        return tf.concat([w[:, :-1], self.column], 1)


@keras.utils.register_keras_serializable("edgestem")
class Divide(keras.layers.Layer):
    """The sums of filters over the last of them, as `student.divided`; gradients as of a plain division."""

    def __init__(self, scale: int = 0, bits: int = 8, unit: float = 1.0, exact: bool = True, **kwargs) -> None:
        super().__init__(**kwargs)
        self.scale, self.bits, self.unit, self.exact = scale, bits, unit, exact

    def get_config(self) -> dict:
        """What a copy is made from."""
        own = {"scale": self.scale, "bits": self.bits, "unit": self.unit, "exact": self.exact}
        return super().get_config() | own

    def call(self, sums):
        """Quotients (n, filters) of sums (n, filters + 1)."""
        whole = sums / self.unit
        divisor = whole[:, -1:] * 2.0**self.scale
        plain = whole[:, :-1] / tf.maximum(divisor, 1.0)
        if not self.exact:
            return plain
        u, s = tf.cast(tf.round(whole[:, :-1]), tf.int64), tf.cast(tf.round(divisor), tf.int64)
        size = tf.bitwise.left_shift(tf.abs(u), tf.constant(self.bits, tf.int64)) // tf.maximum(s, 1)
        size = tf.where(s > 0, tf.minimum(size, 2**self.bits - 1), 0)
        rounded = tf.cast(tf.sign(u) * size, tf.float32) / 2.0**self.bits
        limited = tf.clip_by_value(plain, -1.0, 1.0)
        return limited + tf.stop_gradient(rounded - limited)


def targets(lessons: Lessons) -> np.ndarray:
    """What the outputs are compared with, (n, 8) float32: as `OUTPUTS`, without the spread."""
    return np.column_stack(
        [
            lessons.strain / STRAIN_UNIT,
            np.cos(FOLD * lessons.rotation), np.sin(FOLD * lessons.rotation),
            lessons.centre, lessons.second_phase,
        ]
    ).astype(np.float32)  # fmt: skip


def loss(outputs, truth):
    """Mean over patterns (n, 9) of: normal log-likelihood of strain, squares of the others, cross entropy of phase."""
    spread = tf.clip_by_value(outputs[:, 7], -6.0, 3.0)
    error = tf.square(outputs[:, :3] - truth[:, :3]) * tf.constant([1.0, 1.0, 2.0])
    strain = 0.5 * tf.reduce_sum(error, 1) * tf.exp(-2 * spread) + 3 * spread
    rest = tf.reduce_sum(tf.square(outputs[:, 3:7] - truth[:, 3:7]), 1)
    phase = tf.nn.sigmoid_cross_entropy_with_logits(truth[:, 7], outputs[:, 8])
    return tf.reduce_mean(strain + 0.3 * rest + 0.3 * phase)


def _float_model(widths: Widths, frontend: Frontend, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    x = first = keras.Input((CORE**2,), name="bins")
    mask = Normalised(frontend.outer, 1.0)
    # Filters begin with little noise of their own: what training does not need of it would stay.
    spread = keras.initializers.RandomNormal(stddev=0.02)
    x = keras.layers.Dense(
        widths.filters + 1, use_bias=False, kernel_constraint=mask, kernel_initializer=spread, name="filters"
    )(x)
    x = Divide(exact=False, name="features")(x)
    x = keras.layers.BatchNormalization(name="normalise", scale=False, center=False, epsilon=EPSILON)(x)
    for i, size in enumerate(widths.hidden):
        x = keras.layers.Dense(size, activation="relu", name=f"dense{i}")(x)
    x = keras.layers.Dense(len(OUTPUTS), name=f"dense{len(widths.hidden)}")(x)
    model = keras.Model(first, x)
    # The mask before the first step too.
    layer = model.get_layer("filters")
    layer.kernel.assign(mask(layer.kernel))
    return model


def _bits_for(values: np.ndarray, bits: int) -> int:
    """Integer bits of a signed quantiser of `bits` that errs least, by squares, over `values`."""

    def error(integer: int) -> float:
        unit = 2.0 ** (integer - bits + 1)
        most = 2 ** (bits - 1) - 1
        return float(np.square(np.clip(np.round(values / unit), -most, most) * unit - values).sum())

    return min(range(5), key=error)


def _quantised_model(widths: Widths, frontend: Frontend, trained: keras.Model, bins: np.ndarray) -> keras.Model:
    """The QKeras model that starts where the float model ended; `bins` (n, CORE²) tell the features' size."""
    filters = trained.get_layer("filters").get_weights()[0][:, :-1]
    mean, variance = trained.get_layer("normalise").get_weights()
    unit = 2.0 ** (1 - widths.filter_bits)
    most = 2 ** (widths.filter_bits - 1) - 1
    # Each filter may be of any size: what follows makes up for it.
    scales = np.empty(widths.filters)
    for k, column in enumerate(filters.T):
        tried = np.abs(column).max() / most / unit * np.linspace(0.15, 1.0, 40)
        errors = [np.square(np.clip(np.round(column / t / unit), -most, most) * unit * t - column).sum() for t in tried]
        scales[k] = tried[int(np.argmin(errors))]
    kernel = filters / scales
    normaliser = np.maximum(bins[:, frontend.outer].sum(1), 1)[:, None]
    quotients = bins @ np.round(np.clip(kernel / unit, -most, most)) / normaliser
    scale = max(0, int(np.ceil(np.log2(np.quantile(np.abs(quotients), 0.9995)))))
    deviation = np.sqrt(variance + EPSILON)

    mask = Normalised(frontend.outer, unit)
    first = keras.Input((CORE**2,), name="bins")
    quantiser = quantized_bits(widths.filter_bits, 0, symmetric=1, alpha=1)
    x = QDense(widths.filters + 1, use_bias=False, kernel_quantizer=quantiser, kernel_constraint=mask, name="filters")(
        first
    )
    x = Divide(scale, widths.quotient_bits, unit, name="features")(x)
    fraction, before, smaller = widths.quotient_bits, 1.0, 1.0
    weights = {"filters": [np.concatenate([kernel, mask.column], 1)]}
    for i, bits in enumerate(widths.weight_bits):
        w, b = trained.get_layer(f"dense{i}").get_weights()
        if i == 0:
            # What was normalised is this model's quotient, times the size of its filter and of its unit.
            b = b - (mean / deviation) @ w
            w = w * (scales * unit * 2.0**scale / deviation)[:, None]
        # What leaves a hidden layer is brought below 1, since QKeras has no negative number of integer bits.
        if i < len(widths.hidden):
            peak = float(np.quantile(keras.Model(trained.input, trained.get_layer(f"dense{i}").output)(bins), 0.9998))
            smaller = 2.0 ** -np.ceil(np.log2(peak))
        w, b = w * (smaller / before), b * smaller
        before, smaller = smaller, 1.0
        integer = _bits_for(w, bits)
        behind = fraction + bits - 1 - integer
        bias = quantized_bits(behind + 7, 6, alpha=1)
        x = QDense(
            w.shape[1], kernel_quantizer=quantized_bits(bits, integer, symmetric=1, alpha=1), bias_quantizer=bias,
            name=f"dense{i}",
        )(x)  # fmt: skip
        weights[f"dense{i}"] = [w, b]
        if i < len(widths.hidden):
            fraction = widths.activation_bits[i]
            x = QActivation(quantized_relu(fraction, 0), name=f"relu{i}")(x)
        else:
            words = quantized_bits(OUTPUT_BITS, OUTPUT_BITS - OUTPUT_FRACTION - 1, alpha=1)
            x = QActivation(words, name="words")(x)
    model = keras.Model(first, x)
    for name, values in weights.items():
        model.get_layer(name).set_weights(values)
    return model


def student_of(model: keras.Model, widths: Widths, frontend: Frontend, optics: Optics, phases, card: dict) -> Student:
    """The whole numbers of a QKeras model."""

    def whole(quantiser, values: np.ndarray, unit: float) -> np.ndarray:
        numbers = quantiser(tf.constant(values)).numpy() / unit
        assert np.array_equal(numbers, np.round(numbers)), "a quantiser gives what its bits do not hold"
        return numbers

    layer = model.get_layer("filters")
    unit = 2.0 ** (1 - widths.filter_bits)
    filters = whole(layer.kernel_quantizer_internal, layer.get_weights()[0], unit)[:, :-1].astype(np.int32)
    layers, fraction = [], widths.quotient_bits
    for i, bits in enumerate(widths.weight_bits):
        layer = model.get_layer(f"dense{i}")
        w, b = layer.get_weights()
        weight_fraction = bits - 1 - layer.kernel_quantizer_internal.get_config()["integer"]
        last = i == len(widths.hidden)
        leaving = (OUTPUT_BITS, OUTPUT_FRACTION) if last else (widths.activation_bits[i], widths.activation_bits[i])
        layers.append(
            Layer(
                whole(layer.kernel_quantizer_internal, w, 2.0**-weight_fraction).astype(np.int32),
                whole(layer.bias_quantizer_internal, b, 2.0 ** -(fraction + weight_fraction)).astype(np.int64),
                weight_fraction, *leaving, signed=last,
            )
        )  # fmt: skip
        fraction = leaving[1]
    scale = model.get_layer("features").scale
    return Student(frontend, optics, phases, filters, scale, widths.quotient_bits, tuple(layers), card=card)


def fit(
    model: keras.Model,
    lessons: Lessons,
    frontend: Frontend,
    domain: Domain,
    epochs: int,
    rate: float,
    rng: np.random.Generator,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train on lessons with noise drawn anew in each epoch; the mean loss of each."""
    if len(lessons) < BATCH:
        raise ValueError(f"{len(lessons)} patterns are too few to train on; it takes {BATCH} at least")
    truth = targets(lessons)
    steps = epochs * (len(lessons) // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(
        rate / 10,
        steps,
        alpha=0.003,
        warmup_target=rate,  # pyright: ignore[reportArgumentType]
        warmup_steps=max(1, steps // 5),
    )
    optimiser = keras.optimizers.legacy.Adam(schedule)

    @tf.function(jit_compile=False)
    def step(x, y):
        with tf.GradientTape() as tape:
            value = loss(model(x, training=True), y)
        gradients = tape.gradient(value, model.trainable_variables)
        gradients, _ = tf.clip_by_global_norm(gradients, 5.0)
        optimiser.apply_gradients(zip(gradients, model.trainable_variables, strict=True))  # pyright: ignore[reportAttributeAccessIssue]
        return value

    losses = []
    low, high = np.log10(domain.dose)
    brightest = lessons.brightest(frontend)
    for epoch in range(epochs):
        order = rng.permutation(len(lessons))[: len(lessons) // BATCH * BATCH].reshape(-1, BATCH)
        total = 0.0
        for which in order:
            dose = 10 ** rng.uniform(low, high, BATCH)
            counts, wanted = lessons[which].counts(dose, rng), truth[which]
            # Frames without a lattice, which may have come from any: all that can be said is what was known before.
            for i, kind in enumerate(KINDS):
                some = slice(i * FOREIGN, (i + 1) * FOREIGN)
                counts[some] = foreign(kind, counts[some], frontend, rng)
            wanted = np.concatenate(
                [truth[rng.integers(len(truth), size=len(KINDS) * FOREIGN)], wanted[len(KINDS) * FOREIGN :]]
            )
            bins = frontend.attenuated(counts, frontend.shift_for(dose, brightest))
            total += float(step(tf.constant(bins, tf.float32), tf.constant(wanted)))
        losses.append(total / len(order))
        if progress is not None:
            progress(epoch + 1, losses[-1])
    return losses


def train(
    lessons: Lessons,
    frontend: Frontend,
    optics: Optics,
    phases: tuple[str, str],
    *,
    widths: Widths | None = None,
    domain: Domain | None = None,
    epochs: tuple[int, int] = (30, 15),
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> tuple[Student, keras.Model]:
    """A student, and the QKeras model that it is the numbers of."""
    widths, domain = widths or Widths(), domain or Domain()
    say = progress or (lambda text: None)
    rng = np.random.default_rng(seed)
    plain = _float_model(widths, frontend, seed)

    def told(name: str, of: int) -> Callable[[int, float], None]:
        return lambda epoch, value: say(f"{name}, epoch {epoch} of {of}: loss {value:.3f}")

    fit(plain, lessons, frontend, domain, epochs[0], 3e-3, rng, progress=told("floating point", epochs[0]))
    some = lessons[:1000]
    brightest, dose = lessons.brightest(frontend), np.full(len(some), domain.dose[1] / 3)
    bins = frontend.attenuated(some.counts(dose, rng), frontend.shift_for(dose, brightest))
    model = _quantised_model(widths, frontend, plain, bins)
    fit(model, lessons, frontend, domain, epochs[1], 1e-3, rng, progress=told("quantised", epochs[1]))
    card = {"strain_sd": domain.strain_sd, "centre_sd": domain.shift_bins / np.sqrt(3), "seed": seed}
    student = student_of(model, widths, frontend, optics, phases, card)
    return replace(student, brightest=float(f"{brightest:.4g}")), model
