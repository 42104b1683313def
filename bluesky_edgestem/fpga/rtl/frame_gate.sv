// Counts the beats of an AXI stream: where in the frame the present one is, and how the frame ended.
//
// A frame ends with tlast. Exactly one token leaves for each, when it ends: `done`, with the frame's number, counted from
// reset, and how it was: 0 whole, 1 too short, 2 too long. Beats beyond the last pixel are swallowed.
module frame_gate #(
    parameter int PPC = 8,  // pixels a clock
    parameter int SIDE = 48  // pixels along each side of the frame
) (
    input logic clk,
    input logic rst,
    input logic en,
    input logic tvalid,
    input logic tlast,
    output logic valid,  // the beat is of the frame, at `row` and beat `beat` of it
    output logic [15:0] row,
    output logic [15:0] beat,
    output logic done,
    output logic [1:0] status,
    output logic [31:0] number
);
  localparam int BEATS = SIDE / PPC;  // of a row

  logic full, ends;
  assign ends = row == SIDE - 1 && beat == BEATS - 1;
  assign valid = tvalid && !full;
  assign done = tvalid && tlast;
  assign status = full ? 2'd2 : ends ? 2'd0 : 2'd1;

  always_ff @(posedge clk) begin
    if (rst) begin
      full <= 0;
      row <= 0;
      beat <= 0;
      number <= 0;
    end else if (en && tvalid) begin
      if (tlast) begin
        row <= 0;
        beat <= 0;
        full <= 0;
        number <= number + 1;
      end else if (ends) begin
        full <= 1;
      end else if (beat == BEATS - 1) begin
        beat <= 0;
        row <= row + 1;
      end else begin
        beat <= beat + 1;
      end
    end
  end
endmodule
