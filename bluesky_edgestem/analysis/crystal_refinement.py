"""What the crystal network says, refined by the likelihood where the disks of the supposed crystal are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .crystal_fit import fitted, seen_pixels, told_pixels
from .crystal_misfit import misfit
from .crystal_search import without_hot_pixels
from .disk_rendering import DeviceTable
from .lattice_view import SCALE, Beams, Lattice, strain_of
from .materials import material
from .projected_lattice import symmetry, wrapped

#: Strain beyond which the network's lattice is none to start from: no evidence counts for it.
STRAY = 0.1
#: A misfit beyond this mean, and this many standard deviations over one, is more than a crystal's own: one pattern in
#: a hundred of the calibration's conditions.
MEAN, DEVIATIONS = 1.05, 3.5
#: What the library leaves wrong however many electrons there are: its fills are of strain to first order, in steps and
#: rounded. Standard deviations of strain and rotation [rad], of thickness [nm], of the centre [pixels]. The first two
#: are the errors' root mean squares of 12 crystals at 10⁶ electrons, 12 to 29 nm thick and strained by 1 to 3.5 %,
#: whose cells were computed as strained; with the last, 95 to 96 % of intervals held the centres of 240 patterns of the
#: calibration's conditions at 10⁴ to 10⁷.
FLOOR, THICKNESS_FLOOR, CENTRE_FLOOR = 3e-4, 0.05, 0.006


def refined(
    table: DeviceTable, counts: Tensor, beams: Beams, lattice: Lattice, tolerance: float
) -> dict[str, np.ndarray]:
    """What the likelihood says of patterns (b, n, n) as counted, of the table's material, from a lattice on.

    All are of the same optics.

    Returns
    -------
    dict
        strain (b, 3), covariance (b, 3, 3), rotation and its standard deviation [rad], thickness and its [nm], centre
        (b, 2) from the frame's [pixels] and its; lattice (b, 6); misfit and its standard deviation by counting.
    """
    crystal = material(table.name)
    clean = without_hot_pixels(counts)
    seen = seen_pixels(counts) * told_pixels(table, counts.shape[-1], beams, lattice)
    fit = fitted(table, clean, seen, beams, lattice)
    covariance = fit.covariance(beams, seen)
    strain, rotation, of_strain = strain_of(fit.state.lattice, covariance[:, :6, :6])
    # The table was read at layers that a strained crystal's thickness is the det F of: t = s det F, F = (R A)^-T.
    affine = fit.state.lattice.affine.double()
    thick = fit.state.layers.double() / torch.linalg.det(affine) * crystal.spacing / 10
    slope = torch.zeros(len(thick), 7, dtype=torch.float64, device=thick.device)
    slope[:, :4] = -thick[:, None] * torch.linalg.inv(affine).transpose(1, 2).reshape(-1, 4) / SCALE
    slope[:, 6] = thick / fit.state.layers.double()
    variance = torch.einsum("bi,bij,bj->b", slope, covariance[:, :7, :7], slope)
    mean, sd = misfit(clean, seen, fit, float(beams.radius[0]), tolerance)

    def array(values: Tensor) -> np.ndarray:
        return values.double().cpu().numpy()

    return {
        "strain": array(strain),
        "covariance": array(of_strain)[:, :3, :3] + FLOOR**2 * np.eye(3),
        "rotation": wrapped(array(rotation), symmetry(crystal)),
        "rotation_sd": np.hypot(np.sqrt(array(of_strain)[:, 3, 3]), FLOOR),
        "thickness": array(thick),
        "thickness_sd": np.hypot(np.sqrt(array(variance)), THICKNESS_FLOOR),
        "centre": array(fit.state.lattice.centre) - (counts.shape[-1] - 1) / 2,
        "centre_sd": np.hypot(np.sqrt(array(covariance[:, [4, 5], [4, 5]])), CENTRE_FLOOR),
        "misfit": array(mean),
        "misfit_sd": array(sd),
    }


def excess(said: dict[str, np.ndarray]) -> np.ndarray:
    """How far (b,) patterns are from what one crystal's own may be: more than one is too far; NaN where not refined."""
    return (said["misfit"] - 1) / np.maximum(MEAN - 1, DEVIATIONS * said["misfit_sd"])


def choose(
    by_material: list[dict[str, np.ndarray]],
    refine: Callable[[int, np.ndarray], dict[str, np.ndarray] | None],
    readable: np.ndarray,
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """The material of each of `b` patterns, and what is said of it.

    The one with most evidence, refined; where that does not fit the pattern, the next, if it fits better.

    Parameters
    ----------
    by_material : list
        What the network says, supposed that the patterns are of each material.
    refine : callable
        Takes a material's number and patterns (k,), gives `refined` or, where there is no table, None.
    readable : array (b,)
        Patterns that can be refined.

    Returns
    -------
    said : dict
    best : array (b,)
        Number of the material.
    probability : array (b, len(by_material))
    """
    every = np.arange(len(readable))
    evidence = np.stack([m["evidence"] for m in by_material], 1)
    stray = np.stack([np.abs(m["strain"]).max(1, initial=0.0) > STRAY for m in by_material], 1)
    evidence = np.where(stray & ~stray.all(1, keepdims=True), evidence.min(initial=0.0) - 20.0, evidence)
    order = np.argsort(-evidence, 1, kind="stable")
    best = order[:, 0].copy()
    said = {key: np.stack([m[key] for m in by_material], 1)[every, best] for key in by_material[0]}
    said |= {"misfit": np.full(len(every), np.nan), "misfit_sd": np.full(len(every), np.nan)}
    open_ = readable.copy()
    for rank in range(len(by_material)):
        for number in range(len(by_material)):
            which = every[open_ & (order[:, rank] == number)]
            told = refine(number, which) if len(which) else None
            if told is None:
                continue
            better = ~(told["misfit"] >= said["misfit"][which])
            which = which[better]
            for key, value in told.items():
                said[key][which] = value[better]
            for key in ("genuine", "evidence"):
                said[key][which] = by_material[number][key][which]
            # What fits has the evidence of what did not.
            evidence[which, best[which]], evidence[which, number] = (
                evidence[which, number],
                evidence[which, best[which]],
            )
            best[which] = number
        with np.errstate(invalid="ignore"):
            open_ &= excess(said) > 1
    probability = np.exp(evidence - evidence.max(1, keepdims=True, initial=-np.inf))
    return said, best, probability / probability.sum(1, keepdims=True)
