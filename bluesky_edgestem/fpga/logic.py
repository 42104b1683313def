"""The student as Verilog: its dense layers by `distributed`, around them the modules of ``rtl/``.

From the divider on, one frame at a time moves through registers that step in every clock, digit by digit: a token
counts the clocks since its division began, and tells each layer when to add its digits, and when they were the last.
The next division begins once the result was taken. So nothing but what the pixels go through is ever held back, and
no wire that does so has to reach the layers within a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from . import distributed
from .distributed import Digits
from .frontend import ATTENUATION, CORE
from .student import OUTPUT_BITS, OUTPUTS, Student

MODULES = ("frame_gate.sv", "binner.sv", "adder_tree.sv", "matched_filters.sv", "divider.sv", "rule.sv")
TOP = "inference_board"


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


def write(student: Student, folder: Path, pixels_a_clock: int) -> Stream:
    """Write the Verilog of a student, with the memory of its filters.

    Parameters
    ----------
    student : Student
    folder : Path
        Gets ``*.sv`` and ``weights.hex``.
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
    lanes = max(1, pixels_a_clock // frontend.bin)
    (folder / "weights.hex").write_text(_memory(student, lanes))
    digits = _digits(student)
    for i, (layer, incoming) in enumerate(zip(student.layers, digits, strict=True)):
        fraction = student.quotient_bits if i == 0 else student.layers[i - 1].fraction
        leaving = digits[i + 1].together if i + 1 < len(digits) else 0
        text = distributed.module(f"dense{i}", layer, fraction, incoming, leaving, 2**fraction if i == 0 else 0)
        (folder / f"dense{i}.sv").write_text("`timescale 1ns / 1ps\n" + text)
    (folder / f"{TOP}.sv").write_text(_top(student, digits, pixels_a_clock, lanes))
    return Stream(pixels_a_clock, frontend.pixel_bits, frontend.n_pixels)


def together(layer: int) -> int:
    """Digits that a layer reads in a clock: the first as the divider finds them."""
    return 1 if layer == 0 else 2


def _digits(student: Student) -> list[Digits]:
    """What each layer reads: the first what the divider finds, with the sign."""
    hidden = [layer.bits for layer in student.layers[:-1]]
    return [Digits(bits, together(i)) for i, bits in enumerate([student.quotient_bits + 1, *hidden])]


def _memory(student: Student, lanes: int) -> str:
    """The filters' memory in hexadecimal, a line for each group of bins."""
    columns, weight_bits = student.columns, student.filter_bits
    size = columns.shape[1]
    lines = []
    for group in range(CORE**2 // lanes):
        word = 0
        for lane in range(lanes):
            bin_ = group * lanes + lane
            bits = int(student.frontend.outer[bin_])
            for k in range(size):
                weight = int(columns[bin_, k])
                signed = abs(weight) | (weight < 0) << (weight_bits - 1)
                bits |= signed << (1 + k * weight_bits)
            word |= bits << (lane * (1 + size * weight_bits))
        lines.append(f"{word:x}")
    return "\n".join(lines) + "\n"


def _top(student: Student, digits: list[Digits], pixels_a_clock: int, lanes: int) -> str:
    frontend, size = student.frontend, student.filters.shape[1]
    sum_bits = student.largest_sum.bit_length()
    wide = sum_bits + max(student.scale, *student.gains)
    negative = "{" + ", ".join(f"16'd{n}" for n in (student.columns < 0).sum(0)[::-1]) + "}"
    words = len(OUTPUTS) * OUTPUT_BITS
    last = len(digits) - 1
    stages, began, feeding = [], 1, ""
    for i, (layer, incoming) in enumerate(zip(student.layers, digits, strict=True)):
        rows, columns = layer.weights.shape
        read = rows * incoming.together
        if i == 0:
            feeding = ["quotients"]
        else:
            container = incoming.clocks * incoming.together
            feeding = [
                f"words{i - 1}[{k * container + container - incoming.together} +: {incoming.together}]"
                for k in reversed(range(rows))
            ]
        container = layer.bits if i == last else digits[i + 1].clocks * digits[i + 1].together
        # Digits come from `began` clocks after the division began, and are added a while later.
        ended = began + incoming.clocks - 1 + distributed.DELAY
        during = " || ".join(f"token[{at - 1}]" for at in range(began + distributed.DELAY, ended)) or "1'b0"
        stages += [
            f"  logic [{read - 1}:0] digits{i};",
            f"  assign digits{i} = {{{', '.join(feeding)}}};",
            f"  logic [{columns * container - 1}:0] words{i};",
            f"  dense{i} layer{i} (.clk, .accumulate({during}), .finish(token[{ended - 1}]),",
            f"      .digits(digits{i}), .words(words{i}));",
        ]
        began = ended + 1
    depth = began  # clocks after the one in which the division began, in which a result is there
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
  // A frame that is complete waits in the filters, and holds pixels back, until the result before it was taken.
  logic busy, forward, filtered_done;
  assign forward = !filtered_done || !busy;
  assign s_axis_tready = forward && !rst;

  logic [15:0] row, beat, index;
  logic [1:0] status0, status1, status2;
  logic [31:0] number0, number1, number2;
  logic pixels_valid, bins_valid, done0, done1;
  logic [{lanes * (frontend.bin_bits + ATTENUATION) - 1}:0] binned;
  logic signed [{(size + 1) * (sum_bits + 1) - 1}:0] filtered;  // the last of them is what the others are divided by
  logic signed [{size * (wide + 1) - 1}:0] dividends;
  logic [{wide - 1}:0] normaliser;

  frame_gate #(.PPC({pixels_a_clock}), .SIDE({frontend.n_pixels})) gate (
      .clk, .rst, .en(forward), .tvalid(s_axis_tvalid), .tlast(s_axis_tlast),
      .valid(pixels_valid), .row, .beat, .done(done0), .status(status0), .number(number0));

  binner #(.PPC({pixels_a_clock}), .PIXEL_BITS({frontend.pixel_bits}), .BIN({frontend.bin}),
      .ROW({frontend.margin}), .COLUMN({frontend.margin}), .CORE({CORE}),
      .BIN_BITS({frontend.bin_bits + ATTENUATION})) binning (
      .clk, .rst, .en(forward), .shift, .pixels(s_axis_tdata), .valid(pixels_valid), .row, .beat, .done(done0),
      .status(status0), .number(number0), .binned, .bins_valid, .index, .out_done(done1),
      .out_status(status1), .out_number(number1));

  matched_filters #(.LANES({lanes}), .BIN_BITS({frontend.bin_bits}), .FILTERS({size + 1}),
      .WEIGHT_BITS({student.filter_bits}), .ATTENUATION({ATTENUATION}), .GROUPS({CORE**2 // lanes}),
      .SUM_BITS({sum_bits}), .NEGATIVE({negative})) filters (
      .clk, .rst, .en(forward), .binned, .valid(bins_valid), .index, .done(done1), .status(status1), .number(number1),
      .filtered, .out_done(filtered_done), .out_status(status2), .out_number(number2));

  // Not positive, it counts as none.
  assign normaliser = filtered[{(size + 1) * (sum_bits + 1) - 1}] ? '0
      : {wide}'(filtered[{size * (sum_bits + 1)}+:{sum_bits}]) << {student.scale};
{new_line.join(gained)}

  logic start;
  assign start = filtered_done && !busy;

  logic [{size - 1}:0] quotients;
  divider #(.FILTERS({size}), .SUM_BITS({wide})) division (
      .clk, .start, .filtered(dividends), .normaliser, .digits(quotients));

