"""How good a map is for its number of positions: the adaptive choice against raster and Sobol, and a plain GP on the
energy.

Each seed is a specimen of its own. The adaptive run goes on until it stops by itself; the other designs then get the
same number of positions and the same composite surrogate. The plain GP (botorch's SingleTaskGP on the energies over x
and y, their noise propagated from the strain's) is the further peer, on the raster, on Sobol and on positions chosen
by its own integrated variance. Energies and strains are emulated (see emulated_run.py); scores are against the
energies of the true structure.

    python benchmarks/bench_acquisition.py [--seeds 6] [--target 3] [--batch 12]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
from emulated_run import FIELD, RESOLUTION, STRAIN_SD, measure, nyquist_positions, raster, true_energy

from bluesky_edgestem.analysis.acquisition import Channel, choose
from bluesky_edgestem.analysis.surrogate import EnergyMap, sobol_design
from bluesky_edgestem.geometry import ScanGrid
from bluesky_edgestem.sim.specimen import Heterojunction

FIRST = 24
AT_MOST = 300
SCORED = ScanGrid(FIELD, 101, 101).positions


class PlainGP:
    """A Gaussian process over x and y on the energies alone, as botorch makes it by default."""

    def __init__(self, rows: list[dict]):
        import torch
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP
        from gpytorch.mlls import ExactMarginalLogLikelihood

        positions = np.array([(row["x"], row["y"]) for row in rows])
        energies = np.array([row["energy"] for row in rows])
        # The curvature's share keeps the noise above zero where the crystal is relaxed.
        slopes = np.array([row["gradient"] for row in rows])
        noise = np.sum((slopes * STRAIN_SD) ** 2, axis=1) + (50 * STRAIN_SD[0] ** 2) ** 2
        self.unit = energies.std()
        x = torch.as_tensor((positions - [FIELD.x0, FIELD.y0]) / FIELD.width)
        y = torch.as_tensor((energies - energies.mean()) / self.unit)[:, None]
        self.middle = energies.mean()
        variance = torch.as_tensor(noise / self.unit**2)[:, None]
        self.model = SingleTaskGP(x, y, train_Yvar=variance, outcome_transform=None)
        torch.manual_seed(0)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(self.model.likelihood, self.model))
        self.model.eval()
        self.noise = float(np.median(noise)) / self.unit**2

    def predict(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation [eV] at positions (k, 2) [nm]."""
        import torch

        with torch.no_grad():
            found = self.model(torch.as_tensor((at - [FIELD.x0, FIELD.y0]) / FIELD.width))
            return self.middle + self.unit * found.mean.numpy(), self.unit * np.sqrt(found.variance.numpy())

    def covariance(self, at: np.ndarray) -> np.ndarray:
        """(k, k) posterior covariance between positions (k, 2) [nm], in units of the energies' variance."""
        import torch

        with torch.no_grad():
            found = self.model(torch.as_tensor((at - [FIELD.x0, FIELD.y0]) / FIELD.width))
            return found.covariance_matrix.numpy().copy()


