"""What the shipped descriptor network makes of specimens that it has not seen, beside the Cramér–Rao bound.

Patterns come from simulated heterojunctions (seeds of their own, random positions, interfaces included), at three beam
energies and doses. The peer is the bound: for the same pattern and dose, with rotation, beam centre and total
intensity free.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch

from bluesky_edgestem.analysis.cramer_rao import best_discrimination, pattern_information
from bluesky_edgestem.analysis.diffraction import cbed, detected, patch_extent
from bluesky_edgestem.analysis.evaluation import Cases, Errors, measure, summarise
from bluesky_edgestem.analysis.networks import DescriptorNetwork
from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.sim.specimen import Heterojunction

SEEDS = range(9001, 9007)
BEAMS = {
    "80 keV": Optics(80.0, 2.0, 0.5),
    "200 keV": Optics(200.0, 2.0, 0.3),
    "300 keV": Optics(300.0, 2.0, 0.24),
}
DOSES = {"1e4": 1e4, "1e5": 1e5, "1e6": 1e6}
REPEATS = 8


def specimen_cases(beam: str, seed: int, positions: int) -> tuple[Cases, np.ndarray]:
    """Random positions of one specimen: patterns, truth and information; and the patterns of the other phase there."""
    optics, specimen = BEAMS[beam], Heterojunction(seed)
    rng = np.random.default_rng([seed, 1])
    field = specimen.field
    where = rng.uniform((field.x0, field.y0), (field.x0 + field.width, field.y0 + field.height), (positions, 2))
    strain, rotation = specimen.strain(where), specimen.rotation(where)
    patterns, swapped, information = [], [], []
    for i in range(positions):
        atoms = specimen.atoms(where[i], patch_extent(optics), rng)
        patterns.append(detected(cbed(atoms, optics), optics))
        symbols = np.array(atoms.get_chemical_symbols())
        atoms.set_chemical_symbols(np.where(symbols == "Mo", "W", np.where(symbols == "W", "Mo", symbols)))
        swapped.append(detected(cbed(atoms, optics), optics))

        def phase_at(offsets: np.ndarray, here: np.ndarray = where[i]) -> np.ndarray:
            return specimen.phase(here + 0.1 * offsets)

        information.append(pattern_information(strain[i], rotation[i], phase_at, optics))
    centre = np.zeros((positions, 2))
    cases = Cases(optics, np.array(patterns), strain, rotation, centre, specimen.phase(where), np.array(information))
    return cases, np.array(swapped)


def milliseconds(network: DescriptorNetwork, cases: Cases) -> float:
    """Time a pattern [ms], in batches of 24 on one thread; the median of 9."""
    patterns = np.resize(cases.patterns, (24, *cases.patterns.shape[1:]))
    frames = np.random.default_rng(0).poisson(patterns * 1e5).astype(np.uint16)
    network.predict(frames, cases.optics)
    times = []
    for _ in range(9):
        started = time.perf_counter()
        network.predict(frames, cases.optics)
        times.append((time.perf_counter() - started) / len(frames) * 1e3)
    return statistics.median(times)


def figures(rows: list[tuple[Errors, Cases, np.ndarray]], dose: float) -> dict:
    """Scores of all specimens together, and the spread of the ratio to the bound from specimen to specimen."""
    errors = [e for e, _, _ in rows]
    ratios = [statistics.mean(summarise(e)["ratio"].values()) for e in errors]
    together = summarise(Errors.joined(errors))
    together["ratio_mean"] = round(statistics.mean(ratios), 3)
    together["ratio_sd_over_specimens"] = round(statistics.stdev(ratios), 3)
    together["ratio_worst"] = max(together["ratio"].values())
    pairs = [pair for _, c, others in rows for pair in zip(c.patterns, others, strict=True)]
    together["phase_limit"] = round(statistics.mean(best_discrimination(*pair, dose) for pair in pairs), 4)
    return together


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", type=int, default=24, help="positions on each specimen (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--weights", help="weights file in place of the shipped one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = DescriptorNetwork.pretrained(options.weights)
    jobs = [(beam, seed) for beam in BEAMS for seed in SEEDS]
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        done = list(pool.map(specimen_cases, *zip(*jobs, strict=True), [options.positions] * len(jobs)))
    by_beam = {beam: [d for (b, _), d in zip(jobs, done, strict=True) if b == beam] for beam in BEAMS}
    result: dict = {
        "specimens": len(SEEDS),
        "positions": options.positions,
        "repeats": REPEATS,
        "ms_per_pattern": {beam: round(milliseconds(network, made[0][0]), 2) for beam, made in by_beam.items()},
    }
    everything: dict[str, list[tuple]] = {name: [] for name in DOSES}
    for beam, made in by_beam.items():
        result[beam] = {}
        for name, dose in DOSES.items():
            rows = [
                (measure(network, c, dose, REPEATS, np.random.default_rng([9, i])), c, others)
                for i, (c, others) in enumerate(made)
            ]
            everything[name] += rows
            result[beam][name] = figures(rows, dose)
            print(beam, name, result[beam][name], flush=True)
    result["all beams"] = {name: figures(rows, DOSES[name]) for name, rows in everything.items()}
    print("all beams", result["all beams"], flush=True)
    print(json.dumps(result))
