// Crops a frame and adds BIN x BIN pixels into one, on the fly; sums are divided by 2^shift, and saturate.
//
// LANES bins leave together, in reading order; `index` counts such groups from the frame's first, and is there a clock
// before the group, for a memory to be read meanwhile.
module binner #(
    parameter int PPC = 8,
    parameter int PIXEL_BITS = 8,
    parameter int BIN = 1,
    parameter int ROW = 0,  // of the crop's first pixel
    parameter int COLUMN = 0,  // a multiple of PPC
    parameter int CORE = 48,  // bins along each side
    parameter int BIN_BITS = 8,
    parameter int LANES = PPC >= BIN ? PPC / BIN : 1
) (
    input logic clk,
    input logic rst,
    input logic en,
    input logic [2:0] shift,
    input logic [PPC*PIXEL_BITS-1:0] pixels,
    input logic valid,
    input logic [15:0] row,
    input logic [15:0] beat,
    input logic done,
    input logic [1:0] status,
    input logic [31:0] number,
    output logic [LANES*BIN_BITS-1:0] binned,
    output logic bins_valid,
    output logic [15:0] index,  // of the group that leaves in the next clock, if one does
    output logic out_done,
    output logic [1:0] out_status,
    output logic [31:0] out_number
);
  localparam int TOGETHER = PPC >= BIN ? BIN : PPC;  // pixels of a bin in one beat
  localparam int BEATS = BIN / TOGETHER;  // that a bin of one row takes
  localparam int GROUPS = CORE / LANES;  // of a row of bins
  localparam int SUM_BITS = PIXEL_BITS + 2 * $clog2(BIN);
  localparam int MOST = (1 << BIN_BITS) - 1;

  logic [15:0] along, down, group;
  logic kept, complete, leaves;
  assign along = beat - COLUMN / PPC;
  assign down = row - ROW;
  assign group = along / BEATS;
  assign kept = valid && row >= ROW && down < CORE * BIN && beat >= COLUMN / PPC && along < GROUPS * BEATS;
  assign complete = along % BEATS == BEATS - 1;
  assign leaves = kept && complete && down % BIN == BIN - 1;

  logic [15:0] following;
  assign index = down == BIN - 1 && group == 0 ? 0 : following;

  logic [SUM_BITS-1:0] partial[LANES];  // of the row's bins so far
  logic [SUM_BITS-1:0] above[LANES * GROUPS];  // of the rows before
  logic [SUM_BITS-1:0] across[LANES];
  logic [SUM_BITS-1:0] total[LANES], shifted[LANES];

  always_comb begin
    for (int lane = 0; lane < LANES; lane++) begin
      across[lane] = (BEATS == 1 || along % BEATS == 0) ? '0 : partial[lane];
      for (int i = 0; i < TOGETHER; i++)
        across[lane] = across[lane] + SUM_BITS'(pixels[(lane*TOGETHER+i)*PIXEL_BITS+:PIXEL_BITS]);
      total[lane] = across[lane];
      if (BIN > 1 && down % BIN != 0) total[lane] = total[lane] + above[lane*GROUPS+32'(group)];
      shifted[lane] = total[lane] >> shift;
    end
  end

  always_ff @(posedge clk) begin
    if (rst) begin
      bins_valid <= 0;
      out_done <= 0;
    end else if (en) begin
      bins_valid <= leaves;
      if (leaves) following <= index + 1;
      out_done <= done;
      out_status <= status;
      out_number <= number;
      for (int lane = 0; lane < LANES; lane++) begin
        if (kept && BEATS > 1) partial[lane] <= across[lane];
        if (kept && complete && BIN > 1) above[lane*GROUPS+32'(group)] <= total[lane];
        binned[lane*BIN_BITS+:BIN_BITS] <= shifted[lane] > SUM_BITS'(MOST) ? BIN_BITS'(MOST) : BIN_BITS'(shifted[lane]);
      end
    end
  end
endmodule
