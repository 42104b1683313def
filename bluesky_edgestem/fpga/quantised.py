"""Training of the student by QKeras: with floating point first, then with the numbers that the board has.

The first training has batch normalisation behind the division; it is folded into the layer that follows, a power of two
is found for each set of weights, and the second training, with straight-through gradients, starts there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its order of adding, and so its results, differ by machine

import tensorflow as tf
from qkeras import QActivation, QDense, quantized_bits, quantized_relu
from tensorflow import keras

from ..analysis.optics import Optics
from .foreign import KINDS, foreign
from .frontend import CORE, Frontend
from .normaliser import normaliser
from .student import FOLD, OUTPUT_BITS, OUTPUT_FRACTION, OUTPUTS, STRAIN_UNIT, Layer, Student
from .symmetry import VARIANTS
from .teaching import Domain, Lessons
from .widths import Widths

BATCH = 256
FOREIGN = 4  #: frames of each kind without a lattice in a batch
REUSED = 8  #: epochs that frames serve, turned or mirrored anew in each batch, before others are drawn
RATES = (6e-3, 5e-4)  #: learning rates at their highest, in floating point and quantised
MOST_GAIN = 5  #: powers of two by which a filter's sum is multiplied before it is divided, at most
LARGEST_GRADIENT = 5.0  #: global norm, above which gradients are scaled down
EPSILON = 1e-9  #: of the variance of features, whose size is any
#: What errors are weighed by: their variances at 10⁴ electrons per pattern, as counting allows, and with any number.
#: Of exx over `STRAIN_UNIT`, of cos and sin of six times the rotation, and of the centre [bins].
COUNTING = (0.2, 0.0021, 0.0009)
ALWAYS = (0.005, 0.0004, 0.0004)
#: How much rotation, centre, phase and the spread count beside strain.
OF_ROTATION, OF_CENTRE, OF_PHASE, OF_SPREAD = 0.5, 0.2, 15.0, 0.3


class Normalised(keras.constraints.Constraint):
    """Keeps the last column of the filters' kernel at the weights of the normaliser."""

    def __init__(self, weights: np.ndarray, unit: float) -> None:
        self.column = (weights * unit).astype(np.float32)[:, None]

    def __call__(self, w):
        return tf.concat([w[:, :-1], self.column], 1)


