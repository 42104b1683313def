"""How well the crystal network does on patterns whose truth is known, and the calibration of what it says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .crystal_patterns import Drawn, draw
from .crystal_reading import PASSES, read
from .disk_network import THICKNESS, DiskNetwork
from .disk_rendering import DeviceTable
from .lattice_view import strain_of, supposed
from .materials import material
from .projected_lattice import symmetry, wrapped

#: Quantities whose standard deviations are calibrated, in this order.
QUANTITIES = ("strain", "rotation", "thickness", "centre")


@dataclass(frozen=True)
class Outcomes:
    """Errors of `n` patterns of one material and what the network said they would be."""

    error: dict[str, np.ndarray]  #: by quantity, (n, k)
    sd: dict[str, np.ndarray]  #: by quantity, (n, k), not calibrated
    genuine: np.ndarray  #: (n,) log-odds
    evidence: np.ndarray  #: (n,)
    dose: np.ndarray  #: (n,)


def outcomes(network: DiskNetwork, drawn: Drawn, name: str, passes: int = PASSES, half: bool | None = None) -> Outcomes:
    """Read patterns supposed to be what they are."""
    fold = symmetry(material(name))
    lattice, opinion, _ = read(network, drawn.counts, drawn.beams, fold, passes, half)
    strain, rotation, covariance = strain_of(lattice, opinion.covariance)
    variance = covariance.diagonal(dim1=1, dim2=2)

    def array(values: Tensor) -> np.ndarray:
        values = values.detach().cpu().double()
        return values.numpy().reshape(len(values), -1)

    centre_sd = opinion.covariance[:, [4, 5], [4, 5]].sqrt()
    return Outcomes(
        {
            "strain": array(strain - drawn.strain),
            "rotation": wrapped(array(rotation - drawn.rotation), fold),
            "thickness": array(opinion.says("thickness") * THICKNESS - drawn.thickness),
            "centre": array(lattice.centre - drawn.centre),
        },
        {
            "strain": array(variance[:, :3].sqrt()),
            "rotation": array(variance[:, 3].sqrt()),
            "thickness": array(opinion.says("thickness_log_sd").exp() * THICKNESS),
            "centre": array(centre_sd),
        },
        array(opinion.says("genuine"))[:, 0],
        array(opinion.says("evidence"))[:, 0],
        array(drawn.dose)[:, 0],
    )


def scale(found: Outcomes, quantity: str) -> float:
    """Factor on a standard deviation so that ±1.96 of it hold 95 % of these errors (split conformal prediction)."""
    z = np.abs(found.error[quantity] / found.sd[quantity]).ravel()
    return float(np.quantile(z, 0.95) / 1.96)


def calibrate(
    network: DiskNetwork,
    tables: dict[str, list[DeviceTable]],
    doses: Sequence[float],
    count: int,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> np.ndarray:
    """Factors on the standard deviations, (materials, doses, QUANTITIES)."""
    factors = np.ones((len(tables), len(doses), len(QUANTITIES)))
    names = list(tables)
    for i, name in enumerate(names):
        for j, dose in enumerate(doses):
            parts = [draw(t, names, count, rng, generator, "calibration", dose=dose) for t in tables[name]]
            found = outcomes(network, Drawn.joined(parts), name)
            factors[i, j] = [scale(found, quantity) for quantity in QUANTITIES]
    return factors


def areas(genuine: np.ndarray, foreign: np.ndarray) -> float:
    """Area under the ROC of telling two sets of scores apart (Mann and Whitney's U)."""
    order = np.argsort(np.concatenate((foreign, genuine)), kind="stable")
    ranks = np.empty(len(order))
    ranks[order] = np.arange(1, len(order) + 1)
    u = ranks[len(foreign) :].sum() - len(genuine) * (len(genuine) + 1) / 2
    return float(u / (len(genuine) * len(foreign)))


def summary(found: Outcomes, factors: np.ndarray) -> dict[str, float]:
    """Root mean square errors and coverage of 95 % intervals, by quantity; `factors` (4,) of the calibration."""
    told: dict[str, float] = {}
    # A lattice taken for another would say nothing of the errors of all others: quartiles beside the mean square.
    for quantity, factor in zip(QUANTITIES, factors, strict=True):
        error, sd = found.error[quantity], found.sd[quantity] * factor
        told[f"{quantity}_rms"] = float(np.sqrt((error**2).mean()))
        told[f"{quantity}_median"] = float(np.median(np.abs(error)))
        told[f"{quantity}_bias"] = float(np.abs(error.mean(0)).max())
        told[f"{quantity}_coverage"] = float((np.abs(error) < 1.96 * sd).mean())
        told[f"{quantity}_sd"] = float(np.median(sd))
    known = found.genuine > 0
    if known.any():
        told["strain_rms_known"] = float(np.sqrt((found.error["strain"][known] ** 2).mean()))
        told["strain_coverage_known"] = float(
            (np.abs(found.error["strain"]) < 1.96 * found.sd["strain"] * factors[0])[known].mean()
        )
    return told | {"flagged": float(1 - known.mean())}


def judge(
    network: DiskNetwork,
    tables: dict[str, list[DeviceTable]],
    doses: Sequence[float],
    factors: np.ndarray,
    count: int,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> dict:
    """Scores on held-out conditions: by material and dose, and how often the material is told right."""
    names, result = list(tables), {}
    for j, dose in enumerate(doses):
        genuine, foreign = [], []
        for i, name in enumerate(names):
            drawn = Drawn.joined([draw(t, names, count, rng, generator, "held out", dose=dose) for t in tables[name]])
            found = outcomes(network, drawn, name)
            told = summary(found, factors[i, j])
            evidence = np.full((len(names), len(found.dose)), -np.inf)
            evidence[i] = found.evidence
            for k, other in enumerate(names):
                if k != i:
                    beams = supposed(drawn.beams, k, other)
                    _, opinion, _ = read(network, drawn.counts, beams, symmetry(material(other)))
                    evidence[k] = opinion.says("evidence").double().cpu().numpy()
            told["material_right"] = float((evidence.argmax(0) == i).mean())
            strange = draw(tables[name][0], names, count, rng, generator, "held out", foreign=True, dose=dose)
            strange_genuine = outcomes(network, strange, name).genuine
            told["foreign_flagged"] = float((strange_genuine < 0).mean())
            told["auroc"] = areas(found.genuine, strange_genuine)
            genuine.append(found.genuine)
            foreign.append(strange_genuine)
            result[f"{name} {dose:.0e}".replace("e+0", "e")] = told
        result[f"auroc {dose:.0e}".replace("e+0", "e")] = areas(np.concatenate(genuine), np.concatenate(foreign))
    return result