{new_line.join(stages)}

  logic [{depth - 2}:0] token;
  logic [1:0] status;
  logic [31:0] number;
  // The rule that is set when a frame has come through the filters is that of its result, however long it waits.
  logic enabled, inside_holds;
  logic [3:0] selected;
  logic signed [{OUTPUT_BITS - 1}:0] low, high, most_log_sd;
  always_ff @(posedge clk) begin
    if (rst) begin
      {{token, busy, m_axis_tvalid}} <= 0;
    end else begin
      token <= {depth - 1}'({{token, start}});
      m_axis_tvalid <= token[{depth - 2}] || (m_axis_tvalid && !m_axis_tready);
      busy <= start || (busy && !(m_axis_tvalid && m_axis_tready));
    end
    if (start) begin
      status <= status2 != 0 ? status2 : normaliser == 0 ? 2'd3 : 2'd0;
      number <= number2;
      {{enabled, inside_holds, selected}} <= {{rule_enabled, rule_inside, rule_selected}};
      {{low, high, most_log_sd}} <= {{rule_low, rule_high, rule_most_log_sd}};
    end
  end

  // A frame that was not whole has no words.
  logic holds;
  rule #(.WORDS({len(OUTPUTS)}), .BITS({OUTPUT_BITS}), .LOG_SD({OUTPUTS.index("log_sd")})) edge_rule (
      .enabled, .holds_inside(inside_holds), .selected, .low, .high, .most_log_sd, .words(words{last}), .status,
      .holds);
  assign m_axis_tdata = {{5'd0, holds, status, number,
      status == 1 || status == 2 ? {words}'d0 : words{last}}};
endmodule
"""
