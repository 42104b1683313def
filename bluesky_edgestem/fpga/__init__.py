"""The inference board: a network small enough for an FPGA, from the teacher's readings to verified Verilog.

`frontend` says what the board makes of a frame before the network; `student` is the network in whole numbers, which
every other form of it is compared with; `teaching` draws patterns and has the teacher read them, `bin_statistics` says
how their bins vary; `float_model` is the network before its numbers are the board's, `quantised` by QKeras with those,
which `rounding` makes whole, and `learning` trains both; `hls` is the same network by hls4ml, `fixed_point` by alkaid,
`logic`, `distributed` and ``rtl/`` in Verilog; `verilated` runs that clock by clock, and `area` maps it to a device;
`build` does all in turn, and `command_line` asks for it.
"""
