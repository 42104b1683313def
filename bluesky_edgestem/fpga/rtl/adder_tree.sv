// Adds N signed terms, a power of two of them, in pairs and pairs of pairs, none of the sums wider than it can become.
// They are kept, as carry chains: made into one, synthesis would add in columns of full adders, of two LUTs each.
module adder_tree #(
    parameter int N = 8,
    parameter int BITS = 10  // of a term
) (
    input logic [N*BITS-1:0] terms,
    output logic signed [BITS+$clog2(N)-1:0] total
);
  if (N == 1) begin : one
    assign total = terms;
  end else begin : more
    (* keep *) logic signed [BITS+$clog2(N)-2:0] lower;
    (* keep *) logic signed [BITS+$clog2(N)-2:0] upper;
    adder_tree #(.N(N / 2), .BITS(BITS)) of_lower (.terms(terms[N/2*BITS-1:0]), .total(lower));
    adder_tree #(.N(N / 2), .BITS(BITS)) of_upper (.terms(terms[N*BITS-1:N/2*BITS]), .total(upper));
    assign total = lower + upper;
  end
endmodule
