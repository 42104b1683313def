// Weighs every bin of a frame by FILTERS filters while the bins arrive, and adds up.
//
// The memory `weights` has a word for each group of LANES bins: of each lane first one bit, whether the bin is outside of
// the incident beam (those inside are divided by 2^ATTENUATION), then the filters' weights, each with its sign before its
// size. Bins arrive with ATTENUATION bits more than BIN_BITS, of which those of the incident beam make use.
module matched_filters #(
    parameter int LANES = 8,
    parameter int BIN_BITS = 8,
    parameter int FILTERS = 32,
    parameter int WEIGHT_BITS = 3,
    parameter int ATTENUATION = 7,
    parameter int GROUPS = 288,  // of a frame
    parameter int SUM_BITS = 20,
    parameter logic [FILTERS*16-1:0] NEGATIVE = '0,  // each filter's weights of a frame that are below zero
    parameter WEIGHTS = "weights.hex"
) (
    input logic clk,
    input logic rst,
    input logic en,
    input logic [LANES*(BIN_BITS+ATTENUATION)-1:0] binned,
    input logic valid,
    input logic [15:0] index,  // of the group of bins that comes in the next clock
    input logic done,
    input logic [1:0] status,
    input logic [31:0] number,
    output logic signed [FILTERS*(SUM_BITS+1)-1:0] filtered,  // with `out_done`, those of a frame
    output logic out_done,
    output logic [1:0] out_status,
    output logic [31:0] out_number
);
  localparam int WIDE = BIN_BITS + ATTENUATION;
  localparam int LANE_BITS = 1 + FILTERS * WEIGHT_BITS;
  localparam int TERM_BITS = BIN_BITS + WEIGHT_BITS;  // of a bin by a weight, with a sign
  localparam int BEAT_BITS = TERM_BITS + $clog2(LANES);

  (* rom_style = "block", ram_style = "block" *)
  logic [LANES*LANE_BITS-1:0] weights[GROUPS];
  initial $readmemh(WEIGHTS, weights);

  // While a group of bins leaves the binner, its weights are read.
  logic [LANES*LANE_BITS-1:0] read, word;
  logic first, first1, valid1, done1, first2, done2;
  logic [1:0] status1, status2;
  logic [31:0] number1, number2;
  always_ff @(posedge clk)
    if (en) begin
      read <= weights[$clog2(GROUPS)'(index)];
      word <= read;
      first <= index == 0;
    end

  // First clock: multiples of a bin are made, once for all filters.
  localparam int MULTIPLES = 1 << (WEIGHT_BITS - 1);
  logic [BIN_BITS-1:0] weighed[LANES];
  logic [TERM_BITS-2:0] multiple[LANES*MULTIPLES], multiple1[LANES*MULTIPLES];
  always_comb
    for (int lane = 0; lane < LANES; lane++) begin
      // What leaves the incident beam's bins cannot be too large; what leaves the others saturates.
      weighed[lane] = !read[lane*LANE_BITS] ? binned[lane*WIDE+ATTENUATION+:BIN_BITS]
          : |binned[lane*WIDE+BIN_BITS+:ATTENUATION] ? '1 : binned[lane*WIDE+:BIN_BITS];
      multiple[lane*MULTIPLES] = '0;
      for (int m = 1; m < MULTIPLES; m++)  // without any product, for which synthesis would take multipliers
        multiple[lane*MULTIPLES+m] = multiple[lane*MULTIPLES+m-1] + (TERM_BITS - 1)'(weighed[lane]);
    end
  always_ff @(posedge clk) if (en) for (int i = 0; i < LANES * MULTIPLES; i++) multiple1[i] <= multiple[i];

  // Second clock: each filter takes one of them or its complement, and adds up over the lanes. A complement is one less
  // than the negative: sums begin with as much as that makes in a frame.
  logic [LANES*TERM_BITS-1:0] terms[FILTERS];
  logic signed [BEAT_BITS-1:0] total[FILTERS], beat_sum[FILTERS];
  always_comb
    for (int k = 0; k < FILTERS; k++)
      for (int lane = 0; lane < LANES; lane++)
        terms[k][lane*TERM_BITS+:TERM_BITS] =
            {1'b0, multiple1[lane*MULTIPLES+32'(word[lane*LANE_BITS+1+k*WEIGHT_BITS+:WEIGHT_BITS-1])]}
            ^ {TERM_BITS{word[lane*LANE_BITS+WEIGHT_BITS+k*WEIGHT_BITS]}};
  for (genvar k = 0; k < FILTERS; k++) begin : filter
    adder_tree #(.N(LANES), .BITS(TERM_BITS)) adding (.terms(terms[k]), .total(total[k]));
  end
  always_ff @(posedge clk) if (en) for (int k = 0; k < FILTERS; k++) beat_sum[k] <= valid1 ? total[k] : '0;

  // Third clock: the sums of lanes are added to those before; what leaves is the sum before it is kept.
  logic [FILTERS*(SUM_BITS+1)-1:0] sums;
  always_comb
    for (int k = 0; k < FILTERS; k++)
      filtered[k*(SUM_BITS+1)+:SUM_BITS+1] =
          (first2 ? (SUM_BITS + 1)'(NEGATIVE[k*16+:16]) : sums[k*(SUM_BITS+1)+:SUM_BITS+1])
          + (SUM_BITS + 1)'(beat_sum[k]);
  assign {out_done, out_status, out_number} = {done2, status2, number2};
  always_ff @(posedge clk) begin
    if (rst) begin
      {valid1, done1, first2, done2} <= 0;
    end else if (en) begin
      {valid1, first1, done1, status1, number1} <= {valid, first, done, status, number};
      {first2, done2, status2, number2} <= {valid1 && first1, done1, status1, number1};
      sums <= filtered;
    end
  end
endmodule
