"""Sizes and bit widths of a student."""

from __future__ import annotations

from dataclasses import dataclass

from .student import Student


@dataclass(frozen=True)
class Widths:
    """What the board's network has, and of how many bits it is."""

    filters: int = 28
    hidden: tuple[int, ...] = (160,)  #: neurons of each hidden layer
    filter_bits: int = 3  #: of the filters' weights, with the sign
    quotient_bits: int = 6  #: of what the dense layers read, without the sign
    activation_bits: tuple[int, ...] = (6,)  #: of what leaves each hidden layer
    luts: int = 15000  #: that dense layers may take, about, for which each neuron's inputs and bits are searched
    weight_bits: tuple[int, ...] | None = None  #: of each dense layer's weights, with the sign, instead of a search

    @classmethod
    def of(cls, student: Student, luts: int) -> Widths:
        """What a student has, to be pruned until its dense layers take so many LUTs."""
        *hidden, _ = student.layers
        return cls(
            student.filters.shape[1], tuple(layer.weights.shape[1] for layer in hidden), student.filter_bits,
            student.quotient_bits, tuple(layer.bits for layer in hidden), luts,
        )  # fmt: skip

    def __post_init__(self) -> None:
        n = len(self.hidden)
        for name, size in (("weight_bits", n + 1), ("activation_bits", n)):
            if getattr(self, name) is not None and len(getattr(self, name)) != size:
                raise ValueError(f"{n} hidden layers need {size} {name}; got {len(getattr(self, name))}")
        most = 2 * (self.quotient_bits + 1)
        if max(self.activation_bits) > most:
            raise ValueError(f"activation_bits are {self.activation_bits}; {most} at most, as the divider makes digits")
