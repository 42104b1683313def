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
    input logic [15:0] index,
    input logic done,
    input logic [1:0] status,
    input logic [31:0] number,
    output logic signed [FILTERS*(SUM_BITS+1)-1:0] filtered,
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

  // First and second clock: the weights are read, and leave the memory's own register.
  logic [LANES*LANE_BITS-1:0] read, word;
  logic [LANES*WIDE-1:0] binned1, binned2;
  logic valid1, first1, done1, valid2, first2, done2, valid3, first3, done3;
  logic [1:0] status1, status2, status3;
  logic [31:0] number1, number2, number3;
  always_ff @(posedge clk)
    if (en) begin
      read <= weights[$clog2(GROUPS)'(index)];
      word <= read;
    end

  // Third clock: of the multiples of a bin, made once, each filter takes one or its complement, and adds up over the lanes.
  // A complement is one less than the negative: sums begin with as much as that makes in a frame.
  localparam int MULTIPLES = 1 << (WEIGHT_BITS - 1);
  logic [BIN_BITS-1:0] weighed[LANES];
  logic [TERM_BITS-2:0] multiple[LANES*MULTIPLES];
  logic [LANES*TERM_BITS-1:0] terms[FILTERS];
  logic signed [BEAT_BITS-1:0] total[FILTERS], beat_sum[FILTERS];
  always_comb begin
    for (int lane = 0; lane < LANES; lane++) begin
      // What leaves the incident beam's bins cannot be too large; what leaves the others saturates.
      weighed[lane] = !word[lane*LANE_BITS] ? binned2[lane*WIDE+ATTENUATION+:BIN_BITS]
          : |binned2[lane*WIDE+BIN_BITS+:ATTENUATION] ? '1 : binned2[lane*WIDE+:BIN_BITS];
      multiple[lane*MULTIPLES] = '0;
      for (int m = 1; m < MULTIPLES; m++)  // without any product, for which synthesis would take multipliers
        multiple[lane*MULTIPLES+m] = multiple[lane*MULTIPLES+m-1] + (TERM_BITS - 1)'(weighed[lane]);
    end
    for (int k = 0; k < FILTERS; k++)
      for (int lane = 0; lane < LANES; lane++)
        terms[k][lane*TERM_BITS+:TERM_BITS] =
            {1'b0, multiple[lane*MULTIPLES+32'(word[lane*LANE_BITS+1+k*WEIGHT_BITS+:WEIGHT_BITS-1])]}
            ^ {TERM_BITS{word[lane*LANE_BITS+WEIGHT_BITS+k*WEIGHT_BITS]}};
  end
  for (genvar k = 0; k < FILTERS; k++) begin : filter
    adder_tree #(.N(LANES), .BITS(TERM_BITS)) adding (.terms(terms[k]), .total(total[k]));
  end
  always_ff @(posedge clk) if (en) for (int k = 0; k < FILTERS; k++) beat_sum[k] <= total[k];

  // Fourth clock: the sums of lanes are added to those before.
  always_ff @(posedge clk) begin
    if (rst) begin
      {valid1, valid2, valid3, done1, done2, done3, out_done} <= 0;
    end else if (en) begin
      binned1 <= binned;
      binned2 <= binned1;
      {valid1, first1, done1, status1, number1} <= {valid, index == 0, done, status, number};
      {valid2, first2, done2, status2, number2} <= {valid1, first1, done1, status1, number1};
      {valid3, first3, done3, status3, number3} <= {valid2, first2, done2, status2, number2};
      {out_done, out_status, out_number} <= {done3, status3, number3};
      if (valid3)
        for (int k = 0; k < FILTERS; k++)
          filtered[k*(SUM_BITS+1)+:SUM_BITS+1] <=
              (first3 ? (SUM_BITS + 1)'(NEGATIVE[k*16+:16]) : filtered[k*(SUM_BITS+1)+:SUM_BITS+1])
              + (SUM_BITS + 1)'(beat_sum[k]);
    end
  end
endmodule
