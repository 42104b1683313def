"""What the shipped crystal network makes of crystals that it has not seen, beside the Cramér–Rao bound.

Si [110] and SrTiO3 [001] at 200 keV under conditions that neither training nor calibration had, and Au [110],
NaCl [001] and GaAs [110], which it should flag. Each pattern is counted several times, so that what noise makes of an
error (scatter) and what it does not (bias) are told apart. Patterns that the network flags are left out of the errors.
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
from crystal_cases import ENERGY, FOREIGN, CrystalCase, computed, held_out, specs
from crystal_scores import Told, summarise

from bluesky_edgestem.analysis.crystal_networks import LARGEST_STRAIN, CrystalNetwork
from bluesky_edgestem.analysis.crystal_reading import read
from bluesky_edgestem.analysis.crystal_scoring import areas
from bluesky_edgestem.analysis.disk_rendering import DeviceTable
from bluesky_edgestem.analysis.lattice_view import strain_of
from bluesky_edgestem.analysis.materials import MATERIALS, material
from bluesky_edgestem.analysis.projected_lattice import symmetry

DOSES = {"1e4": 1e4, "1e5": 1e5}
SEEDS = range(1, 5)
DRAWS = 4
#: Log-odds that a strain counts as, for each that it is less than what is flagged.
LOG_ODDS = 400.0
ROUNDS = 5


def told(network: CrystalNetwork, cases: list[CrystalCase], dose: float, draws: int, seed: int) -> Told:
    """What the network says of each case, counted `draws` times."""
    generator = torch.Generator().manual_seed(1000 * seed + round(np.log10(dose)))
    said = []
    for case in cases:
        network.distortion = case.under.distortion[0].double().numpy()
        frames = case.frames(network.materials, dose, draws, generator)
        said.append(network.predict(frames.numpy(), case.optics))
    strain = np.array([s.strain - case.strain for s, case in zip(said, cases, strict=True)])
    thickness = np.array([s.thickness - case.thickness for s, case in zip(said, cases, strict=True)])
    return Told(
        strain,
        np.array([s.strain_sd for s in said]),
        thickness,
        np.array([s.thickness_sd for s in said]),
        np.array([s.phase == case.table.name for s, case in zip(said, cases, strict=True)]),
        np.array([s.flagged != "" for s in said]),
    )


def suspicion(network: CrystalNetwork, cases: list[CrystalCase], dose: float, seed: int) -> np.ndarray:
    """Log-odds of being a supposed crystal, and largest strain, of the material with most evidence (n, 2)."""
    generator = torch.Generator().manual_seed(5000 + 1000 * seed + round(np.log10(dose)))
    rows = []
    for case in cases:
        network.distortion = case.under.distortion[0].double().numpy()
        counts = case.frames(network.materials, dose, 1, generator)
        said = network.most_evident(counts, case.optics)
        rows.append([said["genuine"][0], np.abs(said["strain"][0]).max()])
    return np.array(rows)


def outliers(own: np.ndarray, foreign: dict[str, np.ndarray]) -> dict:
    """How well foreign crystals are told from the network's own, and what is flagged."""

    def both(rows: np.ndarray) -> np.ndarray:
        return np.minimum(rows[:, 0], LOG_ODDS * (LARGEST_STRAIN - rows[:, 1]))

    sets = {"all": np.concatenate(list(foreign.values())), **foreign}
    return {
        "patterns": {"own": len(own)} | {name: len(rows) for name, rows in sets.items()},
        "auroc": {name: round(areas(both(own), both(rows)), 3) for name, rows in sets.items()},
        "auroc of log-odds alone": {name: round(areas(own[:, 0], rows[:, 0]), 3) for name, rows in sets.items()},
        "flagged": {name: round(float((both(rows) < 0).mean()), 3) for name, rows in {"own": own, **sets}.items()},
    }


