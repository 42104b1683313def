"""How long the next 24 positions take, from a 128 x 128 grid of candidates; the budget is 2 s with 1,000 measured, on
2 cores.

The peer is botorch's qNegIntegratedPosteriorVariance, which conditions a model for every candidate: one pick from 512
candidates with 512 integration points, against one pick of the closed form over the same covariance.
Measurements are emulated (see emulated_run.py).
"""

from __future__ import annotations

import json
import statistics
import time

import numpy as np
from emulated_run import FIELD, RESOLUTION, measure

from bluesky_edgestem.analysis.acquisition import Channel, choose
from bluesky_edgestem.analysis.routing import path_length, travel_order
from bluesky_edgestem.analysis.surrogate import EnergyMap, sobol_design
from bluesky_edgestem.geometry import ScanGrid
from bluesky_edgestem.sim.specimen import Heterojunction

COUNT = 24
REPEATS = 5
PEER = 512


def loaded(measured: int) -> EnergyMap:
    """A map after `measured` positions, its kernels fitted."""
    rng = np.random.default_rng(measured)
    energy_map = EnergyMap(FIELD, 1e-3, RESOLUTION, map_shape=(64, 64))
    energy_map.ingest(measure(Heterojunction(0, FIELD), sobol_design(FIELD, measured, rng), rng))
    return energy_map


def seconds(measured: int) -> dict[str, float]:
    """Times [s] with so many positions: the first fit, the update by a batch, the map, the choice of 24."""
    energy_map = loaded(measured)
    began = time.perf_counter()
    energy_map.posterior()
    first = time.perf_counter() - began
    update, maps, choice = [], [], []
    rng = np.random.default_rng(0)
    for _ in range(REPEATS):
        began = time.perf_counter()
        positions = energy_map.suggest(COUNT)
        choice.append(time.perf_counter() - began)
        assert len(positions) == COUNT
        energy_map.ingest(measure(Heterojunction(0, FIELD), positions, rng))
        began = time.perf_counter()
        _ = energy_map.models
        update.append(time.perf_counter() - began)
        began = time.perf_counter()
        energy_map.posterior()
        maps.append(time.perf_counter() - began)
    return {
        "first_fit_and_map_s": round(first, 3),
        "update_median_s": round(statistics.median(update), 3),
        "update_max_s": round(max(update), 3),
        "map_median_s": round(statistics.median(maps), 3),
        "suggest_median_s": round(statistics.median(choice), 3),
        "suggest_max_s": round(max(choice), 3),
    }


def against_botorch() -> dict[str, float]:
    """One pick from the same candidates: time of botorch's acquisition over that of the closed form."""
    import torch
    from botorch.acquisition.active_learning import qNegIntegratedPosteriorVariance
    from botorch.models import SingleTaskGP

    rng = np.random.default_rng(0)
    measured, candidates = rng.uniform(0, 1, (150, 2)), rng.uniform(0, 1, (PEER, 2))
    outcomes = np.sin(9 * measured[:, :1])
    model = SingleTaskGP(
        torch.as_tensor(measured),
        torch.as_tensor((outcomes - outcomes.mean()) / outcomes.std(ddof=1)),
        train_Yvar=torch.full((150, 1), 0.01, dtype=torch.double),
        outcome_transform=None,
    )
    points = torch.as_tensor(candidates)
    with torch.no_grad():
        began = time.perf_counter()
        acquisition = qNegIntegratedPosteriorVariance(model, mc_points=points)
        theirs = torch.cat([acquisition(part[:, None]) for part in points.split(64)])
        botorch_s = time.perf_counter() - began
        began = time.perf_counter()
        covariance = model.eval()(points).covariance_matrix.numpy().copy()
        ones, free = np.ones(PEER), np.ones(PEER, dtype=bool)
        variance = np.full(PEER, 1e-12)  # all far below the target: every cell weighs the same
        pick = choose([Channel(covariance, 0.01, ones, 0 * ones)], variance, 1.0, free, candidates, 0.0, 1)
        own_s = time.perf_counter() - began
    best = float(theirs.max())
    return {
        "candidates": PEER,
        "botorch_s": round(botorch_s, 3),
        "closed_form_s": round(own_s, 4),
        "botorch_over_closed_form": round(botorch_s / own_s, 1),
        "same_pick": bool(abs(float(theirs[int(pick[0])]) - best) <= 1e-4 * abs(best)),
    }


def tour() -> dict[str, float]:
    """Travel of 24 random positions, in a square of side 1, in their order and in travel order."""
    points = np.random.default_rng(0).uniform(0, 1, (COUNT, 2))
    began = time.perf_counter()
    order = travel_order(points)
    took = time.perf_counter() - began
    return {
        "as_chosen": round(path_length(points), 2),
        "in_travel_order": round(path_length(points[order]), 2),
        "seconds": round(took, 4),
    }


if __name__ == "__main__":
    candidates = ScanGrid.with_step(FIELD, RESOLUTION / 2)
    result = {
        "count": COUNT,
        "candidates": [min(candidates.nx, 128), min(candidates.ny, 128)],
        "measured_150": seconds(150),
        "measured_1000": seconds(1000),
        "peer": against_botorch(),
        "tour": tour(),
    }
    print(json.dumps(result))
