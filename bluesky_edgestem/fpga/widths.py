"""Sizes and bit widths of a student."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Widths:
    """What the board's network has, and of how many bits it is."""

    filters: int = 24
    hidden: tuple[int, ...] = (48, 24)  #: neurons of each hidden layer
    filter_bits: int = 3  #: of the filters' weights, with the sign
    quotient_bits: int = 7  #: of what the dense layers read, without the sign; odd
    weight_bits: tuple[int, ...] = (8, 8, 8)  #: of each dense layer's weights, with the sign
    fan_in: tuple[int, ...] = (24, 48, 24)  #: inputs that a neuron of each dense layer reads at most
    activation_bits: tuple[int, ...] = (6, 6)  #: of what leaves each hidden layer

    def __post_init__(self) -> None:
        if self.quotient_bits < 3 or self.quotient_bits % 2 == 0:
            raise ValueError(
                f"quotient_bits is {self.quotient_bits}; with the sign, the divider makes two a clock: odd, from 3"
            )
        n = len(self.hidden)
        for name, size in (("weight_bits", n + 1), ("fan_in", n + 1), ("activation_bits", n)):
            if len(getattr(self, name)) != size:
                raise ValueError(f"{n} hidden layers need {size} {name}; got {len(getattr(self, name))}")
        if max(self.activation_bits) > self.quotient_bits + 1:
            most = self.quotient_bits + 1
            raise ValueError(f"activation_bits are {self.activation_bits}; {most} at most, as the divider makes digits")
