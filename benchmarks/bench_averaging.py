"""What stochastic averaging gains in the training of the network of monolayers, on noisy patterns above all.

Four ways, from the same first weights, on the same patterns in the same order, for as many steps: none, of weights over
steps, of gradients over noise that is drawn twice (of half as many patterns), and both. Everything else is as in
``edgestem train descriptors``, seeds of the training are several. Judged on conditions held out, with the same noise
for all ways, by the errors of strain over the bound, and by what the network is trained for: the likelihood of the
truth in what it says.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from bluesky_edgestem.analysis import training, training_data
from bluesky_edgestem.analysis.averaging import WAYS
from bluesky_edgestem.analysis.evaluation import Cases, Errors, measure, summarise
from bluesky_edgestem.analysis.networks import DescriptorNetwork

DATA_SEED = 7  #: of the shipped network
EPOCHS = (6, 4)
DOSES = {"1e3": 1e3, "1e4": 1e4, "1e5": 1e5, "1e6": 1e6}
REPEATS = 4


def likelihood(errors: Errors) -> float:
    """Mean over patterns not flagged of the negative log-likelihood of exx, eyy, exy, each by itself."""
    sd = errors.strain_sd[errors.known]
    return float((0.5 * (errors.strain[errors.known] / sd) ** 2 + np.log(sd)).sum(-1).mean())


def judged(network: DescriptorNetwork, cases: list[Cases], seed: int) -> dict:
    """By dose: RMS of strain [1e-4], the same over the bound, likelihood, shares covered, right in phase, flagged."""
    out = {}
    for label, dose in DOSES.items():
        rng = np.random.default_rng([seed, int(dose)])
        errors = Errors.joined([measure(network, case, dose, REPEATS, rng) for case in cases])
        found = summarise(errors)
        out[label] = {
            "rms": 1e4 * statistics.mean(found["rms"].values()),
            "over bound": statistics.mean(found["ratio"].values()),
            "likelihood": likelihood(errors),
            "coverage": found["coverage"],
            "phase right": found["phase_right"],
            "flagged": found["flagged"],
        }
    return out


def trained(way: str, seed: int, data: Path, patterns: int, held_out: int) -> tuple[dict, float]:
    """Figures by dose of one training on one core, and the minutes that it took."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    sets = training_data.read(data, held_out=False, n_patterns=patterns)
    network = DescriptorNetwork()
    began = time.monotonic()
    training.fit_scattering(network.scattering, sets, EPOCHS[0], rng, way)
    training.fit_uncertainties(network, sets, EPOCHS[1], rng, way)
    minutes = (time.monotonic() - began) / 60
    network.eval()
    kept = training_data.read(data, held_out=True, n_patterns=patterns)
    cases = training.held_out_cases(kept, held_out, np.random.default_rng([seed, 2]))
    return judged(network, cases, seed), minutes


def compared(by_way: dict[str, list[dict]]) -> dict:
    """By dose, figure and way: the mean over seeds; and mean and standard deviation of what differs from "none"."""
    out: dict = {}
    for dose in DOSES:
        for figure in by_way["none"][0][dose]:
            plain = [scores[dose][figure] for scores in by_way["none"]]
            told = {
                "none": {"mean": float(f"{statistics.mean(plain):.4g}"), "sd": float(f"{statistics.stdev(plain):.2g}")}
            }
            for way in WAYS[1:]:
                gains = [scores[dose][figure] - was for scores, was in zip(by_way[way], plain, strict=True)]
                told[way] = {
                    "difference": float(f"{statistics.mean(gains):.3g}"),
                    "sd": float(f"{statistics.stdev(gains):.2g}"),
                }
            out.setdefault(dose, {})[figure] = told
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seeds", type=int, default=3, help="trainings of each way, two or more (default: %(default)s)"
    )
    parser.add_argument("--patterns", type=int, default=2400, help="multislice patterns (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=1, help="of each condition (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=Path("edgestem_data/patterns.h5"), help="of multislice patterns")
    options = parser.parse_args()
    training_data.generate(options.data, DATA_SEED, options.patterns, options.workers, lambda done, of: None)
    jobs = [(way, seed) for seed in range(options.seeds) for way in WAYS]
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        work = [pool.submit(trained, *job, options.data, options.patterns, options.held_out) for job in jobs]
        scores, minutes = [], []
        for job, one in zip(jobs, work, strict=True):
            found, took = one.result()
            print(f"{job}, {took:.1f} minutes: {found}", flush=True)
            scores.append(found)
            minutes.append(took)
    by_way = {way: [found for (of, _), found in zip(jobs, scores, strict=True) if of == way] for way in WAYS}
    result = {
        "seeds": options.seeds, "patterns": options.patterns, "epochs": EPOCHS,
        "minutes of a training": float(f"{statistics.mean(minutes):.2g}"), "by dose": compared(by_way),
    }  # fmt: skip
    print(json.dumps(result))
