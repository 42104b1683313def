"""Sizes and bit widths of a student."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Widths:
    """What the board's network has, and of how many bits it is."""

    filters: int = 24
    hidden: tuple[int, ...] = (48, 24)  #: neurons of each hidden layer
    filter_bits: int = 3  #: of the filters' weights, with the sign
    quotient_bits: int = 8  #: of what the dense layers read, without the sign; even
    weight_bits: tuple[int, ...] = (5, 6, 7)  #: of each dense layer's weights, with the sign
    activation_bits: tuple[int, ...] = (6, 6)  #: of what leaves each hidden layer

    def __post_init__(self) -> None:
        if self.quotient_bits < 4 or self.quotient_bits % 2:
            raise ValueError(
                f"quotient_bits is {self.quotient_bits}; the divider makes two a clock: an even number from 4"
            )
        if len(self.weight_bits) != len(self.hidden) + 1 or len(self.activation_bits) != len(self.hidden):
            raise ValueError(
                f"{len(self.hidden)} hidden layers need {len(self.hidden) + 1} weight_bits and {len(self.hidden)} "
                f"activation_bits; got {len(self.weight_bits)} and {len(self.activation_bits)}"
            )
