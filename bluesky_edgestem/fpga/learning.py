"""How the student learns from lessons: in floating point first, then with the numbers of the board.

The first training has features centred behind the division; filters and the layer that follows take that over. Filters
are rounded, and the second training learns to read what that has made of the features. Inputs of neurons that are not
worth their LUTs are pruned, which the third training makes up for. Then weights are rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..analysis.optics import Optics
from . import precision
from .bin_statistics import BinStatistics
from .float_model import centred_filters, float_model, recentre
from .foreign import KINDS, foreign
from .frontend import CORE, Frontend
from .normaliser import normaliser
from .quantised import dense_weights, prune, quantised_model, settled, student_of, trainable_again
from .reproducible import keras, tf
from .rounding import rounded
from .student import FOLD, OUTPUTS, STRAIN_UNIT, Student
from .symmetry import VARIANTS
from .teaching import Domain, Lessons
from .widths import Widths

BATCH = 256
FOREIGN = 4  #: frames of each kind without a lattice in a batch
REUSED = 8  #: epochs that frames serve, turned or mirrored anew in each batch, before others are drawn
RATES = (3e-3, 1e-3, 1e-3)  #: learning rates at their highest, in floating point, quantised, and once pruned
#: Lessons over which weights are rounded, and frames over which inputs and bits are searched.
SEEN, SEARCHED = 6000, 3000
LARGEST_GRADIENT = 5.0  #: global norm, above which gradients are scaled down
#: What errors are weighed by: their variances at 10⁴ electrons per pattern, as counting allows, and with any number.
#: Of exx over `STRAIN_UNIT`, of cos and sin of six times the rotation, and of the centre [bins].
COUNTING = (0.2, 0.0021, 0.0009)
ALWAYS = (0.0010, 0.0004, 0.0004)
OF_SHEAR = 11.0  #: how much shear along axes and diagonals, which is harder to read, counts beside dilation
#: How much rotation, centre, phase and the spread count beside strain.
OF_ROTATION, OF_CENTRE, OF_PHASE, OF_SPREAD = 0.5, 0.2, 15.0, 1.8


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
    error = outputs[:, :3] - truth[:, :3]
    dilation = 2 * tf.square((error[:, 0] + error[:, 1]) / 2)
    shear = 2 * tf.square((error[:, 0] - error[:, 1]) / 2) + 2 * tf.square(error[:, 2])
    rotation, centre = tf.reduce_sum(square[:, 3:5], 1), tf.reduce_sum(square[:, 5:7], 1)
    phase = tf.nn.sigmoid_cross_entropy_with_logits(truth[:, 7], outputs[:, 8])
    log_sd = tf.clip_by_value(outputs[:, 7], -5.0, 3.0)
    spread = 0.5 * tf.stop_gradient(dilation + shear) * tf.exp(-2 * log_sd) + 3 * log_sd
    errors = (dilation + OF_SHEAR * shear) / of_strain
    errors += OF_ROTATION * rotation / of_rotation + OF_CENTRE * centre / of_centre
    return tf.reduce_mean(0.5 * errors + OF_PHASE * phase + OF_SPREAD * spread)


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


def curvature(model: keras.Model, frames: Frames) -> np.ndarray:
    """Second derivatives of the loss by centred features of a float model, (filters, filters), over frames.

    Those that the outputs' own curvature leaves are left out (Gauss and Newton).
    """
    known = ~frames.strange
    features = keras.Model(model.input, model.get_layer("centred").output).predict(
        frames.bins[known].astype(np.float32), verbose=0, batch_size=500
    )
    behind = [layer for layer in model.layers if layer.name.startswith("dense")]
    total = np.zeros((features.shape[1],) * 2)
    for start in range(0, len(features), BATCH):
        some = slice(start, start + BATCH)
        read = tf.constant(features[some])
        truth, dose = tf.constant(frames.targets[known][some]), tf.constant(frames.dose[known][some])
        with tf.GradientTape() as of_outputs:
            of_outputs.watch(read)
            outputs = read
            for layer in behind:
                outputs = layer(outputs)
        slopes = of_outputs.batch_jacobian(outputs, read)
        with tf.GradientTape() as second:
            second.watch(outputs)
            with tf.GradientTape() as first:
                first.watch(outputs)
                value = loss(outputs, truth, dose) * len(features[some])
            gradient = first.gradient(value, outputs)
        bends = second.batch_jacobian(gradient, outputs)
        total += tf.einsum("noi,nop,npj->ij", slopes, bends, slopes).numpy()
    return total / len(features)


def dense_layers(
    model: keras.Model, widths: Widths, seen: Frames
) -> tuple[list[precision.Dense], Callable[[np.ndarray], float]]:
    """Dense layers of a trained QKeras model, and the loss of outputs (n, 9), over the first `SEARCHED` frames."""
    some = slice(0, SEARCHED)
    reads = keras.Model(model.input, model.get_layer("features").output)
    features = reads.predict(seen.bins[some].astype(np.float32), verbose=0, batch_size=500).astype(float)
    truth, dose = tf.constant(seen.targets[some]), tf.constant(seen.dose[some])

    @tf.function
    def of(outputs):
        return loss(outputs, truth, dose)

    layers = precision.network(dense_weights(model), features, widths)
    return layers, lambda outputs: float(of(tf.constant(outputs, tf.float32)))


def train(
    lessons: Lessons,
    frontend: Frontend,
    optics: Optics,
    phases: tuple[str, str],
    *,
    start: Student | None = None,
    widths: Widths | None = None,
    domain: Domain | None = None,
    epochs: tuple[int, int, int],
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> tuple[Student, keras.Model]:
    """A student, and the QKeras model that it is the numbers of.

    Epochs are those in floating point, with filters, features and activations as on the board, and so once inputs are
    pruned. With bits that `widths` gives, nothing is pruned. From another student, `start`, of those widths, only the
    last part is left.
    """
    widths, domain = widths or Widths(), domain or Domain()
    say = progress or (lambda text: None)

    def told(name: str, of: int) -> Callable[[int, float], None]:
        return lambda epoch, value: say(f"{name}, epoch {epoch} of {of}: loss {value:.3f}")

    if start is None:
        rng = np.random.default_rng(seed)
        brightest = float(f"{lessons.brightest(frontend):.4g}")
        model = _quantised(lessons, frontend, widths, domain, epochs[:2], seed, rng, told)
    else:
        rng = np.random.default_rng([seed, 1])
        brightest, model = start.brightest, trainable_again(start, widths)
    seen = Frames.drawn(lessons[:SEEN], frontend, domain, rng)
    card: dict = {"strain_sd": domain.strain_sd, "centre_sd": domain.shift_bins / np.sqrt(3), "seed": seed}
    if widths.weight_bits is None:
        card["fronts"] = fronts = {}
        layers, lost = dense_layers(model, widths, seen)
        _, fronts["bits"] = precision.search(layers, lost, np.inf, prune=False)
        choices, fronts["inputs and bits"] = precision.search(layers, lost, widths.luts)
        fewer = [layer.with_inputs(choice.inputs) for layer, choice in zip(layers, choices, strict=True)]
        prune(model, fewer)
        say(f"pruned, of the weights of each layer: {', '.join(f'{(w == 0).mean():.0%}' for w, _ in fewer)}")
        fit(model, lessons, frontend, domain, epochs[2], RATES[2], rng, progress=told("pruned", epochs[2]))
        layers, lost = dense_layers(model, widths, seen)
        choices, fronts["bits, once trained on"] = precision.search(layers, lost, widths.luts, prune=False)
        weight_bits = [choice.bits for choice in choices]
    else:
        sizes = [*widths.hidden, len(OUTPUTS)]
        weight_bits = [np.full(n, bits) for n, bits in zip(sizes, widths.weight_bits, strict=True)]
    say("weights are rounded")
    model = settled(model, widths, weight_bits, seen.bins[~seen.strange].astype(np.float32))
    return replace(student_of(model, widths, frontend, optics, phases, card), brightest=brightest), model


def _quantised(
    lessons: Lessons,
    frontend: Frontend,
    widths: Widths,
    domain: Domain,
    epochs: tuple[int, int],
    seed: int,
    rng: np.random.Generator,
    told: Callable[[str, int], Callable[[int, float], None]],
) -> keras.Model:
    """A model with the features and activations of the board, trained in floating point and then so."""
    some = lessons[:1000]
    brightest, dose = lessons.brightest(frontend), np.full(len(some), domain.dose[1] / 3)
    bins = frontend.attenuated(some.counts(dose, rng), frontend.shift_for(dose, brightest))
    divisor = normaliser(lessons, frontend, widths.filter_bits)
    statistics = BinStatistics.of(lessons, frontend, divisor)
    plain = float_model(widths, divisor, statistics, bins, seed)
    tell = told("floating point", epochs[0])

    def after(epoch: int, value: float) -> None:
        recentre(plain, bins)
        tell(epoch, value)

    fit(plain, lessons, frontend, domain, epochs[0], RATES[0], rng, progress=after)
    bends = curvature(plain, Frames.drawn(lessons[:SEEN], frontend, domain, rng))
    filters = rounded(centred_filters(plain), statistics.covariance, widths.filter_bits, bends)
    model = quantised_model(widths, plain, filters, bins)
    fit(model, lessons, frontend, domain, epochs[1], RATES[1], rng, progress=told("quantised", epochs[1]))
    return model
