"""The student by QKeras: with the filters, features and activations of the board, and at last with its weights, too.

Gradients pass straight through the quantisers of features and activations. Weights of dense layers are rounded in the
end, together, as filters are: a training with rounded weights decides upon each of them by itself, and most of what
they lose together is lost.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ..analysis.optics import Optics
from . import rounding
from .float_model import Divide, centred_filters
from .frontend import CORE, Frontend
from .reproducible import keras, qkeras, tf
from .student import OUTPUT_BITS, OUTPUT_FRACTION, Layer, Student
from .widths import Widths

BIAS = 6  #: bits of biases before the point, without the sign
MOST_GAIN = 5  #: powers of two by which a filter's sum is multiplied before it is divided, at most


class Pruned(keras.constraints.Constraint):
    """Keeps weights (inputs, neurons) at zero that were pruned; none at first."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.kept = np.ones(shape, np.float32)

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
    whole = np.round(trained.get_layer("filters").kernel.numpy()[:, -1])
    divisors = np.maximum(bins @ whole, 1)[:, None]
    quotients = bins @ filters / divisors
    # What rounding has done to the features' size and mean, the layer behind makes up for.
    wanted = bins @ centred_filters(trained) / divisors
    slope = ((quotients - quotients.mean(0)) * wanted).mean(0) / np.maximum(quotients.var(0), 1e-9)
    offset = wanted.mean(0) - slope * quotients.mean(0)
    exponents = np.ceil(np.log2(np.quantile(np.abs(quotients), 0.9995, axis=0) + 2.0**-MOST_GAIN)).astype(int)
    scale = max(0, int(exponents.max()))
    gains = np.minimum(scale - exponents, scale + MOST_GAIN)

    before = 1.0
    layers: list[tuple[np.ndarray, np.ndarray]] = []
    for i in range(len(widths.hidden) + 1):
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
        layers.append((w, b))
    return _trainable(np.column_stack([filters, whole]), gains.tolist(), scale, layers, widths)


def trainable_again(student: Student, widths: Widths) -> keras.Model:
    """The QKeras model that starts as a student is, of those widths, with dense weights that are free."""
    return _trainable(student.columns, student.gains, student.scale, dense_weights(model_of(student)), widths)


def _trainable(
    columns: np.ndarray, gains: Sequence[int], scale: int, layers: list[tuple[np.ndarray, np.ndarray]], widths: Widths
) -> keras.Model:
    """Filters in whole numbers, which stay as they are, and dense layers of weights and biases, which are trained."""
    unit = 2.0 ** (1 - widths.filter_bits)
    first = keras.Input((CORE**2,), name="bins")
    x = qkeras.QDense(
        columns.shape[1], use_bias=False, trainable=False, name="filters",
        kernel_quantizer=qkeras.quantized_bits(widths.filter_bits, 0, symmetric=1, alpha=1),
    )(first)  # fmt: skip
    x = Divide(gains, scale, widths.quotient_bits, unit, name="features")(x)
    for i, (w, _) in enumerate(layers):
        x = qkeras.QDense(w.shape[1], kernel_constraint=Pruned(w.shape), name=f"dense{i}")(x)
        if i == len(widths.hidden):
            words = qkeras.quantized_bits(OUTPUT_BITS, OUTPUT_BITS - OUTPUT_FRACTION - 1, alpha=1)
            x = qkeras.QActivation(words, name="words")(x)
        else:
            x = qkeras.QActivation(qkeras.quantized_relu(widths.activation_bits[i], 0), name=f"relu{i}")(x)
    model = keras.Model(first, x)
    model.get_layer("filters").set_weights([columns * unit])
    for i, values in enumerate(layers):
        model.get_layer(f"dense{i}").set_weights(values)
    return model


def dense_weights(model: keras.Model) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (inputs, neurons) and biases (neurons,) of a model's dense layers."""
    layers = [layer for layer in model.layers if re.fullmatch(r"dense\d+", layer.name)]
    return [tuple(values.astype(float) for values in layer.get_weights()) for layer in layers]  # pyright: ignore[reportReturnType]


