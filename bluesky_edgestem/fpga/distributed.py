"""Dense layers as Verilog by distributed arithmetic: inputs come a few digits a clock, six at a time into tables.

A digit of six inputs chooses one of 64 sums of their weights, which takes one look-up table of the device for each bit
of the sum, whatever the weights are. What the tables give is added; the sums of digits are added in turn, the digits
before shifted. (Peled and Liu, "A new hardware realization of digital filters", IEEE Trans. ASSP 22, 456 (1974).)
"""

from __future__ import annotations

from dataclasses import dataclass

from .student import Layer

TABLE = 6  #: inputs of a look-up table
DELAY = 2  #: clocks from when a digit comes to when what it chose is added to the sum
NEW_LINE, INDENTED = "\n", "\n      "


@dataclass(frozen=True)
class Digits:
    """How a layer's inputs arrive: digits of whole numbers from 0, the largest first, `together` a clock."""

    bits: int
    together: int

    @property
    def clocks(self) -> int:
        """That all digits take."""
        return -(-self.bits // self.together)


@dataclass(frozen=True)
class _Signal:
    """A signed number in the Verilog, and between what it is."""

    name: str
    low: int
    high: int

    @property
    def bits(self) -> int:
        """With the sign."""
        return max(self.high, -self.low - 1, 0).bit_length() + 1


class _Writer:
    """Lines of a module, with a signal for each number, and what its registers take in each clock."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.clocked: list[str] = []

    def number(self, name: str, low: int, high: int, value: str = "") -> _Signal:
        """Declare one, of that value if it is no register.

        A sum is kept, as a carry chain: made into one, synthesis would add in columns of full adders.
        """
        signal = _Signal(name, low, high)
        kept = "(* keep *) " if "+" in value else ""
        self.lines.append(f"  {kept}logic signed [{signal.bits - 1}:0] {name};")
        if value:
            self.lines.append(f"  assign {name} = {value};")
        return signal

    def table(self, name: str, weights: list[int], inputs: list[str], constant: int) -> _Signal:
        """The sum of weights whose inputs are 1, and a constant."""
        sums = [constant + sum(w for i, w in enumerate(weights) if at >> i & 1) for at in range(2 ** len(weights))]
        signal = self.number(name, min(sums), max(sums))
        chosen: dict[tuple[int, ...], str] = {}

        def choice(values: tuple[int, ...]) -> str:
            """A signal that is `values` by the inputs, the first the lowest bit: a tree of choices, each made once."""
            if len(set(values)) == 1:
                return f"1'b{values[0]}"
            if values not in chosen:
                half = len(values) // 2
                low, high = choice(values[:half]), choice(values[half:])
                if values[:half] == values[half:]:
                    chosen[values] = low
                else:
                    chosen[values] = f"{name}_{len(chosen)}"
                    of = inputs[half.bit_length() - 1]
                    self.lines.append(f"  wire {chosen[values]} = {of} ? {high} : {low};")
            return chosen[values]

        for bit in range(signal.bits):
            self.lines.append(f"  assign {name}[{bit}] = {choice(tuple(total >> bit & 1 for total in sums))};")
        return signal

    def register(self, signal: _Signal, name: str) -> _Signal:
        """A signal's value of the clock before."""
        later = self.number(name, signal.low, signal.high)
        self.clocked.append(f"{later.name} <= {signal.name};")
        return later

    def in_pairs(self, name: str, terms: list[tuple[_Signal, int]]) -> list[tuple[_Signal, int]]:
        """Signals, each shifted to the left, added in pairs; a last one without a partner as it is."""
        pairs = []
        for (one, by), (other, further) in zip(terms[::2], terms[1::2], strict=False):
            shift = further - by
            added = self.number(
                f"{name}_{len(pairs)}", one.low + (other.low << shift), one.high + (other.high << shift),
                f"{one.name} + ({other.name} <<< {shift})",
            )  # fmt: skip
            pairs.append((added, by))
        return pairs + terms[2 * len(pairs) :]

    def total(self, name: str, terms: list[tuple[_Signal, int]]) -> _Signal:
        """Of signals, each shifted to the left, at least one of them by nothing; in pairs and pairs of pairs."""
        level = 0
        while len(terms) > 1:
            terms = self.in_pairs(f"{name}_{level}", terms)
            level += 1
        return terms[0][0]


def luts(inputs: int, bits: int, together: int) -> float:
    """About how many LUTs of UltraScale+ yosys takes for a neuron with weights of so many bits.

    A table and an adder for each six inputs and digit, about as wide as weights, and what limits and keeps the word;
    none where nothing is read.
    """
    if not inputs:
        return 0.0
    return 2 * -(-inputs // TABLE) * together * (bits + 0.35) + 12


def module(name: str, layer: Layer, fraction: int, digits: Digits, leaving: int, offset: int = 0) -> str:
    """The Verilog of a dense layer.

    Its ports are ``clk``; ``digits``, `together` of each input, the last in the lowest bit; ``accumulate``,
    `DELAY` clocks after each but the last of a frame's digits came, and ``finish``, as long after the last; and
    ``words``, which are there from then on, and move up by `leaving` bits in each clock, or stay where it is 0.

    Parameters
    ----------
    name : str
        Of the module.
    layer : Layer
    fraction : int
        Bits of its inputs behind the point.
    digits : Digits
    leaving : int
        Digits a clock that the next layer takes, of words with as many zeros in front as fill its clocks; 0 for none.
    offset : int
        What the inputs' digits stand for more than the inputs.
    """
    out, together = _Writer(), digits.together
    columns = layer.weights.shape[1]
    low_word, high_word = layer.range
    container = Digits(layer.bits, leaving).clocks * leaving if leaving else layer.bits
    # A constant that is added in each clock counts `repeated` times; one that the sum begins with `first` times.
    first = 1 << digits.clocks * together
    repeated = sum(1 << clock * together for clock in range(digits.clocks))
    # What a digit's wire and the tables behind it take of a clock is taken for two levels of additions.
    levels = (-(-layer.weights.shape[0] // TABLE) * together - 1).bit_length()
    soon = max(0, levels - 2) // 2
    every, cleared, added = out.clocked, [], []
    for j, column in enumerate(layer.weights.T.tolist()):
        # Half a unit of what leaves, and then what is behind the point is dropped; and what no weight reaches before.
        drop, used = layer.dropped(fraction), [i for i, weight in enumerate(column) if weight]
        constant = (int(layer.bias[j]) + (1 << drop)) // 2 - offset * sum(column)
        common = min(drop, *((weight & -weight).bit_length() - 1 for weight in column if weight), 64)
        drop, constant, column = drop - common, constant >> common, [weight >> common for weight in column]
        if not used:
            value = min(max(constant >> drop, low_word), high_word)
            kept = out.number(f"kept{j}", value, value, str(value))
        else:
            steady = constant * pow(repeated, -1, first) % first
            steady -= first if steady > first // 2 else 0
            begin = (constant - steady * repeated) // first
            planes = []
            for plane in range(together):
                terms = [
                    (
                        out.table(
                            f"t{j}_{plane}_{at}",
                            [column[i] for i in used[at : at + TABLE]],
                            [f"digits[{i * together + plane}]" for i in used[at : at + TABLE]],
                            steady if plane == at == 0 else 0,
                        ),
                        0,
                    )
                    for at in range(0, len(used), TABLE)
                ]
                for level in range(soon):
                    terms = out.in_pairs(f"s{j}_{plane}_{level}", terms)
                terms = [(out.register(term, f"r{j}_{plane}_{at}"), by) for at, (term, by) in enumerate(terms)]
                planes.append((out.total(f"p{j}_{plane}", terms), plane))
            part = out.register(out.total(f"found{j}", planes), f"part{j}")
            ranges = [(begin, begin)]
            for _ in range(digits.clocks):
                low, high = ranges[-1]
                ranges.append(((low << together) + part.low, (high << together) + part.high))
            full = out.number(f"full{j}", *ranges[-1])
            *before, _ = ranges
            sums = out.number(f"sums{j}", min(low for low, _ in before), max(high for _, high in before))
            out.lines.append(f"  assign {full.name} = ({sums.name} <<< {together}) + {part.name};")
            cleared.append(f"{sums.name} <= {begin};")
            added.append(f"{sums.name} <= {full.name}[{sums.bits - 1}:0];")
            kept = out.number(f"kept{j}", full.low >> drop, full.high >> drop, f"{full.name} >>> {drop}")
        limited = kept.name
        if kept.high > high_word:
            limited = f"{kept.name} > {high_word} ? {high_word} : {limited}"
        if kept.low < low_word:
            limited = f"{kept.name} < {low_word} ? {low_word} : {limited}"
        word = f"words[{j * container} +: {container}]"
        every.append(f"{word} <= finish ? {container}'({limited}) : {word} << {leaving};")
    return f"""
module {name} (
    input logic clk,
    input logic accumulate,
    input logic finish,
    input logic [{layer.weights.shape[0] * together - 1}:0] digits,
    output logic [{columns * container - 1}:0] words
);
{NEW_LINE.join(out.lines)}
  always_ff @(posedge clk) begin
    {INDENTED.join(every)}
    if (accumulate) begin
      {INDENTED.join(added)}
    end else begin
      {INDENTED.join(cleared)}
    end
  end
endmodule
"""
