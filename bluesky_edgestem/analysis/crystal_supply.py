"""What the crystal network is trained on: patterns with suppositions of what they are and where, right and wrong ones.

Drawing patterns and searching lattices in them takes many small operations whatever their number: both are done for
many steps of training ahead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .crystal_patterns import Drawn, draw
from .crystal_reading import look
from .crystal_search import search
from .disk_network import DiskNetwork
from .disk_rendering import DeviceTable
from .lattice_view import SCALE, Beams, Lattice, rotations, supposed
from .materials import material
from .projected_lattice import symmetry

#: Shares of a batch: patterns supposed to be of another material, and patterns of no material or a wrong lattice.
WRONG, STRANGE = 0.3, 0.25


@dataclass(frozen=True)
class Batch:
    """Patterns as the network gets them: first `right` of them with what they are, then with what they are not."""

    right: Drawn  #: (p,)
    counts: Tensor  #: (b, n, n), the first p those of `right`
    beams: Beams  #: (b,)
    lattice: Lattice  #: (b,) from where they are looked at
    genuine: Tensor  #: (b,) whether the supposition is true; NaN where a pattern cannot tell
    wrong: int  #: that many after the first p are the first of them again, supposed to be of another material


@dataclass(frozen=True)
class Supply:
    """Patterns for many batches, on the network's device."""

    right: Drawn  #: (p,)
    found: Lattice  #: (p,) by search, of some refined by the network
    which: Tensor  #: (w,) of `right`, those that others are supposed of
    other: Beams  #: (w,)
    other_found: Lattice  #: (w,)
    twin: Tensor  #: (w,) bool: the other has the same lattice, and its disks alone tell
    strange: Drawn  #: (s,)
    strange_found: Lattice  #: (s,)

    def batch(self, count: int, generator: torch.Generator) -> Batch:
        """A batch with `count` patterns that are what they are supposed to be."""
        device = self.which.device
        few, odd = max(1, int(WRONG * count)), max(1, int(STRANGE * count))

        def chosen(number: int, of: int) -> Tensor:
            return torch.randint(of, (number,), generator=generator, device=device)

        pairs, apart = chosen(few, len(self.which)), chosen(odd, len(self.strange.dose))
        index = torch.cat((self.which[pairs], chosen(count - few, len(self.right.dose))))
        right, strange = self.right[index], self.strange[apart]
        guessed = torch.rand(count, generator=generator, device=device) < 0.4
        lattice = chosen_lattice(guessed, first_guesses(right, generator), self.found[index])
        genuine = torch.cat(
            (
                near(right, lattice).float(),
                torch.where(self.twin[pairs], torch.nan, 0.0),
                torch.zeros(odd, device=device),
            )
        )
        return Batch(
            right,
            torch.cat((right.counts, right.counts[:few], strange.counts)),
            Beams.joined([right.beams, self.other[pairs], strange.beams]),
            Lattice.joined([lattice, self.other_found[pairs], self.strange_found[apart]]),
            genuine,
            few,
        )


def chosen_lattice(first: Tensor, one: Lattice, other: Lattice) -> Lattice:
    """`one` where `first` (b,), else `other`."""
    column = first[:, None]
    return Lattice(
        torch.where(column[..., None], one.turn, other.turn),
        torch.where(column[..., None], one.affine, other.affine),
        torch.where(column, one.centre, other.centre),
    )


def true_lattice(drawn: Drawn, seen_from: Lattice) -> Lattice:
    """The true lattice with the rotation of `seen_from`."""
    return drawn.lattice(torch.atan2(seen_from.turn[:, 1, 0], seen_from.turn[:, 0, 0]))


def near(drawn: Drawn, lattice: Lattice) -> Tensor:
    """Whether (b,) the lattice's disks lie within a radius of where the pattern has them, in the mean."""
    beams = drawn.beams
    off = (lattice.places(beams) - true_lattice(drawn, lattice).places(beams)).norm(dim=-1)
    places = lattice.places(beams)
    shown = beams.listed & ((places > 0) & (places < drawn.counts.shape[-1] - 1)).all(-1)
    return (off * shown).sum(1) < beams.radius * shown.sum(1)


