// Divides all features of a frame by its normaliser, a digit a clock, the first of them first: z = u / s, downwards, the
// largest or smallest where z >= 1 or z < -1; 0 where s = 0.
//
// Digits are those of z + 1 in binary: the first is 1 where u >= 0, and each tells whether s is taken off or added next
// (division without restoring). What is beyond the largest or smallest stays there.
module divider #(
    parameter int FILTERS = 32,
    parameter int SUM_BITS = 20
) (
    input logic clk,
    input logic start,  // with the first digit
    input logic signed [FILTERS*(SUM_BITS+1)-1:0] filtered,  // when it starts
    input logic [SUM_BITS-1:0] normaliser,  // when it starts
    output logic [FILTERS-1:0] digits  // that were found last
);
  logic [SUM_BITS:0] rest[FILTERS];  // with a sign
  (* keep *) logic [SUM_BITS+1:0] next[FILTERS];
  logic [FILTERS-1:0] beyond;
  logic [SUM_BITS-1:0] divisor;
  logic empty;
  always_comb
    for (int k = 0; k < FILTERS; k++)
      next[k] = {rest[k], digits[k]} + ({2'b0, divisor} ^ {(SUM_BITS + 2) {digits[k]}});

  always_ff @(posedge clk) begin
    if (start) begin
      divisor <= normaliser;
      empty <= normaliser == 0;
    end
    for (int k = 0; k < FILTERS; k++) begin
      if (start) begin
        rest[k] <= filtered[k*(SUM_BITS+1)+:SUM_BITS+1];
        digits[k] <= normaliser == 0 || !filtered[k*(SUM_BITS+1)+SUM_BITS];
        beyond[k] <= 1'b0;
      end else begin
        rest[k] <= next[k][SUM_BITS:0];
        digits[k] <= !empty && (beyond[k] ? digits[k] : !next[k][SUM_BITS+1]);
        beyond[k] <= beyond[k] || next[k][SUM_BITS+1] != next[k][SUM_BITS];
      end
    end
  end
endmodule
