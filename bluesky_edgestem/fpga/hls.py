"""The QKeras model as a project of Vitis HLS, by hls4ml, and its emulation in C++.

Every type is chosen so that nothing is lost but what the QKeras model loses: sums are as wide as they can become, and
only activations round and saturate.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from .student import OUTPUT_BITS, OUTPUT_FRACTION, Student

IO_TYPES = ("io_parallel", "io_stream")


@cache
def _register() -> None:
    """Teach hls4ml the layer `float_model.Divide`, by its extension API."""
    import hls4ml
    from hls4ml.backends.template import FunctionCallTemplate, LayerConfigTemplate
    from hls4ml.converters.keras_v2_to_hls import parse_default_keras_layer
    from hls4ml.model.types import FixedPrecisionType

    class Divide(hls4ml.model.layers.Layer):
        def initialize(self) -> None:
            size, bits = self.get_attr("n_out"), self.get_attr("bits")
            precision = FixedPrecisionType(bits + 1, 1)
            self.add_output_variable([size], precision=precision)

    class DivideConfig(LayerConfigTemplate):
        def __init__(self) -> None:
            super().__init__(Divide)

        def format(self, node):
            params = self._default_config_params(node)
            return (
                "struct config{index} : nnet::divide_config {{\n    static const unsigned n_in = {n_in};\n"
                "    static const unsigned n_out = {n_out};\n    static const unsigned bits = {bits};\n"
                "    static const unsigned scale = {scale};\n"
                "    static const unsigned most_gain = {most_gain};\n"
                "    static unsigned gain(unsigned k) {{\n        static const unsigned all[n_out] = {{{gains}}};\n"
                "        return all[k];\n    }}\n}};\n"
            ).format(**params)

    class DivideCall(FunctionCallTemplate):
        def __init__(self) -> None:
            super().__init__(Divide, include_header=["nnet_utils/nnet_divide.h"])

        def format(self, node):
            params = self._default_function_params(node)
            return "nnet::divide<{input_t}, {output_t}, {config}>({input}, {output});".format(**params)

    def parse(keras_layer, input_names, input_shapes, data_reader):
        layer = parse_default_keras_layer(keras_layer, input_names)
        layer["class_name"] = "Divide"
        layer["n_in"], layer["n_out"] = input_shapes[0][1], input_shapes[0][1] - 1
        config = keras_layer["config"]
        layer["bits"], layer["scale"], layer["most_gain"] = config["bits"], config["scale"], max(config["gains"])
        layer["gains"] = ", ".join(map(str, config["gains"]))
        return layer, [None, layer["n_out"]]

    for name in ("Divide", "edgestem>Divide"):
        hls4ml.converters.register_keras_v2_layer_handler(name, parse)
    hls4ml.model.layers.register_layer("Divide", Divide)
    backend = hls4ml.backends.get_backend("Vitis")
    backend.register_template(DivideConfig)
    backend.register_template(DivideCall)
    backend.register_source(Path(str(files("bluesky_edgestem.fpga"))) / "rtl/nnet_divide.h")


def _fixed(bits: int, integers: int, signed: bool = True, rounded: bool = False) -> str:
    modes = ",RND_CONV,SAT" if rounded else ""
    return f"{'' if signed else 'u'}fixed<{bits},{integers}{modes}>"


def _types(student: Student, unit: float) -> dict:
    """hls4ml's names of layers to the types in them; filters' weights are in units of `unit`."""
    bin_bits = student.frontend.bin_bits
    unit_bits = round(-np.log2(unit))
    width = student.largest_sum.bit_length() + 1
    whole = _fixed(width, width - unit_bits)
    types: dict = {
        "bins": {"result": _fixed(bin_bits, bin_bits, signed=False)},
        "filters": {"weight": _fixed(unit_bits + 1, 1), "bias": _fixed(2, 1), "accum": whole, "result": whole},
        "filters_linear": {"result": whole},
        "features": {"result": _fixed(student.quotient_bits + 1, 1)},
    }
    fraction, low, high = student.quotient_bits, -(2**student.quotient_bits), 2**student.quotient_bits - 1
    for i, layer in enumerate(student.layers):
        behind = fraction + layer.weight_fraction + 1
        most = 2 * np.abs(layer.weights).sum(0).max() * max(high, -low) + np.abs(layer.bias).max()
        width = int(most).bit_length() + 1
        sums = _fixed(width, width - behind)
        weight_bits = int(np.abs(layer.weights).max()).bit_length() + 1
        bias_bits = int(np.abs(layer.bias).max()).bit_length() + 1
        types[f"dense{i}"] = {
            "weight": _fixed(weight_bits, weight_bits - layer.weight_fraction),
            "bias": _fixed(bias_bits, bias_bits - behind),
            "accum": sums, "result": sums,
        }  # fmt: skip
        types[f"dense{i}_linear"] = {"result": sums}
        leaving = _fixed(layer.bits, layer.bits - layer.fraction, layer.signed, rounded=True)
        types[f"relu{i}" if i < len(student.layers) - 1 else "words"] = {"result": leaving}
        fraction, low, high = layer.fraction, 0, 2**layer.bits - 1
    return types


class Emulation:
    """An HLS project, compiled by g++.

    Parameters
    ----------
    model : keras.Model
        From `learning.train`.
    student : Student
        Its whole numbers.
    folder : Path
        Of the project.
    io_type : str
        "io_parallel" or "io_stream".
    clock_ns : float
        Clock period that Vitis is to aim at [ns].
    part : str
        Xilinx device.
    """

    def __init__(
        self,
        model,
        student: Student,
        folder: Path,
        io_type: str = "io_parallel",
        clock_ns: float = 10.0,
        part: str = "xcu250-figd2104-2L-e",
    ) -> None:
        import hls4ml

        _register()
        self.student, self.folder = student, Path(folder)
        types = _types(student, model.get_layer("features").unit)
        config = {
            "Model": {"Precision": "fixed<32,16>", "ReuseFactor": 1, "Strategy": "Resource"},
            "LayerName": {name: {"Precision": precision} for name, precision in types.items()},
        }
        # A multiplier for each weight of the filters would be too many: those of eight bins at a time.
        config["LayerName"]["filters"]["ReuseFactor"] = student.filters.shape[0] // 8
        self.model = hls4ml.converters.convert_from_keras_model(
            model, hls_config=config, output_dir=str(self.folder), backend="Vitis", io_type=io_type, part=part,
            clock_period=clock_ns, project_name="student",
        )  # fmt: skip
        self.model.compile()

    def synthesised(self) -> dict:
        """Latency, interval and cells as Vitis HLS reports them, after a synthesis, which takes long.

        Raises
        ------
        RuntimeError
            Vitis HLS fails, or leaves no report.
        """
        try:
            found = self.model.build(reset=True, csim=False, synth=True, cosim=False)
        except Exception as error:  # hls4ml raises no narrower one
            raise RuntimeError(f"Vitis HLS failed in {self.folder}: {error}") from error
        if not found or "CSynthesisReport" not in found:
            raise RuntimeError(f"Vitis HLS left no report of a synthesis in {self.folder}")
        return found["CSynthesisReport"]

    def words(self, bins: np.ndarray) -> np.ndarray:
        """Output words (n, 9) int64 of bins (n, CORE²) from `Frontend`."""
        out = np.asarray(self.model.predict(np.ascontiguousarray(bins, np.float32)), float).reshape(len(bins), -1)
        words = out * 2.0**OUTPUT_FRACTION
        assert np.array_equal(words, np.round(words)) and np.abs(words).max(initial=0) <= 2 ** (OUTPUT_BITS - 1)
        return words.astype(np.int64)