def prune(model: keras.Model, layers: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Give a model's dense layers other weights and biases; weights that are zero stay so when it is trained on."""
    for i, (weights, bias) in enumerate(layers):
        layer = model.get_layer(f"dense{i}")
        layer.set_weights([weights, bias])
        layer.kernel.constraint.kept = (weights != 0).astype(np.float32)


def settled(model: keras.Model, widths: Widths, weight_bits: list[np.ndarray], bins: np.ndarray) -> keras.Model:
    """The trained QKeras model with weights of so many bits, rounded over what layers read of `bins` (n, CORE²).

    A neuron's weights are in units of a power of two of its own, which costs a board nothing: those in which they err
    least, each by itself, and no smaller than 2^-FINEST. The lowest bit of a bias, half of what sums are counted in, is
    set. `weight_bits` are (neurons,) for each layer.
    """
    all_units = [rounding.units_of(w, bits) for (w, _), bits in zip(dense_weights(model), weight_bits, strict=True)]

    def of_board(layer):
        if not layer.name.startswith("dense"):
            return layer.__class__.from_config(layer.get_config())
        i = int(layer.name.removeprefix("dense"))
        fractions = np.round(-np.log2(all_units[i])).astype(int)
        finest, before = int(fractions.max()), max(0, int((weight_bits[i] - 1 - fractions).max()))
        reads = widths.quotient_bits if i == 0 else widths.activation_bits[i - 1]
        leaving = OUTPUT_FRACTION if i == len(widths.hidden) else widths.activation_bits[i]
        # A bit at least is dropped of each sum: none lies halfway between two words then.
        behind = max(reads + finest, leaving + 1) + 1
        return qkeras.QDense(
            layer.units, kernel_quantizer=qkeras.quantized_bits(1 + before + finest, before, symmetric=1, alpha=1),
            bias_quantizer=qkeras.quantized_bits(behind + BIAS + 1, BIAS, alpha=1), name=layer.name,
        )  # fmt: skip

    out = keras.models.clone_model(model, clone_function=of_board)
    out.set_weights(model.get_weights())
    before = "features"
    for i, bits in enumerate(weight_bits):
        layer = out.get_layer(f"dense{i}")
        w, b = layer.get_weights()
        exact, read = (
            keras.Model(each.input, each.get_layer(before).output)
            .predict(bins, verbose=0, batch_size=500)
            .astype(float)
            for each in (model, out)
        )
        new = rounding.dense(w, read, bits)
        # What each neuron adds up to stays as it was on average.
        b = (exact @ w).mean(0) - (read @ new).mean(0) + b
        unit = _unit(layer.bias_quantizer_internal)
        whole = np.round(layer.bias_quantizer_internal(tf.constant(b, tf.float32)).numpy() / unit).astype(np.int64)
        layer.set_weights([new, (whole | 1) * unit])
        before = f"relu{i}"
    return out


def model_of(student: Student) -> keras.Model:
    """The QKeras model whose whole numbers a student is: of `student_of`, the inverse."""
    unit = 2.0 ** (1 - student.filter_bits)
    first = keras.Input((CORE**2,), name="bins")
    x = qkeras.QDense(
        student.columns.shape[1], use_bias=False, name="filters",
        kernel_quantizer=qkeras.quantized_bits(student.filter_bits, 0, symmetric=1, alpha=1),
    )(first)  # fmt: skip
    x = Divide(student.gains, student.scale, student.quotient_bits, unit, name="features")(x)
    weights: dict[str, list[np.ndarray]] = {"filters": [student.columns * unit]}
    fraction = student.quotient_bits
    for i, layer in enumerate(student.layers):
        finest, behind = layer.weight_fraction, fraction + layer.weight_fraction + 1
        before = max(0, int(np.abs(layer.weights).max()).bit_length() - finest)
        x = qkeras.QDense(
            layer.weights.shape[1],
            kernel_quantizer=qkeras.quantized_bits(1 + before + finest, before, symmetric=1, alpha=1),
            bias_quantizer=qkeras.quantized_bits(behind + BIAS + 1, BIAS, alpha=1), name=f"dense{i}",
        )(x)  # fmt: skip
        if layer.signed:
            words = qkeras.quantized_bits(layer.bits, layer.bits - layer.fraction - 1, alpha=1)
            x = qkeras.QActivation(words, name="words")(x)
        else:
            relu = qkeras.quantized_relu(layer.bits, layer.bits - layer.fraction)
            x = qkeras.QActivation(relu, name=f"relu{i}")(x)
        weights[f"dense{i}"] = [layer.weights * 2.0**-finest, layer.bias * 2.0**-behind]
        fraction = layer.fraction
    model = keras.Model(first, x)
    for name, values in weights.items():
        model.get_layer(name).set_weights(values)
    return model


def _unit(quantiser: qkeras.quantized_bits) -> float:
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
    for i in range(len(widths.hidden) + 1):
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
