// Drives a board with Icarus Verilog: whole frames, back to back, every result taken. Reads beats from packets.hex, the
// last of each frame marked in its highest bit, and prints each result in hexadecimal.
`timescale 1ns / 1ps
module icarus_bench;
  parameter int BEAT_BITS = 64;
  parameter int RESULT_BITS = 184;
  parameter int BEATS = 288;
  parameter int FRAMES = 1;

  logic clk = 0, rst = 1, valid = 0, ready, last, result_valid;
  logic [BEAT_BITS-1:0] data;
  logic [RESULT_BITS-1:0] result;
  logic [BEAT_BITS:0] beats[BEATS*FRAMES];
  integer at = 0, taken = 0, clocks = 0;

  inference_board board (
      .clk, .rst, .shift(3'd0), .rule_enabled(1'b0), .rule_inside(1'b0), .rule_selected(4'd0),
      .rule_low(16'sd0), .rule_high(16'sd0), .rule_most_log_sd(16'sd0), .s_axis_tdata(data), .s_axis_tvalid(valid), .s_axis_tlast(last), .s_axis_tready(ready),
      .m_axis_tdata(result), .m_axis_tvalid(result_valid), .m_axis_tready(1'b1));

  assign {last, data} = beats[at < BEATS * FRAMES ? at : BEATS * FRAMES - 1];
  always #5 clk = !clk;

  initial begin
    $readmemh("packets.hex", beats);
    repeat (2) @(negedge clk);
    rst = 0;
    valid = 1;
    while (taken < FRAMES) begin
      #1;  // what is combinational has settled; the edge is yet to come
      if (result_valid) begin
        $display("RESULT %h", result);
        taken = taken + 1;
      end
      if (valid && ready) begin
        @(posedge clk);
        #1 at = at + 1;
        if (at == BEATS * FRAMES) valid = 0;
      end else @(posedge clk);
      @(negedge clk);
      clocks = clocks + 1;
      if (clocks > 2 * BEATS * FRAMES + 1000) $finish;  // it gave fewer results than frames
    end
    $finish;
  end
endmodule