def milliseconds(network: CrystalNetwork, case: CrystalCase) -> dict:
    """Time a pattern on the CPU [ms], in batches of 32, one and two threads in turn; medians."""
    network.distortion = case.under.distortion[0].double().numpy()
    frames = case.frames(network.materials, 1e5, 32, torch.Generator().manual_seed(1)).numpy()
    times: dict[int, list[float]] = {1: [], 2: []}
    before = torch.get_num_threads()
    for _ in range(ROUNDS + 1):
        for threads, taken in times.items():
            torch.set_num_threads(threads)
            began = time.perf_counter()
            network.predict(frames, case.optics)
            taken.append(1e3 * (time.perf_counter() - began) / len(frames))
    torch.set_num_threads(before)
    # The first of each fills caches.
    return {f"{n} thread{'s' * (n > 1)}": round(statistics.median(taken[1:]), 1) for n, taken in times.items()}


def half_precision(cases: list[CrystalCase]) -> dict:
    """What bfloat16 changes of places and strain against float32, at 1e5 electrons, and its time; on a GPU if there."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = CrystalNetwork.pretrained(device=device)
    generator = torch.Generator().manual_seed(2)
    places, strains = [], []
    times: dict[bool, list[float]] = {False: [], True: []}
    for case in cases:
        network.distortion = case.under.distortion[0].double().numpy()
        counts = case.frames(network.materials, 1e5, 32 if device == "cuda" else 4, generator).to(device)
        beams = network.beams(case.optics, case.table.name, len(counts))
        place, strain = [], []
        for half, taken in times.items():
            began = time.perf_counter()
            lattice, opinion, _ = read(network.disks, counts, beams, symmetry(material(case.table.name)), half=half)
            place.append(lattice.places(beams)[beams.listed].cpu())
            taken.append(1e3 * (time.perf_counter() - began) / len(counts))
            strain.append(strain_of(lattice, opinion.covariance)[0].cpu())
        places.append((place[1] - place[0]).norm(dim=1).numpy())
        strains.append((strain[1] - strain[0]).abs().numpy())
    place_px, change = np.concatenate(places), np.concatenate(strains)
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "place_px": {"rms": float(f"{np.sqrt((place_px**2).mean()):.3g}"), "worst": float(f"{place_px.max():.3g}")},
        "strain": {"rms": float(f"{np.sqrt((change**2).mean()):.3g}"), "worst": float(f"{change.max():.3g}")},
        "ms_per_pattern": {
            name: round(statistics.median(times[half][1:]), 2)
            for name, half in (("float32", False), ("bfloat16", True))
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=8, help="of a seed and material (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes that compute tables (default: %(default)s)")
    options = parser.parse_args()
    MATERIALS.update(FOREIGN)
    started = time.perf_counter()

    def done(what: str) -> None:
        print(f"{time.perf_counter() - started:.0f} s: {what}", flush=True)

    network = CrystalNetwork.pretrained(device="cpu")
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        tables = {table.material: DeviceTable.of(table) for table in pool.map(computed, specs())}
    done("tables")
    cases = {name: [held_out(table, options.cases, seed, network) for seed in SEEDS] for name, table in tables.items()}
    result: dict = {
        "trained": {key: network.card[key] for key in ("date", "steps", "batch", "averaging")},
        "energy_keV": ENERGY,
        "seeds": len(SEEDS),
        "cases of a seed": options.cases,
        "draws": DRAWS,
    }
    for name in network.among:
        result[name] = {}
        for label, dose in DOSES.items():
            by_seed = [told(network, own, dose, DRAWS, seed) for seed, own in zip(SEEDS, cases[name], strict=True)]
            information = [np.array([case.information for case in own]) for own in cases[name]]
            result[name][label] = summarise(by_seed, information, dose)
            done(f"{name} {label}: {result[name][label]}")
    result["foreign"] = {}
    for label, dose in DOSES.items():
        rows = {
            name: np.concatenate([suspicion(network, some, dose, s) for s, some in zip(SEEDS, by_seed, strict=True)])
            for name, by_seed in cases.items()
        }
        own = np.concatenate([rows[name] for name in network.among])
        result["foreign"][label] = outliers(own, {name: rows[name] for name in FOREIGN})
        done(f"foreign {label}: {result['foreign'][label]}")
    result["ms_per_pattern"] = milliseconds(network, cases["Si"][0][0])
    done(f"ms a pattern: {result['ms_per_pattern']}")
    result["bfloat16"] = half_precision([case for name in network.among for own in cases[name] for case in own[:2]])
    done(f"bfloat16: {result['bfloat16']}")
    print(json.dumps(result))
