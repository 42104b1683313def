"""What the crystal network is trained to lessen: negative log-likelihoods of the truth."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .crystal_patterns import Drawn
from .disk_network import THICKNESS, TILT, Opinion
from .lattice_view import Lattice, difference, inverse

#: Squared errors, in units of their variance, beyond which the loss grows with the error and not its square: a lattice
#: that was put down wrongly must not outweigh all others.
ROBUST = 50.0


def _robust(square: Tensor) -> Tensor:
    return torch.where(square < ROBUST, square, 2 * (ROBUST * square.clamp(min=ROBUST)).sqrt() - ROBUST)


def lattice_loss(opinion: Opinion, drawn: Drawn, seen_from: Lattice, truth: Lattice) -> Tensor:
    """Of the lattice's six unknowns together, (b,)."""
    error = (opinion.unknowns - difference(drawn.beams, seen_from, truth)).double()
    factor, _ = torch.linalg.cholesky_ex(opinion.covariance.double() + 1e-9 * torch.eye(6, device=error.device))
    white = torch.linalg.solve_triangular(factor, error[..., None], upper=False)[..., 0]
    spread = factor.diagonal(dim1=1, dim2=2).clamp(min=1e-6).log().sum(1)
    return (0.5 * _robust((white**2).sum(1)) + spread).float()


def disk_loss(opinion: Opinion, drawn: Drawn, seen_from: Lattice, truth: Lattice) -> Tensor:
    """Of each disk's displacement by itself, mean over a pattern's disks (b,)."""
    beams = drawn.beams
    back = inverse(beams.distortion @ seen_from.turn).transpose(1, 2)
    error = opinion.displacement - (truth.places(beams) - seen_from.places(beams)) @ back
    square = torch.einsum("bgi,bgij,bgj->bg", error, opinion.precision, error)
    (xx, xy), (_, yy) = (row.unbind(-1) for row in opinion.precision.unbind(-2))
    spread = 0.5 * (xx * yy - xy**2).clamp(min=1e-12).log()
    loss = (0.5 * _robust(square) - spread) * opinion.measured
    return loss.sum(1) / opinion.measured.sum(1).clamp(min=1)


def crystal_loss(opinion: Opinion, drawn: Drawn, seen_from: Lattice) -> Tensor:
    """Of thickness and mistilt, (b,)."""
    off = opinion.says("thickness") - drawn.thickness / THICKNESS
    log_sd = opinion.says("thickness_log_sd").clamp(-5, 3)
    thickness = 0.5 * _robust((off / log_sd.exp()) ** 2) + log_sd
    tilt = (drawn.tilt[:, None] @ seen_from.turn)[:, 0] / TILT
    off2 = (opinion.says("tilt_x") - tilt[:, 0]) ** 2 + (opinion.says("tilt_y") - tilt[:, 1]) ** 2
    log_sd = opinion.says("tilt_log_sd").clamp(-5, 3)
    return thickness + 0.5 * (0.5 * _robust(off2 / (2 * log_sd).exp()) + 2 * log_sd)


def genuine_loss(opinion: Opinion, genuine: Tensor) -> Tensor:
    """Of whether (b,) the pattern is one of the supposed crystal, and was seen from its lattice, (b,)."""
    said = opinion.says("genuine").clamp(-15, 15)
    return functional.binary_cross_entropy_with_logits(said, genuine.to(said.dtype), reduction="none")
