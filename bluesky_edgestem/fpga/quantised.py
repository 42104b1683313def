"""Training of the student by QKeras: in floating point, then with the numbers of the board.

The first training has features centred behind the division; filters and the layer that follows take that over. Filters
are rounded, and the second training, whose gradients pass straight through the quantisers, learns to read what that has
made of the features, with activations as on the board. In the end weights are rounded as filters are: a training with
rounded weights decides upon each of them by itself, and most of what they lose together is lost.
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
from .rounding import covariance, rounded, rounded_in
from .student import FOLD, OUTPUT_BITS, OUTPUT_FRACTION, OUTPUTS, STRAIN_UNIT, Layer, Student
from .symmetry import VARIANTS
from .teaching import Domain, Lessons
from .widths import Widths

BATCH = 256
FOREIGN = 4  #: frames of each kind without a lattice in a batch
REUSED = 8  #: epochs that frames serve, turned or mirrored anew in each batch, before others are drawn
RATES = (6e-3, 1e-3)  #: learning rates at their highest, in floating point and quantised
MOST_GAIN = 5  #: powers of two by which a filter's sum is multiplied before it is divided, at most
FINEST = 9  #: bits behind the point of the smallest unit of weights: with more, TensorFlow would round sums
LARGEST_GRADIENT = 5.0  #: global norm, above which gradients are scaled down
FILLED = 0.6  #: of the limit of features in floating point, what all but one of a thousand stay within
#: What errors are weighed by: their variances at 10⁴ electrons per pattern, as counting allows, and with any number.
#: Of exx over `STRAIN_UNIT`, of cos and sin of six times the rotation, and of the centre [bins].
COUNTING = (0.2, 0.0021, 0.0009)
ALWAYS = (0.0025, 0.0004, 0.0004)
#: How much rotation, centre, phase and the spread count beside strain.
OF_ROTATION, OF_CENTRE, OF_PHASE, OF_SPREAD = 0.5, 0.2, 10.0, 0.3


class Normalised(keras.constraints.Constraint):
    """Keeps the last column of the filters' kernel at the weights of the normaliser."""

    def __init__(self, weights: np.ndarray, unit: float) -> None:
        self.column = (weights * unit).astype(np.float32)[:, None]

    def __call__(self, w):
        return tf.concat([w[:, :-1], self.column], 1)


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
        size = tf.bitwise.left_shift(tf.abs(u), tf.constant(self.bits, tf.int64)) // tf.maximum(s, 1)
        size = tf.minimum(size, 2**self.bits - 1)
        whole = tf.where(s > 0, tf.where(u < 0, -1 - size, size), 0)
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

    The features of `bins` (n, CORE²) have a standard deviation of one.
    """
    keras.utils.set_random_seed(seed)
    filters = np.random.default_rng(seed).normal(size=(CORE**2, widths.filters))
    features = bins @ filters / np.maximum(bins @ weights, 1)[:, None]
    filters = (filters - features.mean(0) * weights[:, None]) / features.std(0)
    # So that a step of training changes filters no more than layers.
    unit = 0.1 / float(np.abs(filters).mean())
    column = Normalised(weights, unit)
    x = first = keras.Input((CORE**2,), name="bins")
    x = keras.layers.Dense(widths.filters + 1, use_bias=False, kernel_constraint=column, name="filters")(x)
    x = Divide([0] * widths.filters, unit=unit, exact=False, name="features")(x)
    x = Centred(name="centred")(x)
    for i, size in enumerate(widths.hidden):
        start = keras.initializers.HeNormal(seed + i)
        x = keras.layers.Dense(size, activation="relu", kernel_initializer=start, name=f"dense{i}")(x)
    x = keras.layers.Dense(len(OUTPUTS), name=f"dense{len(widths.hidden)}")(x)
    model = keras.Model(first, x)
    model.get_layer("filters").set_weights([np.concatenate([filters * unit, column.column], 1)])
    start = model.get_layer("dense0").get_weights()
    recentre(model, bins)
    model.get_layer("dense0").set_weights(start)
    return model


def recentre(model: keras.Model, bins: np.ndarray) -> None:
    """Let the features of `bins` (n, CORE²) in a float model have no mean and a standard deviation of one.

    The layer behind makes up for it: the model stays the same, but for features that are limited.
    """
    sums = bins @ model.get_layer("filters").get_weights()[0]
    features = sums[:, :-1] / np.maximum(sums[:, -1:], model.get_layer("features").unit)
    layer, behind = model.get_layer("centred"), model.get_layer("dense0")
    (middle, size, _), (w, b) = layer.get_weights(), behind.get_weights()
    mean, deviation = features.mean(0), np.maximum(features.std(0), 1e-6)
    limit = np.quantile(np.abs(features - mean), 0.999, axis=0) / deviation / FILLED
    layer.set_weights([mean, deviation, limit])
    behind.set_weights([w * (deviation / size)[:, None], b + ((mean - middle) / size) @ w])


def centred_filters(model: keras.Model) -> np.ndarray:
    """Filters (CORE², filters) whose sums, over the normaliser's, are what a float model's first dense layer reads."""
    kernel = model.get_layer("filters").get_weights()[0] / model.get_layer("features").unit
    middle, size, _ = model.get_layer("centred").get_weights()
    return ((kernel[:, :-1] - middle * kernel[:, -1:]) / size).astype(float)


class Sparse(keras.constraints.Constraint):
    """Keeps the weights of all but so many inputs of each neuron at zero: those that say least at the start."""

    def __init__(self, weights: np.ndarray, inputs: int, deviation: np.ndarray) -> None:
        said = np.abs(weights) * deviation[:, None]
        least = np.sort(said, 0)[max(0, len(said) - inputs)]
        self.kept = (said >= least).astype(np.float32)

    def __call__(self, w):
        return w * self.kept


def quantised_model(widths: Widths, trained: keras.Model, filters: np.ndarray, bins: np.ndarray) -> keras.Model:
    """The QKeras model that starts where the float model ended, with filters that stay as they are.

    Features and activations are those of the board; the weights of dense layers are not rounded yet.

    Parameters
    ----------
    widths : Widths
    trained : keras.Model
        From `float_model`.
    filters : array (CORE², filters) int32
        Those of `trained` in whole numbers, each of any size: what follows makes up for it.
    bins : array (n, CORE²)
        Patterns that tell the sizes of features and activations.
    """
    whole = np.round(trained.get_layer("filters").get_weights()[0][:, -1] / trained.get_layer("features").unit)
    divisors = np.maximum(bins @ whole, 1)[:, None]
    unit = 2.0 ** (1 - widths.filter_bits)
    quotients = bins @ filters / divisors
    # What rounding has done to the features' size and mean, the layer behind makes up for.
    wanted = bins @ centred_filters(trained) / divisors
    slope = ((quotients - quotients.mean(0)) * wanted).mean(0) / np.maximum(quotients.var(0), 1e-9)
    offset = wanted.mean(0) - slope * quotients.mean(0)
    exponents = np.ceil(np.log2(np.quantile(np.abs(quotients), 0.9995, axis=0) + 2.0**-MOST_GAIN)).astype(int)
    scale = max(0, int(exponents.max()))
    gains = np.minimum(scale - exponents, scale + MOST_GAIN)

    first = keras.Input((CORE**2,), name="bins")
    x = QDense(
        widths.filters + 1, use_bias=False, trainable=False, name="filters",
        kernel_quantizer=quantized_bits(widths.filter_bits, 0, symmetric=1, alpha=1),
    )(first)  # fmt: skip
    x = Divide(gains.tolist(), scale, widths.quotient_bits, unit, name="features")(x)
    before = 1.0
    said = (quotients * 2.0 ** (gains - scale)).std(0)
    weights: dict[str, list[np.ndarray]] = {"filters": [np.column_stack([filters, whole]) * unit]}
    for i, inputs in enumerate(widths.fan_in):
        w, b = trained.get_layer(f"dense{i}").get_weights()
        last = i == len(widths.hidden)
        if i == 0:
            # What it reads is this model's quotient, but for gain, slope and offset.
            b = b + offset @ w
            w = w * (slope * 2.0 ** (scale - gains))[:, None]
        # What leaves each hidden neuron just fits below 1; the next layer makes up for it.
        smaller = np.ones(w.shape[1])
        if not last:
            hidden = keras.Model(trained.input, trained.get_layer(f"dense{i}").output).predict(bins, verbose=0)
            peaks = np.quantile(hidden, 0.9998, axis=0)
            smaller = 1 / np.where(peaks > 1e-3 * peaks.max(), peaks, peaks.max())
        w, b = w * smaller / np.reshape(before, (-1, 1)), b * smaller
        before = smaller
        sparse = Sparse(w, inputs, said)
        x = QDense(w.shape[1], kernel_constraint=sparse, name=f"dense{i}")(x)
        weights[f"dense{i}"] = [sparse.kept * w, b]
        if last:
            words = quantized_bits(OUTPUT_BITS, OUTPUT_BITS - OUTPUT_FRACTION - 1, alpha=1)
            x = QActivation(words, name="words")(x)
        else:
            x = QActivation(quantized_relu(widths.activation_bits[i], 0), name=f"relu{i}")(x)
            said = (hidden * smaller).std(0)
    model = keras.Model(first, x)
    for name, values in weights.items():
        model.get_layer(name).set_weights(values)
    return model


def settled(model: keras.Model, widths: Widths, bins: np.ndarray) -> keras.Model:
    """The trained QKeras model with the weights of `widths`, rounded over what layers read of `bins` (n, CORE²).

    A neuron's weights are in units of a power of two of its own, which costs a board nothing: those in which they err
    least, each by itself, and no smaller than 2^-FINEST. The lowest bit of a bias, half of what sums are counted in, is
    set.
    """
    fractions = [
        _fractions(model.get_layer(f"dense{i}").get_weights()[0], bits) for i, bits in enumerate(widths.weight_bits)
    ]

    def of_board(layer):
        if not layer.name.startswith("dense"):
            return layer.__class__.from_config(layer.get_config())
        i = int(layer.name.removeprefix("dense"))
        finest, before = int(fractions[i].max()), max(0, widths.weight_bits[i] - 1 - int(fractions[i].min()))
        reads = widths.quotient_bits if i == 0 else widths.activation_bits[i - 1]
        leaving = OUTPUT_FRACTION if i == len(widths.hidden) else widths.activation_bits[i]
        # A bit at least is dropped of each sum: none lies halfway between two words then.
        behind = max(reads + finest, leaving + 1) + 1
        return QDense(
            layer.units, kernel_quantizer=quantized_bits(1 + before + finest, before, symmetric=1, alpha=1),
            bias_quantizer=quantized_bits(behind + 7, 6, alpha=1), name=layer.name,
        )  # fmt: skip

    out = keras.models.clone_model(model, clone_function=of_board)
    out.set_weights(model.get_weights())
    before = "features"
    for i, bits in enumerate(widths.weight_bits):
        layer, units = out.get_layer(f"dense{i}"), 2.0 ** -fractions[i]
        w, b = layer.get_weights()
        exact, read = (
            keras.Model(each.input, each.get_layer(before).output)
            .predict(bins, verbose=0, batch_size=500)
            .astype(float)
            for each in (model, out)
        )
        new = rounded_in(w, np.cov(read.T), units, 2 ** (bits - 1) - 1) * units
        # What each neuron adds up to stays as it was on average.
        b = (exact @ w).mean(0) - (read @ new).mean(0) + b
        unit = _unit(layer.bias_quantizer_internal)
        whole = np.round(layer.bias_quantizer_internal(tf.constant(b, tf.float32)).numpy() / unit).astype(np.int64)
        layer.set_weights([new, (whole | 1) * unit])
        before = f"relu{i}"
    return out


def _fractions(weights: np.ndarray, bits: int) -> np.ndarray:
    """Bits behind the point of each neuron's unit, (n,) int, in which weights (inputs, n) of `bits` err least."""
    tried, most = np.arange(FINEST - 15, FINEST + 1), 2 ** (bits - 1) - 1
    units = 2.0 ** -tried[:, None, None]
    errors = np.square(np.clip(np.round(weights / units), -most, most) * units - weights).sum(1)
    # Of equal ones, as for a neuron without weights, the coarsest.
    return tried[np.argmin(errors, 0)]