def scored(mean: np.ndarray, sd: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Errors [meV] and the share of the truth within the 95 % intervals."""
    error = mean - truth
    return {
        "rmse_meV": 1e3 * float(np.sqrt(np.mean(error**2))),
        "coverage": float(np.mean(np.abs(error) < 1.96 * sd)),
        "largest_sd_meV": 1e3 * float(sd.max()),
    }


def composite(rows: list[dict], truth: np.ndarray, target: float) -> dict[str, float]:
    """Scores of the composite surrogate on the rows of any design."""
    energy_map = EnergyMap(FIELD, target, RESOLUTION)
    energy_map.ingest(rows)
    return scored(*energy_map.posterior(SCORED), truth)


def adaptive(specimen: Heterojunction, target: float, batch: int, seed: int, rng: np.random.Generator):
    """A run to its end: the map and the time that ingest, fit and choice took for each batch [s]."""
    energy_map, seconds, stop = EnergyMap(FIELD, target, RESOLUTION, seed=seed), [], None
    positions = energy_map.suggest(FIRST)
    while not stop and len(energy_map.measurements) < AT_MOST:
        rows = measure(specimen, positions, rng)
        began = time.perf_counter()
        energy_map.ingest(rows)
        stop = energy_map.should_stop()
        positions = energy_map.suggest(batch)
        seconds.append(time.perf_counter() - began)
    return energy_map, seconds, stop


def plain_adaptive(
    specimen: Heterojunction, target: float, batch: int, count: int, rng: np.random.Generator
) -> list[dict]:
    """Rows of `count` positions that the plain GP chose by its own integrated variance."""
    rows = measure(specimen, sobol_design(FIELD, FIRST, rng), rng)
    candidates = ScanGrid(FIELD, 32, 32).positions
    while len(rows) < count:
        model = PlainGP(rows)
        covariance = model.covariance(candidates)
        channel = Channel(covariance, model.noise, np.ones(len(candidates)), np.zeros(len(candidates)))
        visited = np.array([(row["x"], row["y"]) for row in rows])
        free = np.linalg.norm(candidates[:, None] - visited[None], axis=-1).min(axis=1) >= RESOLUTION
        chosen = choose(
            [channel],
            np.diagonal(covariance).copy(),
            target / model.unit,
            free,
            candidates,
            RESOLUTION,
            min(batch, count - len(rows)),
        )
        rows += measure(specimen, candidates[chosen], rng)
    return rows


def one_seed(seed: int, target: float, batch: int) -> dict:
    """All designs on one specimen."""
    specimen, rng = Heterojunction(seed, FIELD), np.random.default_rng(1000 + seed)
    truth = true_energy(specimen, SCORED)
    energy_map, seconds, stop = adaptive(specimen, target, batch, seed, rng)
    count = len(energy_map.measurements)
    designs = {
        "sobol": measure(specimen, sobol_design(FIELD, count, rng), rng),
        "raster": measure(specimen, raster(count), rng),
    }
    own = plain_adaptive(specimen, target, batch, count, rng)
    return {
        "seed": seed,
        "positions": count,
        "stop": stop or "at most",
        "largest_energy_meV": 1e3 * float(truth.max()),
        "spread_of_energy_meV": 1e3 * float(truth.std()),
        "batch_s_at_most": max(seconds),
        "adaptive": scored(*energy_map.posterior(SCORED), truth),
        **{name: composite(rows, truth, target) for name, rows in designs.items()},
        **{f"plain_{name}": scored(*PlainGP(rows).predict(SCORED), truth) for name, rows in designs.items()},
        "plain_adaptive": scored(*PlainGP(own).predict(SCORED), truth),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Mean, standard deviation between the seeds, smallest and largest."""
    return {
        "mean": round(statistics.fmean(values), 4),
        "sd": round(statistics.stdev(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6, help="specimens, at least 2")
    parser.add_argument("--target", type=float, default=3.0, help="target standard deviation [meV]")
    parser.add_argument("--batch", type=int, default=12, help="positions a batch")
    given = parser.parse_args()
    runs = []
    for seed in range(given.seeds):
        runs.append(one_seed(seed, 1e-3 * given.target, given.batch))
        print(json.dumps(runs[-1]), flush=True)
    names = ("adaptive", "sobol", "raster", "plain_adaptive", "plain_sobol", "plain_raster")
    positions = [run["positions"] for run in runs]
    rmse = {name: [run[name]["rmse_meV"] for run in runs] for name in names}
    print(
        json.dumps(
            {
                "energies": "emulator of the DFT table",
                "target_meV": given.target,
                "batch": given.batch,
                "seeds": given.seeds,
                "stopped_by_target": sum(run["stop"].startswith("target") for run in runs),
                "positions": spread(positions),
                "of_nyquist": round(max(positions) / nyquist_positions(), 5),
                "batch_s_at_most": round(max(run["batch_s_at_most"] for run in runs), 2),
                "rmse_meV": {name: spread(values) for name, values in rmse.items()},
                "rmse_over_adaptive": {
                    name: spread([v / a for v, a in zip(rmse[name], rmse["adaptive"], strict=True)])
                    for name in names[1:]
                },
                "rmse_over_target_at_most": round(max(rmse["adaptive"]) / given.target, 3),
                "coverage": {name: spread([run[name]["coverage"] for run in runs]) for name in names},
                "largest_sd_meV": {name: spread([run[name]["largest_sd_meV"] for run in runs]) for name in names},
            }
        )
    )