@keras.utils.register_keras_serializable("edgestem")
class Divide(keras.layers.Layer):
    """The sums of filters over the last of them, as `student.divided`; gradients as of a plain division."""

    def __init__(
        self, gains: Sequence[int], scale: int = 0, bits: int = 8, unit: float = 1.0, exact: bool = True, **kwargs
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
        limited = tf.clip_by_value(plain, -1.0, 1.0)
        if not self.exact:
            return limited
        u, s = tf.cast(tf.round(dividend), tf.int64), tf.cast(tf.round(divisor), tf.int64)
        size = tf.bitwise.left_shift(tf.abs(u), tf.constant(self.bits, tf.int64)) // tf.maximum(s, 1)
        size = tf.where(s > 0, tf.minimum(size, 2**self.bits - 1), 0)
        rounded = tf.cast(tf.sign(u) * size, tf.float32) / 2.0**self.bits
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


def loss(outputs, truth, dose):
    """Mean over patterns (n, 9), of targets (n, 8) and electrons (n,).

    Squares of strain, rotation and centre over what counting allows at that dose, the cross entropy of phase, and the
    normal log-likelihood of the spread, which the errors of strain do not follow: an error of many electrons counts
    as it should from the first step, whatever spread the student gives.
    """
    of_strain, of_rotation, of_centre = (c * 1e4 / dose + a for c, a in zip(COUNTING, ALWAYS, strict=True))
    square = tf.square(outputs[:, :7] - truth[:, :7])
    strain = tf.reduce_sum(square[:, :3] * tf.constant([1.0, 1.0, 2.0]), 1)
    rotation, centre = tf.reduce_sum(square[:, 3:5], 1), tf.reduce_sum(square[:, 5:7], 1)
    phase = tf.nn.sigmoid_cross_entropy_with_logits(truth[:, 7], outputs[:, 8])
    log_sd = tf.clip_by_value(outputs[:, 7], -5.0, 3.0)
    spread = 0.5 * tf.stop_gradient(strain) * tf.exp(-2 * log_sd) + 3 * log_sd
    errors = strain / of_strain + OF_ROTATION * rotation / of_rotation + OF_CENTRE * centre / of_centre
    return tf.reduce_mean(0.5 * errors + OF_PHASE * phase + OF_SPREAD * spread)


def float_model(widths: Widths, weights: np.ndarray, bins: np.ndarray, seed: int) -> keras.Model:
    """A model of floating point that has learned nothing, with the normaliser's `weights` (CORE²,).

    The features of `bins` (n, CORE²) fill most of their range.
    """
    keras.utils.set_random_seed(seed)
    filters = np.random.default_rng(seed).normal(size=(CORE**2, widths.filters))
    features = bins @ filters / np.maximum(bins @ weights, 1)[:, None]
    middle = features.mean(0)
    filters = (filters - middle * weights[:, None]) * 0.6 / np.quantile(np.abs(features - middle), 0.999, axis=0)
    # So that a step of training changes filters no more than layers.
    unit = 0.1 / float(np.abs(filters).mean())
    column = Normalised(weights, unit)
    x = first = keras.Input((CORE**2,), name="bins")
    x = keras.layers.Dense(widths.filters + 1, use_bias=False, kernel_constraint=column, name="filters")(x)
    x = Divide([0] * widths.filters, unit=unit, exact=False, name="features")(x)
    x = keras.layers.BatchNormalization(name="normalise", scale=False, center=False, epsilon=EPSILON)(x)
    for i, size in enumerate(widths.hidden):
        x = keras.layers.Dense(size, activation="relu", name=f"dense{i}")(x)
    x = keras.layers.Dense(len(OUTPUTS), name=f"dense{len(widths.hidden)}")(x)
    model = keras.Model(first, x)
    model.get_layer("filters").set_weights([np.concatenate([filters * unit, column.column], 1)])
    return model


def recentre(model: keras.Model, bins: np.ndarray) -> None:
    """Change the filters of a float model so that features of `bins` (n, CORE²) fill most of their range about zero.

    As much of the normaliser less in a filter takes off its feature's mean; normalisation behind it makes the model the
    same, but for features that saturated.
    """
    layer, normalise = model.get_layer("filters"), model.get_layer("normalise")
    kernel = layer.get_weights()[0]
    sums = bins @ kernel
    features = sums[:, :-1] / np.maximum(sums[:, -1:], model.get_layer("features").unit)
    middle = features.mean(0)
    size = 0.6 / np.maximum(np.quantile(np.abs(features - middle), 0.999, axis=0), 1e-6)
    layer.set_weights([np.column_stack([(kernel[:, :-1] - middle * kernel[:, -1:]) * size, kernel[:, -1]])])
    mean, variance = normalise.get_weights()
    normalise.set_weights([(mean - middle) * size, variance * size**2])


def _bits_for(values: np.ndarray, bits: int) -> int:
    """Integer bits of a signed quantiser of `bits` that errs least, by squares, over `values`."""

    def error(integer: int) -> float:
        unit = 2.0 ** (integer - bits + 1)
        most = 2 ** (bits - 1) - 1
        return float(np.square(np.clip(np.round(values / unit), -most, most) * unit - values).sum())

    return min(range(5), key=error)


def quantised_model(widths: Widths, trained: keras.Model, bins: np.ndarray) -> keras.Model:
    """The QKeras model that starts where the float model ended; `bins` (n, CORE²) tell the features' size."""
    columns = trained.get_layer("filters").get_weights()[0] / trained.get_layer("features").unit
    whole = np.round(columns[:, -1])
    divisors = np.maximum(bins @ whole, 1)[:, None]
    mean, variance = trained.get_layer("normalise").get_weights()
    filters = columns[:, :-1]
    unit = 2.0 ** (1 - widths.filter_bits)
    most = 2 ** (widths.filter_bits - 1) - 1
    # Each filter may be of any size: what follows makes up for it.
    scales = np.empty(widths.filters)
    for k, column in enumerate(filters.T):
        tried = np.abs(column).max() / most / unit * np.linspace(0.15, 1.0, 40)
        errors = [np.square(np.clip(np.round(column / t / unit), -most, most) * unit * t - column).sum() for t in tried]
        scales[k] = tried[int(np.argmin(errors))]
    kernel = filters / scales
    quotients = bins @ np.round(np.clip(kernel / unit, -most, most)) / divisors
    # What rounding has done to the features' size and mean, the layer behind makes up for.
    wanted = bins @ filters / divisors
    slope = ((quotients - quotients.mean(0)) * wanted).mean(0) / np.maximum(quotients.var(0), EPSILON)
    offset = wanted.mean(0) - slope * quotients.mean(0)
    exponents = np.ceil(np.log2(np.quantile(np.abs(quotients), 0.9995, axis=0) + 2.0**-MOST_GAIN)).astype(int)
    scale = max(0, int(exponents.max()))
    gains = np.minimum(scale - exponents, scale + MOST_GAIN)
    deviation = np.sqrt(variance + EPSILON)

    column = Normalised(whole, unit)
    first = keras.Input((CORE**2,), name="bins")
    quantiser = quantized_bits(widths.filter_bits, 0, symmetric=1, alpha=1)
    x = QDense(
        widths.filters + 1, use_bias=False, kernel_quantizer=quantiser, kernel_constraint=column, name="filters"
    )(first)
    x = Divide(gains.tolist(), scale, widths.quotient_bits, unit, name="features")(x)
    fraction, before = widths.quotient_bits, 1.0
    weights: dict[str, list[np.ndarray]] = {"filters": [np.concatenate([kernel, column.column], 1)]}
    for i, bits in enumerate(widths.weight_bits):
        w, b = trained.get_layer(f"dense{i}").get_weights()
        if i == 0:
            # What was normalised is this model's quotient, but for gain, slope and offset.
            b = b + ((offset - mean) / deviation) @ w
            w = w * (slope * 2.0 ** (scale - gains) / deviation)[:, None]
        # What leaves each hidden neuron just fits below 1; the next layer makes up for it.
        smaller = np.ones(w.shape[1])
        if i < len(widths.hidden):
            hidden = keras.Model(trained.input, trained.get_layer(f"dense{i}").output)
            peaks = np.quantile(hidden.predict(bins, verbose=0), 0.9998, axis=0)
            smaller = 1 / np.where(peaks > 1e-3 * peaks.max(), peaks, peaks.max())
        w, b = w * smaller / np.reshape(before, (-1, 1)), b * smaller
        before = smaller
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
    columns = whole(layer.kernel_quantizer_internal, layer.get_weights()[0], unit).astype(np.int32)
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
    features = model.get_layer("features")
    return Student(
        frontend, optics, phases, columns[:, :-1], columns[:, -1], features.scale, tuple(features.gains),
        widths.quotient_bits, tuple(layers), card=card,
    )  # fmt: skip


@dataclass(frozen=True)
class Frames:
    """Frames as a student is shown them, with what it is to give."""

    bins: np.ndarray  #: (n, CORE²) uint8 or uint16
    targets: np.ndarray  #: (n, 8) float32
    dose: np.ndarray  #: (n,) float32, electrons that errors are weighed by

    @classmethod
    def drawn(cls, lessons: Lessons, frontend: Frontend, domain: Domain, rng: np.random.Generator) -> Frames:
        """Electrons of each lesson counted once, at a dose of its own; in each batch's place a few without a lattice.

        Those may have come from any: all that can be said is what was known before, and errors count as with the
        fewest electrons.
        """
        low, high = np.log10(domain.dose)
        truth, brightest = targets(lessons), lessons.brightest(frontend)
        dose = 10 ** rng.uniform(low, high, len(lessons))
        bins = np.empty((len(lessons), CORE**2), np.uint8 if frontend.bin_bits <= 8 else np.uint16)
        for start in range(0, len(lessons), BATCH):
            some = slice(start, start + BATCH)
            counts = lessons[some].counts(dose[some], rng)
            for i, kind in enumerate(KINDS):
                few = slice(i * FOREIGN, (i + 1) * FOREIGN)
                counts[few] = foreign(kind, counts[few], frontend, rng)
            bins[some] = frontend.attenuated(counts, frontend.shift_for(dose[some], brightest))
        strange = np.arange(len(lessons)) % BATCH < len(KINDS) * FOREIGN
        truth[strange] = truth[rng.integers(len(truth), size=int(strange.sum()))]
        return cls(bins, truth, np.where(strange, domain.dose[0], dose).astype(np.float32))


#: One step of training with bins (n, CORE²), targets (n, 8) and electrons (n,): the loss before it.
Step = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def first_order(model: keras.Model, rate) -> Step:
    """Steps by Adam; `rate` is a learning rate or its schedule."""
    optimiser = keras.optimizers.legacy.Adam(rate)

    @tf.function(jit_compile=False)
    def step(bins, truth, dose):
        with tf.GradientTape() as tape:
            value = loss(model(tf.cast(bins, tf.float32), training=True), truth, dose)
        gradients = tape.gradient(value, model.trainable_variables)
        gradients, _ = tf.clip_by_global_norm(gradients, LARGEST_GRADIENT)
        optimiser.apply_gradients(zip(gradients, model.trainable_variables, strict=True))  # pyright: ignore[reportAttributeAccessIssue]
        return value

    return step


def fit(
    model: keras.Model,
    lessons: Lessons,
    frontend: Frontend,
    domain: Domain,
    epochs: int,
    rate: float,
    rng: np.random.Generator,
    progress: Callable[[int, float], None] | None = None,
    steps_of: Callable[[keras.Model, keras.optimizers.schedules.LearningRateSchedule], Step] = first_order,
) -> list[float]:
    """Train on lessons, drawn anew every few epochs, with a learning rate up to `rate`; the mean loss of each epoch."""
    if len(lessons) < BATCH:
        raise ValueError(f"{len(lessons)} patterns are too few to train on; it takes {BATCH} at least")
    steps = epochs * (len(lessons) // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(
        rate / 10,
        steps,
        alpha=0.003,
        warmup_target=rate,  # pyright: ignore[reportArgumentType]
        warmup_steps=max(1, steps // 7),
    )
    step = steps_of(model, schedule)
    losses = []
    frames = None
    for epoch in range(epochs):
        if frames is None or epoch % REUSED == 0:
            frames = Frames.drawn(lessons, frontend, domain, rng)
        order = rng.permutation(len(lessons))[: len(lessons) // BATCH * BATCH].reshape(-1, BATCH)
        total = 0.0
        for which in order:
            variant = VARIANTS[rng.integers(len(VARIANTS))]
            bins, truth = variant.bins(frames.bins[which]), variant.targets(frames.targets[which])
            total += float(step(tf.constant(bins), tf.constant(truth), tf.constant(frames.dose[which])))
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
    some = lessons[:1000]
    brightest, dose = lessons.brightest(frontend), np.full(len(some), domain.dose[1] / 3)
    bins = frontend.attenuated(some.counts(dose, rng), frontend.shift_for(dose, brightest))
    plain = float_model(widths, normaliser(lessons, frontend, widths.filter_bits), bins, seed)

    def told(name: str, of: int) -> Callable[[int, float], None]:
        return lambda epoch, value: say(f"{name}, epoch {epoch} of {of}: loss {value:.3f}")

    tell = told("floating point", epochs[0])

    def after(epoch: int, value: float) -> None:
        recentre(plain, bins)
        tell(epoch, value)

    fit(plain, lessons, frontend, domain, epochs[0], RATES[0], rng, progress=after)
    model = quantised_model(widths, plain, bins)
    fit(model, lessons, frontend, domain, epochs[1], RATES[1], rng, progress=told("quantised", epochs[1]))
    card = {"strain_sd": domain.strain_sd, "centre_sd": domain.shift_bins / np.sqrt(3), "seed": seed}
    student = student_of(model, widths, frontend, optics, phases, card)
    return replace(student, brightest=float(f"{brightest:.4g}")), model
