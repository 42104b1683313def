"""The student as Verilog: its dense layers as adders by alkaid, around them the modules of ``rtl/``.

Every weight of a dense layer is a constant: a product with it is a few shifted additions, which a layer's outputs
share. There are `STAGES` registers in each layer.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np
from alkaid.codegen.rtl.verilog.comb import comb_logic_gen
from alkaid.trace import FVArray, to_pipeline, trace
from alkaid.types import CombLogic

from .frontend import ATTENUATION, CORE
from .student import OUTPUT_BITS, OUTPUTS, Layer, Student

MODULES = ("frame_gate.sv", "binner.sv", "matched_filters.sv", "divider.sv", "rule.sv")
ADDERS = ("shift_adder.v", "negative.v", "mux.v", "binop.v", "multiplier.v", "ternary_adder.v")
TOP = "inference_board"
STAGES = 3


@dataclass(frozen=True)
class Stream:
    """The streams of a board: what is on the wires, for whoever drives them."""

    pixels_a_clock: int
    pixel_bits: int
    n_pixels: int
    top: str = TOP

    @property
    def beats(self) -> int:
        """Of a frame."""
        return self.n_pixels**2 // self.pixels_a_clock

    @property
    def result_bits(self) -> int:
        """Of a result: output words from the low end, then 32 bits of the frame's number, then 8 of its status."""
        return len(OUTPUTS) * OUTPUT_BITS + 40


def combinational(layer: Layer, low: np.ndarray, high: np.ndarray, fraction: int) -> CombLogic:
    """A dense layer, from inputs between `low` and `high` (n,) whole numbers in units of 2^-fraction."""
    step = np.full(len(low), 2.0**-fraction)
    x = FVArray.from_lhs(low * step, high * step, step)
    sums = x @ (layer.weights / 2.0**layer.weight_fraction)
    sums = sums + layer.bias / 2.0 ** (fraction + layer.weight_fraction)
    k = int(layer.signed)
    integers = layer.bits - layer.fraction - k
    return trace(x, _rounded(sums, k, integers, layer.fraction), keep_dead_inputs=True)


def _rounded(sums: FVArray, k: int, integers: int, fraction: int) -> FVArray:
    shape = np.ones(sums.shape, int)
    return sums.quantize(shape * k, shape * integers, shape * fraction, overflow_mode="SAT", round_mode="RND_CONV")


def dense_layers(student: Student) -> list[CombLogic]:
    """The dense layers, each from what leaves the one before."""
    most = 2**student.quotient_bits - 1
    size = student.filters.shape[1]
    low, high, fraction = np.full(size, -most), np.full(size, most), student.quotient_bits
    layers = []
    for layer in student.layers:
        layers.append(combinational(layer, low, high, fraction))
        fraction, size = layer.fraction, layer.weights.shape[1]
        low, high = np.zeros(size), np.full(size, 2**layer.bits - 1)
    return layers


def tail(layers: list[CombLogic], student: Student, features: np.ndarray, threads: int = 1) -> np.ndarray:
    """Output words (n, 9) int64 of features (n, filters) int64, by the adders in alkaid's interpreter."""
    values = np.asarray(features, float) / 2.0**student.quotient_bits
    for logic in layers:
        values = logic.predict(np.ascontiguousarray(values), n_threads=threads)
    return np.rint(values * 2.0 ** student.layers[-1].fraction).astype(np.int64)


