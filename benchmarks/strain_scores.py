"""What is made of a reading of strain whose truth is known: errors, their parts, and how honest the intervals are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from strain_cases import StrainCase

from bluesky_edgestem.analysis import crystals
from bluesky_edgestem.analysis.affine_readings import AffineReadings
from bluesky_edgestem.analysis.cramer_rao import bound

COMPONENTS = ("exx", "eyy", "exy", "rotation")
"""Of the error; the rotation in rad."""


@dataclass(frozen=True)
class Reading:
    """The lattice that was found in each of n frames."""

    lattice: np.ndarray  #: (n, 2, 2) reciprocal vectors as rows [pixels], NaN where none was found
    sd: np.ndarray | None = None  #: (n, 4) of strain and rotation, if stated


def unstrained(lattice: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Strain and rotation (n, 4) of lattices (n, 2, 2) relative to a reference (2, 2), both as rows; NaN stays NaN.

    ``lattice = reference F^-1``, and ``F = (1 + ε) R`` by its polar decomposition.
    """
    out = np.full((len(lattice), 4), np.nan)
    found = np.isfinite(lattice).all((1, 2))
    f = np.linalg.inv(np.linalg.solve(reference, lattice[found]))
    u, s, vt = np.linalg.svd(f)
    stretch, turn = (u * s[:, None, :]) @ np.swapaxes(u, 1, 2), u @ vt
    out[found, :3] = crystals.strain_vector(stretch - np.eye(2))
    out[found, 3] = np.arctan2(turn[:, 1, 0], turn[:, 0, 0])
    return out


def in_the_reference(lattice: np.ndarray, case: StrainCase) -> np.ndarray:
    """The same lattices (n, 2, 2), described by the vectors that the truth is described by; NaN where they are others.

    Vectors between other points of a lattice are as good, such as those of the reflections that are not forbidden:
    which points are meant is told by the truth.
    """
    relative = lattice @ np.linalg.inv(case.lattice)
    index = np.round(np.nan_to_num(relative))
    cells = np.round(np.abs(np.linalg.det(index)))
    same = ((cells == 1) | (cells == 2)) & (np.abs(relative - index).max((1, 2)) < 0.25)
    out = np.full_like(lattice, np.nan)
    out[same] = np.linalg.solve(index[same], lattice[same])
    return out


def from_affine(found: AffineReadings, base: np.ndarray, case: StrainCase) -> Reading:
    """A reading of the strain autoencoder, whose base pattern has the vectors `base` (rows) [pixels]."""
    lattice = base @ np.swapaxes(found.transform, 1, 2)
    lattice = np.where((found.flagged == "")[:, None, None], lattice, np.nan)
    chosen = in_the_reference(lattice, case)
    # What each of the transform's entries does to the strain, by differences.
    basis = np.linalg.solve(found.transform, np.swapaxes(chosen, 1, 2))

    def strained(transform: np.ndarray) -> np.ndarray:
        return unstrained(np.swapaxes(transform @ basis, 1, 2), case.reference)

    step = 1e-5
    moves = step * np.eye(4).reshape(4, 2, 2)
    slopes = [
        _wrapped(strained(found.transform + move) - strained(found.transform - move)) / (2 * step) for move in moves
    ]
    jacobian = np.stack(slopes, -1)
    variance = np.einsum("nia,nab,nib->ni", jacobian, found.covariance, jacobian)
    return Reading(chosen, np.sqrt(variance))


def _wrapped(values: np.ndarray) -> np.ndarray:
    """Strain and rotation (..., 4), the rotation brought between -π and π."""
    out = values.copy()
    out[..., 3] = (out[..., 3] + np.pi) % (2 * np.pi) - np.pi
    return out


def errors(reading: Reading, case: StrainCase) -> np.ndarray:
    """Reading minus truth, (n, 4): exx, eyy, exy, rotation [rad]; NaN where none was found."""
    chosen = in_the_reference(reading.lattice, case)
    truth = np.column_stack([case.specimen.strain, case.specimen.rotation])
    return _wrapped(unstrained(chosen, case.reference) - truth)


