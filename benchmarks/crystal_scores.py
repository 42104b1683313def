"""Scores of the crystal network's readings: errors in their parts beside the bound, and whether intervals hold them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bluesky_edgestem.analysis.cramer_rao import bound

COMPONENTS = ("exx", "eyy", "exy")


@dataclass(frozen=True)
class Told:
    """Errors of n patterns, each counted r times, and what the network said of them."""

    strain: np.ndarray  #: (n, r, 3) read less true
    strain_sd: np.ndarray  #: (n, r, 3)
    thickness: np.ndarray  #: (n, r) read less true [nm]
    thickness_sd: np.ndarray  #: (n, r) [nm]
    rotation: np.ndarray  #: (n, r) read less true, of equivalent ones the nearest [rad]
    rotation_sd: np.ndarray  #: (n, r) [rad]
    centre: np.ndarray  #: (n, r, 2) of the beam, read less true [pixels]
    centre_sd: np.ndarray  #: (n, r, 2) [pixels]
    right: np.ndarray  #: (n, r) whether the material is
    flagged: np.ndarray  #: (n, r)

    @staticmethod
    def joined(parts: Sequence[Told]) -> Told:
        """Several as one."""
        return Told(*(np.concatenate([getattr(p, n) for p in parts]) for n in Told.__dataclass_fields__))


def parts(error: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bias and scatter (k,) of errors (n, r, k), root mean squares over the patterns with two kept draws or more.

    Bias is what the draws of a pattern share. Their mean still has a share of the scatter, which is taken off; the two
    squares add up to the mean square error where every draw is kept.
    """
    mean_square, variance = [], []
    for each, which in zip(error, kept, strict=True):
        if which.sum() > 1:
            own = each[which].var(0, ddof=1)
            mean_square.append(each[which].mean(0) ** 2 - own / which.sum())
            variance.append(own)
    if not variance:
        nothing = np.full(error.shape[-1], np.nan)
        return nothing, nothing
    return np.sqrt(np.maximum(np.mean(mean_square, 0), 0)), np.sqrt(np.mean(variance, 0))


def rms(error: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Root mean square of errors (n, r, k) that are kept, (k,)."""
    return np.sqrt((error[kept] ** 2).mean(0))


def spread(of: Callable[[Told], float], by_seed: Sequence[Told]) -> dict[str, float]:
    """A figure over all patterns, how it differs from seed to seed, and the worst seed's."""
    each = [of(told) for told in by_seed]
    return {"all": of(Told.joined(by_seed)), "sd": statistics.stdev(each), "worst": max(each)}


def summarise(by_seed: Sequence[Told], information: Sequence[np.ndarray], dose: float) -> dict:
    """Figures of one material at one dose; patterns that are flagged are left out of all but `flagged`.

    Parameters
    ----------
    by_seed : sequence of Told
        Two seeds or more.
    information : sequence of array (n, k, k)
        Fisher information per electron of each seed's patterns: strain (3), rotation and centre (2) first.
    dose : float
        Electrons a pattern.

    Returns
    -------
    dict
        By component: `rms`, `median` (of the absolute error), `bias`, `scatter`, `worst`, `bound` (Cramér–Rao, of the
        patterns that are kept), `ratio` of rms to bound. `strain`, rms over all three components, and `thickness`
        [nm]: over all patterns, the standard deviation from seed to seed, the worst seed. `rotation` [rad] and
        `centre` [pixels]: `rms`, `bound`, `ratio`, `worst` and `coverage`, of both coordinates together.
        `ratio_worst` and `scatter_ratio_worst` of the strain; `coverage` and `thickness_coverage` of the 95 %
        intervals; `material_right`; `flagged`.
    """
    told = Told.joined(by_seed)
    kept = ~told.flagged
    variance = np.diagonal(bound(np.concatenate(information), dose), axis1=1, axis2=2)[:, :6]
    # As often as a pattern is kept its bound counts.
    every = np.sqrt((variance * kept.sum(1)[:, None]).sum(0) / kept.sum())
    least = every[:3]
    root, (bias, scatter) = rms(told.strain, kept), parts(told.strain, kept)
    by_component = {
        "rms": root,
        "median": np.median(np.abs(told.strain[kept]), 0),
        "bias": bias,
        "scatter": scatter,
        "worst": np.abs(told.strain[kept]).max(0),
        "bound": least,
        "ratio": root / least,
    }
    by_seed_figures = {
        "strain": spread(lambda t: float(np.sqrt((t.strain[~t.flagged] ** 2).mean())), by_seed),
        "thickness": spread(lambda t: float(np.sqrt((t.thickness[~t.flagged] ** 2).mean())), by_seed),
    }
    places = {
        "rotation": (told.rotation[..., None], told.rotation_sd[..., None], every[3:4]),
        "centre": (told.centre, told.centre_sd, every[4:6]),
    }
    shares = {
        "coverage": np.abs(told.strain[kept]) < 1.96 * told.strain_sd[kept],
        "thickness_coverage": np.abs(told.thickness[kept]) < 1.96 * told.thickness_sd[kept],
        "material_right": told.right[kept],
        "flagged": told.flagged,
    }
    return {
        **{k: dict(zip(COMPONENTS, map(_short, v), strict=True)) for k, v in by_component.items()},
        **{k: {name: _short(value) for name, value in v.items()} for k, v in by_seed_figures.items()},
        **{name: _of_place(error[kept], sd[kept], allowed) for name, (error, sd, allowed) in places.items()},
        "ratio_worst": _short((root / least).max()),
        "scatter_ratio_worst": _short((scatter / least).max()),
        **{k: round(float(v.mean()), 4) for k, v in shares.items()},
    }


def _of_place(error: np.ndarray, sd: np.ndarray, least: np.ndarray) -> dict[str, float]:
    """Figures of errors and standard deviations (m, k), whose bounds are (k,)."""
    root, allowed = np.sqrt((error**2).mean()), np.sqrt((least**2).mean())
    return {
        "rms": _short(root),
        "bound": _short(allowed),
        "ratio": _short(root / allowed),
        "worst": _short(np.abs(error).max()),
        "coverage": round(float((np.abs(error) < 1.96 * sd).mean()), 4),
    }


def _short(value: float) -> float:
    return float(f"{value:.3g}")
