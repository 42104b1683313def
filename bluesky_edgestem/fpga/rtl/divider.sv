// Divides all features of a frame by its normaliser, two bits a clock: z = u / s towards zero, |z| < 1.
//
// Where |u| >= s the quotient saturates; where s = 0 it is 0.
module divider #(
    parameter int FILTERS = 32,
    parameter int SUM_BITS = 20,
    parameter int QUOTIENT_BITS = 8  // without the sign; even
) (
    input logic clk,
    input logic rst,
    input logic signed [FILTERS*(SUM_BITS+1)-1:0] filtered,
    input logic [SUM_BITS-1:0] normaliser,
    input logic start,  // only while `ready`
    output logic ready,
    input logic taken,
    output logic valid,
    output logic empty,  // the normaliser was 0
    output logic [FILTERS*(QUOTIENT_BITS+1)-1:0] quotients
);
  localparam int CLOCKS = QUOTIENT_BITS / 2;  // that of the start counted in

  logic [SUM_BITS:0] rest[FILTERS];
  logic [QUOTIENT_BITS-1:0] magnitude[FILTERS];
  logic [FILTERS-1:0] negative, saturated;
  logic [SUM_BITS-1:0] divisor;
  logic busy;
  logic [7:0] count;
  assign ready = !busy && !valid || valid && taken;

  logic [SUM_BITS:0] size[FILTERS], next_rest[FILTERS];
  logic [QUOTIENT_BITS-1:0] next_magnitude[FILTERS];
  logic [FILTERS-1:0] below;
  logic [SUM_BITS-1:0] present;
  always_comb begin
    present = start ? normaliser : divisor;
    for (int k = 0; k < FILTERS; k++) begin
      below[k] = filtered[k*(SUM_BITS+1)+SUM_BITS];
      size[k] = below[k] ? -filtered[k*(SUM_BITS+1)+:SUM_BITS+1] : filtered[k*(SUM_BITS+1)+:SUM_BITS+1];
      next_rest[k] = start ? size[k] : rest[k];
      next_magnitude[k] = magnitude[k];
      for (int digit = 0; digit < 2; digit++) begin
        next_rest[k] = next_rest[k] << 1;
        next_magnitude[k] = next_magnitude[k] << 1;
        if (next_rest[k] >= {1'b0, present}) begin
          next_rest[k] = next_rest[k] - {1'b0, present};
          next_magnitude[k][0] = 1;
        end
      end
    end
  end

  always_ff @(posedge clk) begin
    if (rst) begin
      busy <= 0;
      valid <= 0;
    end else begin
      if (valid && taken) valid <= 0;
      if (start || busy)
        for (int k = 0; k < FILTERS; k++) begin
          rest[k] <= next_rest[k];
          magnitude[k] <= next_magnitude[k];
        end
      if (start) begin
        busy <= 1;
        count <= 1;
        divisor <= normaliser;
        empty <= normaliser == 0;
        negative <= below;
        for (int k = 0; k < FILTERS; k++) saturated[k] <= size[k] >= {1'b0, normaliser};
      end else if (busy) begin
        count <= count + 1;
        if (count == CLOCKS - 1) begin
          busy <= 0;
          valid <= 1;
        end
      end
    end
  end

  logic [QUOTIENT_BITS:0] absolute[FILTERS];
  always_comb
    for (int k = 0; k < FILTERS; k++) begin
      absolute[k] = {1'b0, saturated[k] ? {QUOTIENT_BITS{1'b1}} : magnitude[k]};
      quotients[k*(QUOTIENT_BITS+1)+:QUOTIENT_BITS+1] = empty ? '0 : negative[k] ? -absolute[k] : absolute[k];
    end
endmodule