def place_error(found: np.ndarray, case: StrainCase, reach: float = 0.8) -> float:
    """How far disks are from where a wrong strain has them, root mean square [pixels].

    Over the reflections whose distance from the beam is up to `reach` of the frame's half width: errors (..., 4) of
    strain and rotation move a reflection at g by ``-(ε + ω) g``.
    """
    index = np.stack(np.meshgrid(*[np.arange(-8, 9)] * 2, indexing="ij"), -1).reshape(-1, 2)
    index = index[(index.sum(1) % 2 == 0) | (case.material != "Si")]  # the others are forbidden along [110]
    g = index @ case.reference
    length = np.hypot(*g.T)
    g = g[(length > 0) & (length < reach * case.optics.n_pixels / 2)]
    exx, eyy, exy, turn = np.moveaxis(found[np.isfinite(found).all(-1)], -1, 0)
    moved = np.stack([np.outer(exx, g[:, 0]) + np.outer(exy - turn, g[:, 1]),
                      np.outer(exy + turn, g[:, 0]) + np.outer(eyy, g[:, 1])])  # fmt: skip
    return float(np.sqrt((moved**2).sum(0).mean()))


def summarise(readings: list[Reading], case: StrainCase, dose: float, relative: bool = False) -> dict:
    """Figures of merit of several draws of noise on one case.

    Parameters
    ----------
    readings : list of Reading
        One a draw; two or more.
    case : StrainCase
        Patterns and truth.
    dose : float
        Electrons a pattern.
    relative : bool
        Take the mean error over the scan off first, as a reference region of known strain does.

    Returns
    -------
    dict
        By component: `rms`, `mae`, `offset` (mean error over the scan), `bias` (root mean square over positions of what
        all draws share), `scatter` (what they do not), `worst`, and, if known, `bound` (Cramér–Rao) and `ratio` to it.
        Over strains: `ratio_worst`; `grain_bias`, largest mean error in a grain, where there are several; `coverage` of
        the 95 % intervals, where they are stated. `place_px`; `lost`, the fraction in which no lattice, or another one,
        was found; left out.
    """
    found = np.array([errors(reading, case) for reading in readings])  # (r, n, 4)
    offset = np.nanmean(found, (0, 1))
    if relative:
        found = found - offset
    pairs = [(a, b) for i, a in enumerate(found) for b in found[i + 1 :]]
    shared = np.nanmean([a * b for a, b in pairs], (0, 1))
    own = np.nanmean([(a - b) ** 2 / 2 for a, b in pairs], (0, 1))
    by_component = {
        "rms": np.sqrt(np.nanmean(found**2, (0, 1))),
        "mae": np.nanmean(np.abs(found), (0, 1)),
        "offset": offset,
        "bias": np.sqrt(np.maximum(shared, 0)),
        "scatter": np.sqrt(own),
        "worst": np.nanmax(np.abs(found), (0, 1)),
    }
    if len(case.information):
        variance = np.diagonal(bound(case.information, dose), axis1=1, axis2=2)[:, :4].mean(0)
        by_component |= {"bound": np.sqrt(variance), "ratio": by_component["rms"] / np.sqrt(variance)}
    out: dict = {
        name: {c: float(f"{v:.3g}") for c, v in zip(COMPONENTS, values, strict=True)}
        for name, values in by_component.items()
    }
    if "ratio" in out:
        out["ratio_worst"] = max(out["ratio"][c] for c in COMPONENTS[:3])
    grain = case.specimen.grain
    if grain.max():
        by_grain = np.array([np.nanmean(found[:, grain == g, :3], (0, 1)) for g in np.unique(grain)])
        out["grain_bias"] = float(f"{np.abs(by_grain).max():.3g}")
    out["place_px"] = float(f"{place_error(found, case):.3g}")
    out["lost"] = float(f"{np.isnan(found[..., 0]).mean():.3g}")
    stated = [r.sd for r in readings if r.sd is not None]
    if stated:
        known = np.isfinite(found)
        inside = np.abs(found) < 1.96 * np.array(stated)
        out["coverage"] = float(f"{inside[..., :3][known[..., :3]].mean():.4g}")
        out["rotation_coverage"] = float(f"{inside[..., 3][known[..., 3]].mean():.4g}")
    return out
