// Weighs every bin of a frame by FILTERS filters while the bins arrive, and adds up.
//
// The memory `weights` has a word for each group of LANES bins: of each lane first one bit, whether the bin is outside of
// the incident beam (those inside are divided by 2^ATTENUATION), then the filters' weights. Bins arrive with ATTENUATION
// bits more than BIN_BITS, of which those of the incident beam make use.
module matched_filters #(
    parameter int LANES = 8,
    parameter int BIN_BITS = 8,
    parameter int FILTERS = 32,
    parameter int WEIGHT_BITS = 3,
    parameter int ATTENUATION = 7,
    parameter int GROUPS = 288,  // of a frame
    parameter int SUM_BITS = 20,
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
  localparam int TOTAL_BITS = SUM_BITS + 1;  // with a sign
  localparam int DIGIT_BITS = BIN_BITS + $clog2(LANES);

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

  // Third clock: one digit of the weights after the other, the bins that have it are added over the lanes, in pairs and
  // pairs of pairs; without any product. The sum of a pair is the same for all digits: each only chooses.
  localparam int PAIRS = (LANES + 1) / 2;
  logic [BIN_BITS-1:0] weighed[2*PAIRS];
  logic [BIN_BITS:0] both[PAIRS];
  logic [DIGIT_BITS-1:0] tree[FILTERS*WEIGHT_BITS*PAIRS];
  logic [DIGIT_BITS-1:0] sums[FILTERS*WEIGHT_BITS];
  always_comb begin
    weighed[2*PAIRS-1] = '0;  // where there is but one lane
    for (int lane = 0; lane < LANES; lane++)
      // What leaves the incident beam's bins cannot be too large; what leaves the others saturates.
      weighed[lane] = !word[lane*LANE_BITS] ? binned2[lane*WIDE+ATTENUATION+:BIN_BITS]
          : |binned2[lane*WIDE+BIN_BITS+:ATTENUATION] ? '1 : binned2[lane*WIDE+:BIN_BITS];
    for (int pair = 0; pair < PAIRS; pair++) both[pair] = weighed[2*pair] + weighed[2*pair+1];
    for (int digit = 0; digit < FILTERS * WEIGHT_BITS; digit++) begin
      for (int pair = 0; pair < PAIRS; pair++)
        case ({LANES > 1 && word[(2*pair+1)%LANES*LANE_BITS+1+digit], word[2*pair*LANE_BITS+1+digit]})
          2'd0: tree[digit*PAIRS+pair] = '0;
          2'd1: tree[digit*PAIRS+pair] = DIGIT_BITS'(weighed[2*pair]);
          2'd2: tree[digit*PAIRS+pair] = DIGIT_BITS'(weighed[2*pair+1]);
          2'd3: tree[digit*PAIRS+pair] = DIGIT_BITS'(both[pair]);
        endcase
      for (int pairs = PAIRS / 2; pairs > 0; pairs = pairs / 2)
        for (int i = 0; i < pairs; i++)
          tree[digit*PAIRS+i] = tree[digit*PAIRS+2*i] + tree[digit*PAIRS+2*i+1];
    end
  end
  always_ff @(posedge clk) begin
    if (en) for (int digit = 0; digit < FILTERS * WEIGHT_BITS; digit++) sums[digit] <= tree[digit*PAIRS];
  end

  // Fourth clock: the digits are put together, the first of them negative, and added to the bins before.
  logic signed [SUM_BITS:0] beat_sum[FILTERS];
  always_comb
    for (int k = 0; k < FILTERS; k++) begin
      beat_sum[k] = '0 - (TOTAL_BITS'(sums[k*WEIGHT_BITS+WEIGHT_BITS-1]) << (WEIGHT_BITS - 1));
      for (int digit = 0; digit < WEIGHT_BITS - 1; digit++)
        beat_sum[k] = beat_sum[k] + (TOTAL_BITS'(sums[k*WEIGHT_BITS+digit]) << digit);
    end
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
              (first3 ? '0 : filtered[k*(SUM_BITS+1)+:SUM_BITS+1]) + beat_sum[k];
    end
  end
endmodule
