"""The inference board: a network small enough for an FPGA, from the teacher's readings to verified Verilog.

`frontend` says what the board makes of a frame before the network; `student` is the network in whole numbers, which
every other form of it is compared with; `teaching` draws patterns and has the teacher read them; `quantised` trains by
QKeras, and `rounding` makes its weights whole; `hls` is the same network by hls4ml, `fixed_point` by alkaid, `logic`,
`distributed` and ``rtl/`` in Verilog; `verilated` runs that clock by clock, and `area` maps it to a device; `build`
does all in turn.
"""