def write(student: Student, folder: Path, pixels_a_clock: int) -> Stream:
    """Write the Verilog of a student, with the memory of its filters.

    Parameters
    ----------
    student : Student
    folder : Path
        Gets ``*.sv``, ``*.v`` and ``weights.hex``.
    pixels_a_clock : int
        1, 8 or 16.

    Raises
    ------
    ValueError
        If frames do not divide into beats of so many pixels.
    """
    frontend = student.frontend
    frontend.check_beats(pixels_a_clock)
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODULES:
        (folder / name).write_text(files("bluesky_edgestem.fpga").joinpath("rtl", name).read_text())
    adders = Path(str(files("alkaid.codegen.rtl"))) / "verilog/source"
    for name in ADDERS:
        shutil.copy(adders / name, folder / name)
    lanes = max(1, pixels_a_clock // frontend.bin)
    weight_bits = int(np.ceil(np.log2(np.abs(student.columns).max() + 1))) + 1
    (folder / "weights.hex").write_text(_memory(student, lanes, weight_bits))
    layers = dense_layers(student)
    for i, logic in enumerate(layers):
        modules = [comb_logic_gen(part, f"dense{i}_adders{n}") for n, part in enumerate(_parts(logic))]
        (folder / f"dense{i}.v").write_text("`timescale 1ns / 1ps\n" + "".join(modules))
    (folder / f"{TOP}.sv").write_text(_top(student, layers, pixels_a_clock, lanes, weight_bits))
    return Stream(pixels_a_clock, frontend.pixel_bits, frontend.n_pixels)


def _memory(student: Student, lanes: int, weight_bits: int) -> str:
    """The filters' memory in hexadecimal, a line for each group of bins."""
    columns = student.columns
    size = columns.shape[1]
    lines = []
    for group in range(CORE**2 // lanes):
        word = 0
        for lane in range(lanes):
            bin_ = group * lanes + lane
            bits = int(student.frontend.outer[bin_])
            for k in range(size):
                bits |= (int(columns[bin_, k]) & (2**weight_bits - 1)) << (1 + k * weight_bits)
            word |= bits << (lane * (1 + size * weight_bits))
        lines.append(f"{word:x}")
    return "\n".join(lines) + "\n"


def _parts(logic: CombLogic) -> list[CombLogic]:
    """A dense layer cut where the signal is so far through it, to put registers there."""
    cut = to_pipeline(logic, n_stages=STAGES, verbose=False, reg_inp=False, reg_out=False)
    if len(cut.logic) < STAGES:
        raise ValueError("a dense layer of this student adds nothing up: it learned nothing; train it for longer")
    return [cut.logic[f"logic{n}"] for n in range(STAGES)]


def _bits(kifs: np.ndarray) -> list[tuple[int, int, bool, int]]:
    """Where each number of a packed vector begins, its bits, whether it is signed, and its bits behind the point."""
    sizes = kifs.sum(0).astype(int)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return [(int(a), int(n), bool(k), int(f)) for a, n, k, f in zip(starts, sizes, kifs[0], kifs[2], strict=True)]


def _layer(student: Student, logic: CombLogic, i: int) -> str:
    """A dense layer with its registers: words of one width in, words of another out."""
    layer, parts = student.layers[i], _parts(logic)
    into = student.quotient_bits + 1 if i == 0 else student.layers[i - 1].bits
    rows, columns = layer.weights.shape
    lines = []
    for n, (before, after) in enumerate(pairwise(parts)):
        assert np.array_equal(before.out_kifs, after.inp_kifs), "alkaid hands on what it does not take"
        width = int(before.out_kifs.sum())
        lines += [
            f"  logic [{width - 1}:0] leaving{n}, entering{n + 1};",
            f"  always_ff @(posedge clk) if (en) entering{n + 1} <= leaving{n};",
        ]
    last = STAGES - 1
    lines += [
        f"  logic [{int(parts[0].inp_kifs.sum()) - 1}:0] entering0;",
        f"  logic [{int(parts[last].out_kifs.sum()) - 1}:0] leaving{last};",
        f"  logic [{columns * layer.bits - 1}:0] result;",
        *(f"  dense{i}_adders{n} adders{n} (.model_inp(entering{n}), .model_out(leaving{n}));" for n in range(STAGES)),
    ]
    lines += [
        f"  assign entering0[{at} +: {bits}] = words_in[{j * into} +: {bits}];"
        for j, (at, bits, _, _) in enumerate(_bits(parts[0].inp_kifs))
        if bits
    ]
    for j, (at, bits, signed, fraction) in enumerate(_bits(parts[last].out_kifs)):
        # What leaves may have fewer bits than its word, at either end.
        source = f"leaving{last}[{at} +: {bits}]"
        value = "'0" if not bits else f"{layer.bits}'($signed({source}))" if signed else f"{layer.bits}'({source})"
        lines.append(f"  assign result[{j * layer.bits} +: {layer.bits}] = {value} << {layer.fraction - fraction};")
    body = "\n".join(lines)
    return f"""
module dense{i} (
    input logic clk,
    input logic en,
    input logic [{rows * into - 1}:0] words_in,
    output logic [{columns * layer.bits - 1}:0] words_out
);
{body}
  always_ff @(posedge clk) if (en) words_out <= result;
endmodule
"""


def _top(student: Student, layers: list[CombLogic], pixels_a_clock: int, lanes: int, weight_bits: int) -> str:
    frontend, size = student.frontend, student.filters.shape[1]
    sum_bits = student.largest_sum.bit_length()
    wide = sum_bits + max(student.scale, *student.gains)
    words = len(OUTPUTS) * OUTPUT_BITS
    depth, last = STAGES * len(layers), len(layers) - 1
    wires, stages = [], []
    feeding = "quotients"
    for i, layer in enumerate(student.layers):
        wires.append(f"  logic [{layer.weights.shape[1] * layer.bits - 1}:0] words{i};")
        stages.append(f"  dense{i} layer{i} (.clk, .en(go), .words_in({feeding}), .words_out(words{i}));")
        feeding = f"words{i}"
    gained = [
        f"  assign dividends[{k * (wide + 1)}+:{wide + 1}] = "
        f"{wide + 1}'($signed(filtered[{k * (sum_bits + 1)}+:{sum_bits + 1}])) << {gain};"
        for k, gain in enumerate(student.gains)
    ]
    new_line = "\n"
    return f"""`timescale 1ns / 1ps
`default_nettype none
// Written by bluesky_edgestem of student {student.hash}: frames of {frontend.n_pixels} x {frontend.n_pixels} pixels of
// {frontend.pixel_bits} bits, {pixels_a_clock} a clock, to results of {words} bits, a frame number and a status.
{"".join(_layer(student, logic, i) for i, logic in enumerate(layers))}
module {TOP} (
    input logic clk,
    input logic rst,
    input logic [2:0] shift,  // bins are divided by two to the power of it; steady while frames arrive
    input logic rule_enabled,  // bit 2 of a result's status: whether the rule holds for it
    input logic rule_inside,
    input logic [3:0] rule_selected,
    input logic signed [{OUTPUT_BITS - 1}:0] rule_low,
    input logic signed [{OUTPUT_BITS - 1}:0] rule_high,
    input logic signed [{OUTPUT_BITS - 1}:0] rule_most_log_sd,
    input logic [{pixels_a_clock * frontend.pixel_bits - 1}:0] s_axis_tdata,
    input logic s_axis_tvalid,
    input logic s_axis_tlast,
    output logic s_axis_tready,
    output logic [{words + 40 - 1}:0] m_axis_tdata,
    output logic m_axis_tvalid,
    input logic m_axis_tready
);
  // Results that nobody takes hold everything back, as far as there is something to hold.
  logic go, forward, filtered_done, divider_ready, divider_valid, empty;
  assign s_axis_tready = forward && !rst;

  logic [15:0] row, beat, index;
  logic [1:0] status0, status1, status2;
  logic [31:0] number0, number1, number2;
  logic pixels_valid, bins_valid, done0, done1;
  logic [{lanes * (frontend.bin_bits + ATTENUATION) - 1}:0] binned;
  logic signed [{(size + 1) * (sum_bits + 1) - 1}:0] filtered;  // the last of them is what the others are divided by
  logic signed [{size * (wide + 1) - 1}:0] dividends;
  logic [{wide - 1}:0] normaliser;
  logic [{size * (student.quotient_bits + 1) - 1}:0] quotients;

  frame_gate #(.PPC({pixels_a_clock}), .SIDE({frontend.n_pixels})) gate (
      .clk, .rst, .en(forward), .tvalid(s_axis_tvalid), .tlast(s_axis_tlast),
      .valid(pixels_valid), .row, .beat, .done(done0), .status(status0), .number(number0));

  binner #(.PPC({pixels_a_clock}), .PIXEL_BITS({frontend.pixel_bits}), .BIN({frontend.bin}),
      .ROW({frontend.margin}), .COLUMN({frontend.margin}), .CORE({CORE}),
      .BIN_BITS({frontend.bin_bits + ATTENUATION})) binning (
      .clk, .rst, .en(forward), .shift, .pixels(s_axis_tdata), .valid(pixels_valid), .row, .beat, .done(done0),
      .status(status0), .number(number0), .binned, .bins_valid, .index, .out_done(done1),
      .out_status(status1), .out_number(number1));

  matched_filters #(.LANES({lanes}), .BIN_BITS({frontend.bin_bits}), .FILTERS({size + 1}), .WEIGHT_BITS({weight_bits}),
      .ATTENUATION({ATTENUATION}), .GROUPS({CORE**2 // lanes}), .SUM_BITS({sum_bits})) filters (
      .clk, .rst, .en(forward), .binned, .valid(bins_valid), .index, .done(done1), .status(status1), .number(number1),
      .filtered, .out_done(filtered_done), .out_status(status2), .out_number(number2));

  // Not positive, it counts as none.
  assign normaliser = filtered[{(size + 1) * (sum_bits + 1) - 1}] ? '0
      : {wide}'(filtered[{size * (sum_bits + 1)}+:{sum_bits}]) << {student.scale};
{new_line.join(gained)}

  // A frame that is complete waits here until the divider is free.
  assign forward = !filtered_done || divider_ready;
  logic start;
  assign start = filtered_done && divider_ready;
  logic [1:0] divider_status;
  logic [31:0] divider_number;
  always_ff @(posedge clk) if (start) {{divider_status, divider_number}} <= {{status2, number2}};

  divider #(.FILTERS({size}), .SUM_BITS({wide}), .QUOTIENT_BITS({student.quotient_bits})) division (
      .clk, .rst, .filtered(dividends), .normaliser, .start, .ready(divider_ready),
      .taken(go), .valid(divider_valid), .empty, .quotients);

  // The dense layers move on together while their last result is taken, or there is none.
{new_line.join(wires)}
  logic [{depth - 1}:0] full;
  logic [1:0] status[{depth}];
  logic [31:0] number[{depth}];
  assign go = !full[{depth - 1}] || m_axis_tready;
{new_line.join(stages)}
  always_ff @(posedge clk) begin
    if (rst) begin
      full <= 0;
    end else if (go) begin
      full <= {depth}'({{full, divider_valid}});
      status[0] <= divider_status != 0 ? divider_status : empty ? 2'd3 : 2'd0;
      number[0] <= divider_number;
      for (int i = 1; i < {depth}; i++) begin
        status[i] <= status[i-1];
        number[i] <= number[i-1];
      end
    end
  end

  // A frame that was not whole has no words.
  logic [1:0] last_status;
  assign last_status = status[{depth - 1}];
  assign m_axis_tvalid = full[{depth - 1}];
  logic holds;
  rule #(.WORDS({len(OUTPUTS)}), .BITS({OUTPUT_BITS}), .LOG_SD({OUTPUTS.index("log_sd")})) edge_rule (
      .enabled(rule_enabled), .holds_inside(rule_inside), .selected(rule_selected), .low(rule_low), .high(rule_high),
      .most_log_sd(rule_most_log_sd), .words(words{last}), .status(last_status), .holds);
  assign m_axis_tdata = {{5'd0, holds, last_status, number[{depth - 1}],
      last_status == 1 || last_status == 2 ? {words}'d0 : words{last}}};
endmodule
"""