def _unit(quantiser: quantized_bits) -> float:
    config = quantiser.get_config()
    return 2.0 ** (config["integer"] + 1 - config["bits"])


def student_of(model: keras.Model, widths: Widths, frontend: Frontend, optics: Optics, phases, card: dict) -> Student:
    """The whole numbers of a QKeras model from `settled`."""

    def whole(quantiser, values: np.ndarray, unit: float) -> np.ndarray:
        numbers = quantiser(tf.constant(values)).numpy() / unit
        assert np.array_equal(numbers, np.round(numbers)), "a quantiser gives what its bits do not hold"
        return numbers

    layer = model.get_layer("filters")
    unit = 2.0 ** (1 - widths.filter_bits)
    columns = whole(layer.kernel_quantizer_internal, layer.get_weights()[0], unit).astype(np.int32)
    layers, fraction = [], widths.quotient_bits
    for i in range(len(widths.weight_bits)):
        layer = model.get_layer(f"dense{i}")
        w, b = layer.get_weights()
        bias_unit = _unit(layer.bias_quantizer_internal)
        weight_fraction = round(-np.log2(bias_unit)) - fraction - 1
        last = i == len(widths.hidden)
        leaving = (OUTPUT_BITS, OUTPUT_FRACTION) if last else (widths.activation_bits[i], widths.activation_bits[i])
        layers.append(
            Layer(
                whole(layer.kernel_quantizer_internal, w, 2.0**-weight_fraction).astype(np.int32),
                whole(layer.bias_quantizer_internal, b, bias_unit).astype(np.int64),
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

    @property
    def strange(self) -> np.ndarray:
        """Which of them show no lattice, (n,) bool."""
        return _strange(len(self.bins))

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
        strange = _strange(len(lessons))
        truth[strange] = truth[rng.integers(len(truth), size=int(strange.sum()))]
        return cls(bins, truth, np.where(strange, domain.dose[0], dose).astype(np.float32))


def _strange(n: int) -> np.ndarray:
    return np.arange(n) % BATCH < len(KINDS) * FOREIGN


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
    epochs: tuple[int, int] = (300, 150),
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> tuple[Student, keras.Model]:
    """A student, and the QKeras model that it is the numbers of.

    Epochs are those in floating point, and with filters, features and activations as on the board.
    """
    widths, domain = widths or Widths(), domain or Domain()
    say = progress or (lambda text: None)
    rng = np.random.default_rng(seed)
    some = lessons[:1000]
    brightest, dose = lessons.brightest(frontend), np.full(len(some), domain.dose[1] / 3)
    bins = frontend.attenuated(some.counts(dose, rng), frontend.shift_for(dose, brightest))
    divisor = normaliser(lessons, frontend, widths.filter_bits)
    plain = float_model(widths, divisor, bins, seed)

    def told(name: str, of: int) -> Callable[[int, float], None]:
        return lambda epoch, value: say(f"{name}, epoch {epoch} of {of}: loss {value:.3f}")

    tell = told("floating point", epochs[0])

    def after(epoch: int, value: float) -> None:
        recentre(plain, bins)
        tell(epoch, value)

    fit(plain, lessons, frontend, domain, epochs[0], RATES[0], rng, progress=after)
    say("filters are rounded")
    filters = rounded(centred_filters(plain), covariance(lessons, frontend, divisor), widths.filter_bits)
    model = quantised_model(widths, plain, filters, bins)
    fit(model, lessons, frontend, domain, epochs[1], RATES[1], rng, progress=told("quantised", epochs[1]))
    say("weights are rounded")
    seen = Frames.drawn(lessons[:6000], frontend, domain, rng)
    model = settled(model, widths, seen.bins[~seen.strange].astype(np.float32))
    card = {"strain_sd": domain.strain_sd, "centre_sd": domain.shift_bins / np.sqrt(3), "seed": seed}
    student = student_of(model, widths, frontend, optics, phases, card)
    return replace(student, brightest=float(f"{brightest:.4g}")), model