def first_guesses(drawn: Drawn, generator: torch.Generator) -> Lattice:
    """Lattices as wrong as those that `crystal_search` finds, or less, down to those of a last pass."""
    device, b = drawn.counts.device, len(drawn.dose)

    def normal(*shape: int) -> Tensor:
        return torch.randn(b, *shape, generator=generator, device=device)

    wide = 10 ** (-2.5 * torch.rand(b, generator=generator, device=device))
    truth = drawn.lattice(drawn.rotation + 0.01 * wide * normal())
    affine = truth.affine + (0.6 * wide)[:, None, None] * normal(2, 2) / SCALE
    return Lattice(truth.turn, affine, truth.centre + (0.4 * wide)[:, None] * normal(2))


@torch.no_grad()
def supply(
    tables: dict[str, list[DeviceTable]],
    network: DiskNetwork,
    count: int,
    lowest: float,
    rng: np.random.Generator,
    generator: torch.Generator,
    *,
    twice: bool = False,
    half: bool | None = None,
) -> Supply:
    """Draw `count` patterns of each table, of doses from `lowest` [electrons], and look for lattices in them.

    `twice` draws half as many conditions and the noise of each twice.
    """
    names = list(tables)
    parts: list[tuple] = []
    few, odd = max(1, int(WRONG * count)), max(2, int(STRANGE * count))
    for number, name in enumerate(names):
        fold = symmetry(material(name))
        for table in tables[name]:
            drawn = draw(table, names, max(1, count // 2) if twice else count, rng, generator, lowest=lowest)
            if twice:
                drawn = Drawn.joined([drawn, drawn.noisy_again(generator)])
            drawn = drawn.cleaned()
            found = _seen(network, drawn.counts, drawn.beams, fold, half)

            other = int((number + rng.integers(1, max(2, len(names)))) % len(names))
            twins = [i for i, n in enumerate(names) if i != number and material(n).family == material(name).family]
            if twins and rng.uniform() < 0.5:
                other = twins[int(rng.integers(len(twins)))]
            beams = supposed(drawn.beams[:few], other, names[other])
            counts = drawn.counts[:few]
            lattice = _seen(network, counts, beams, symmetry(material(names[other])), half)

            supposition = int(rng.integers(len(names)))
            strange = draw(table, names, odd, rng, generator, foreign=True, lowest=lowest).cleaned()
            strange = replace(strange, beams=supposed(strange.beams, supposition, names[supposition]))
            fold = symmetry(material(names[supposition]))
            strange_found = _seen(network, strange.counts, strange.beams, fold, half)
            # A quarter as many of the material itself, looked at from lattices that are not theirs.
            turned = drawn[: max(1, odd // 4)]
            guess = first_guesses(turned, generator)
            off = 0.08 + 0.35 * torch.rand(len(turned.dose), generator=generator, device=counts.device)
            guess = Lattice(rotations(off) @ guess.turn, guess.affine, guess.centre)
            guess, _ = look(network, turned.counts, turned.beams, guess, 1, half)
            kept = ~near(turned, guess)
            turned, guess = turned[kept], guess[kept]
            parts.append(
                (
                    drawn,
                    found,
                    beams,
                    lattice,
                    torch.full((len(counts),), other in twins or other == number, device=counts.device),
                    Drawn.joined([strange, turned]),
                    Lattice.joined([strange_found, guess]),
                )
            )
    drawn, found, other, other_found, twin, strange, strange_found = zip(*parts, strict=True)
    starts = np.concatenate(([0], np.cumsum([len(d.dose) for d in drawn])[:-1]))
    which = [torch.arange(len(o.pixel), device=o.pixel.device) + int(s) for o, s in zip(other, starts, strict=True)]
    return Supply(
        Drawn.joined(list(drawn)),
        Lattice.joined(list(found)),
        torch.cat(which),
        Beams.joined(list(other)),
        Lattice.joined(list(other_found)),
        torch.cat(twin),
        Drawn.joined(list(strange)),
        Lattice.joined(list(strange_found)),
    )


def _seen(network: DiskNetwork, counts: Tensor, beams: Beams, fold: int, half: bool | None) -> Lattice:
    """Lattices as the network is shown them when it reads: by search, after one pass and after two, each of a third."""
    found, _ = search(counts, beams, fold)
    place = torch.arange(len(counts), device=counts.device)
    for more in (torch.cat((place[1::3], place[2::3])), place[2::3]):
        if not len(more):
            break
        before = found[more]
        after, _ = look(network, counts[more], beams[more], before, 1, half)
        sound = (after.affine.abs().amax((1, 2)) < 3) & ((after.centre - before.centre).norm(dim=1) < 20)
        after = chosen_lattice(sound, after, before)
        found = Lattice(
            found.turn, found.affine.index_copy(0, more, after.affine), found.centre.index_copy(0, more, after.centre)
        )
    return found
