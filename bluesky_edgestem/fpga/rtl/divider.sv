// Divides all features of a frame by its normaliser, two digits a clock, the first of them first: z = u / s, |z| < 1,
// downwards, saturating where |u| >= s; 0 where s = 0.
//
// Digits are those of z + 1 in binary (of z in two's complement, but for the first, which is the sign's opposite): none of
// them counts negative.
module divider #(
    parameter int FILTERS = 32,
    parameter int SUM_BITS = 20
) (
    input logic clk,
    input logic en,
    input logic start,  // with the first two digits
    input logic signed [FILTERS*(SUM_BITS+1)-1:0] filtered,  // when it starts
    input logic [SUM_BITS-1:0] normaliser,  // when it starts
    output logic [FILTERS-1:0] high,  // digits that were found last
    output logic [FILTERS-1:0] low
);
  logic [SUM_BITS-1:0] rest[FILTERS], divisor;
  logic [FILTERS-1:0] negative, saturated;
  logic empty;

  logic [SUM_BITS:0] size[FILTERS], dividend[FILTERS], between[FILTERS], left[FILTERS];
  logic [SUM_BITS-1:0] by;
  logic [FILTERS-1:0] below, beyond, first, second;
  logic nothing;
  always_comb begin
    by = start ? normaliser : divisor;
    nothing = start ? normaliser == 0 : empty;
    for (int k = 0; k < FILTERS; k++) begin
      size[k] = filtered[k*(SUM_BITS+1)+SUM_BITS] ? -filtered[k*(SUM_BITS+1)+:SUM_BITS+1]
          : filtered[k*(SUM_BITS+1)+:SUM_BITS+1];
      // The first digit before the point tells whether it saturates; the sign takes its place.
      dividend[k] = start ? size[k] : {rest[k], 1'b0};
      first[k] = dividend[k] >= {1'b0, by};
      between[k] = (first[k] ? dividend[k] - {1'b0, by} : dividend[k]) << 1;
      second[k] = between[k] >= {1'b0, by};
      left[k] = second[k] ? between[k] - {1'b0, by} : between[k];
      below[k] = start ? filtered[k*(SUM_BITS+1)+SUM_BITS] : negative[k];
      beyond[k] = start ? first[k] : saturated[k];
    end
  end

  always_ff @(posedge clk)
    if (en) begin
      divisor <= by;
      empty <= nothing;
      for (int k = 0; k < FILTERS; k++) begin
        rest[k] <= left[k][SUM_BITS-1:0];
        negative[k] <= below[k];
        saturated[k] <= beyond[k];
        high[k] <= start ? nothing || !below[k] : !nothing && (first[k] || beyond[k]) != below[k];
        low[k] <= !nothing && (second[k] || beyond[k]) != below[k];
      end
    end
endmodule
