"""Control at the edge: what the inference board adds to a flight by itself, and what of it the run records."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import Msg, MsgGenerator

from ..callbacks.derived import DerivedStream, integer, number
from ..devices.board import InferenceBoard
from ..devices.microscope import Microscope
from ..fpga.rule import QUANTITIES


@dataclass(frozen=True)
class EdgeRule:
    """Four positions around each one where what the board reads is in a range, or out of it.

    They are flown in the same flight, after its list, and may have the rule hold in turn. A position nearer to another
    than half of `spacing` is left out, as is one that the coils do not reach. They may lie outside of the field.

    Parameters
    ----------
    quantity : {"exx", "eyy", "exy", "second phase"}
        What the rule goes by.
    low, high : float
        The range: strain, or probability of the second phase.
    inside : bool
        Whether it holds within the range; by default outside. "Strain above 1 %": ``low=-1, high=0.01``.
    spacing : float
        How far the added positions are from the one that they are around [nm].
    limit : int
        Positions added to a flight, at most: what the dose allows.

    Raises
    ------
    ValueError
        A parameter is not allowed.
    """

    quantity: str
    low: float
    high: float
    inside: bool = False
    spacing: float = 1.0
    limit: int = 100

    def __post_init__(self) -> None:
        for name in ("low", "high", "spacing"):
            if isinstance(value := getattr(self, name), bool) or not isinstance(value, Real):
                raise ValueError(f"{name} is {value!r}; a number is needed")
        if not isinstance(self.inside, bool):
            raise ValueError(f"inside is {self.inside!r}; allowed is True | False")
        if self.quantity not in QUANTITIES:
            raise ValueError(f"quantity is {self.quantity!r}; allowed is {' | '.join(QUANTITIES)}")
        if not -1 <= self.low <= self.high <= 1:
            raise ValueError(f"the range is from {self.low:g} to {self.high:g}; allowed is -1 to 1, low not above high")
        if not 1e-3 <= self.spacing <= 1e3:
            raise ValueError(f"spacing is {self.spacing:g} nm; allowed is 0.001 to 1000 nm")
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or not 1 <= self.limit <= 65536:
            raise ValueError(f"limit is {self.limit}; allowed is a whole number of positions, 1 to 65536")

    @classmethod
    def of(cls, rule: EdgeRule | dict[str, Any]) -> EdgeRule:
        """`rule` itself, or one of a dict with the fields of one.

        Raises
        ------
        ValueError
            A field is missing or unknown, or its value not allowed.
        """
        if isinstance(rule, EdgeRule):
            return rule
        if not isinstance(rule, dict):
            raise ValueError(f"a rule is an EdgeRule or a dict with its fields, got {rule!r}")
        known = [field.name for field in fields(cls)]
        if unknown := set(rule) - set(known):
            raise ValueError(f"a rule has no {', '.join(sorted(unknown))}; it has {', '.join(known)}")
        if missing := {"quantity", "low", "high"} - set(rule):
            raise ValueError(f"the rule says nothing of {', '.join(sorted(missing))}")
        return cls(**rule)

    @property
    def metadata(self) -> dict[str, Any]:
        """For the run's start document."""
        return asdict(self)


def added_stream() -> DerivedStream:
    """The stream ``added_positions``: one row for each position that the board added."""
    return DerivedStream(
        "added_positions",
        {
            "frame": integer("index of its frame in the primary stream"),
            "x": number("the coils' queue", "nm"),
            "y": number("the coils' queue", "nm"),
            "because_of": integer("index of the frame for which the board's rule held"),
        },
    )


def set_rule(board: InferenceBoard, rule: EdgeRule) -> MsgGenerator[None]:
    """Have the board follow a rule, and the coils take what it adds, in all flights until the board is unstaged."""
    yield from bps.mv(
        board.rule_low, rule.low, board.rule_high, rule.high, board.rule_side, "Inside" if rule.inside else "Outside",
        board.rule_spacing, rule.spacing,
    )  # fmt: skip
    yield from bps.mv(board.rule, rule.quantity)
    board.adds(rule.limit)


def record_added(microscope: Microscope, stream: DerivedStream, first: int, listed: int) -> MsgGenerator[None]:
    """Save what was added to a flight: of `listed` positions, whose first frame has the index `first`."""
    added = microscope.queue.positions()
    # Where the coils never flew, what they say is of the flight before.
    flown = max(microscope.get_index() - first - listed, 0)
    rows = zip(added.x[:flown], added.y[:flown], added.cause[:flown], strict=True)
    for k, (x, y, cause) in enumerate(rows):
        stream.put({"frame": first + listed + k, "x": float(x), "y": float(y), "because_of": first + int(cause)})
    yield Msg("collect", stream, name=stream.name)
