"""Whether a pattern is what its crystal would show: what is left of it, in squares of about a disk's size.

A lattice with the right disks leaves noise. Another crystal leaves disks that are brighter or darker than any thickness
and mistilt makes them, disks where there should be none, or none where there should be some. The residual is Pearson's,
summed over squares within and between the disks alike::

    z² = (Σ n - λ)² / (Σ λ + (tolerance Σ λ_disks)² + (SURFACE N)²)

Squares are `ACROSS` radii of a disk wide: a disk that is too bright or too dark is so as a whole, and of few electrons
smaller squares would tell less. The tolerance is what the table of disks may be wrong by, and a part of the beam's `N`
electrons is for the disks that it leaves out, which only a surface shows (`projected_lattice.primitive`). Without them
the mean of z² is one for counts of the expected rates λ, and its variance ``2 + 1 / λ`` over the number of squares.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .crystal_fit import Fitted

#: Side of a square [radii of a disk], and the least [pixels]; a part of the disks' fill that may be wrong; standard
#: deviations at which a pixel counts no more, for a hot one that was overlooked is no crystal's; counts that a square
#: has to be expected to have.
ACROSS, SMALLEST, TOLERANCE, LARGEST, LEAST = 1.5, 4, 0.05, 6.0, 0.5
#: Of [110] silicon of whole periods, the brightest disks that only a surface shows have this part of the beam in the
#: mean over directions, at 12 and 29 nm and 200 keV.
SURFACE = 2e-5


def misfit(
    counts: Tensor, seen: Tensor, fit: Fitted, radius: float, tolerance: float = TOLERANCE
) -> tuple[Tensor, Tensor]:
    """How far patterns (b, n, n) are from what was fitted to them, with disks of a radius [pixels], the same for all.

    What fills no whole square at right and bottom is left out.

    Returns
    -------
    mean : Tensor (b,)
        Mean of z²: about one or less where the crystal is the right one.
    sd : Tensor (b,)
        Standard deviation of that mean by counting alone.
    """
    b, n = counts.shape[:2]
    side = max(round(ACROSS * radius), SMALLEST)
    expected = fit.expected.reshape(b, n, n)
    disks = (fit.state.disks[:, None] * fit.slopes[:, 9]).reshape(b, n, n)
    spread = LARGEST * (expected + 1).sqrt()
    left = torch.minimum(torch.maximum(counts - expected, -spread), spread)

    def squares(image: Tensor) -> Tensor:
        return functional.avg_pool2d((image * seen)[:, None], side).flatten(1) * side**2

    left, mean = squares(left), squares(expected)
    left_out = (SURFACE * fit.state.disks[:, None]) ** 2
    z2 = left**2 / (mean + (tolerance * squares(disks)) ** 2 + left_out).clamp(min=1e-6)
    used = (mean > LEAST).to(z2.dtype)
    count = used.sum(1).clamp(min=1)
    sd = ((2 + 1 / mean.clamp(min=LEAST)) * used).sum(1).sqrt() / count
    return (z2 * used).sum(1) / count, sd
