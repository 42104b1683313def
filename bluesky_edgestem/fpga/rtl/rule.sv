// Whether a result is one that the scan coils are to be asked about: a word outside of a range, or inside.
//
// The range and what it is of may change at any time between frames. A result without words, or one whose standard
// deviation is larger than `most_log_sd` allows, is never one.
module rule #(
    parameter int WORDS = 9,
    parameter int BITS = 16,
    parameter int LOG_SD = 7,  // word of the log of the standard deviation
    parameter int SELECT = 4
) (
    input logic enabled,
    input logic holds_inside,
    input logic [SELECT-1:0] selected,
    input logic signed [BITS-1:0] low,
    input logic signed [BITS-1:0] high,
    input logic signed [BITS-1:0] most_log_sd,
    input logic [WORDS*BITS-1:0] words,
    input logic [1:0] status,
    output logic holds
);
  logic signed [BITS-1:0] value, log_sd;
  assign value = $signed(words[selected*BITS+:BITS]);
  assign log_sd = $signed(words[LOG_SD*BITS+:BITS]);
  assign holds = enabled && status == 0 && log_sd <= most_log_sd && ((value >= low && value <= high) == holds_inside);
endmodule
