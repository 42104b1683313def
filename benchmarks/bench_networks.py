"""What the shipped crystal network makes of crystals that it has not seen, beside the Cramér–Rao bound.

Si [110] and SrTiO3 [001] under conditions that neither training nor calibration had, and six crystals of which it knows
nothing, which it should flag. At 200 keV the cell of each of its own crystals is computed with all of its strain. Each
pattern is counted several times, so that what noise makes of an error (scatter) and what it does not (bias) are told
apart. Patterns that the network flags are left out of the errors.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from crystal_cases import (
    ENERGIES,
    ENERGY,
    FOREIGN,
    CrystalCase,
    computed,
    exactly_strained,
    held_out,
    specs,
    whole_periods,
)
from crystal_scores import Told, summarise

from bluesky_edgestem.analysis.crystal_networks import CrystalNetwork
from bluesky_edgestem.analysis.crystal_reading import read
from bluesky_edgestem.analysis.crystal_scoring import areas
from bluesky_edgestem.analysis.descriptor import FeatureDescriptors
from bluesky_edgestem.analysis.disk_rendering import DeviceTable
from bluesky_edgestem.analysis.lattice_view import strain_of
from bluesky_edgestem.analysis.materials import MATERIALS, material
from bluesky_edgestem.analysis.projected_lattice import symmetry, wrapped

DOSES = {"1e4": 1e4, "1e5": 1e5}
#: Of the crystals that are to be told apart.
FOREIGN_DOSES = {"1e3": 1e3, "1e4": 1e4, "1e5": 1e5, "1e6": 1e6}
SEEDS = range(1, 5)
DRAWS = 8
ROUNDS = 3
#: Tables that were computed before.
KEPT = Path("edgestem_data") / "network_cases"


def told(network: CrystalNetwork, cases: list[CrystalCase], draws: int, seed: int) -> dict[str, Told]:
    """What the network says of each case, counted `draws` times at each of `DOSES`."""
    said: dict[str, list[FeatureDescriptors]] = {label: [] for label in DOSES}
    for number, case in enumerate(cases):
        network.distortion = case.under.distortion[0].double().numpy()
        for label, dose in DOSES.items():
            generator = torch.Generator().manual_seed(1000 * (1000 * seed + number) + round(np.log10(dose)))
            frames = case.frames(network.materials, dose, draws, generator)
            said[label].append(network.predict(frames.numpy(), case.optics))
    return {label: _told(of, cases) for label, of in said.items()}


def _told(said: list, cases: list[CrystalCase]) -> Told:
    strain = np.array([s.strain - case.strain for s, case in zip(said, cases, strict=True)])
    thickness = np.array([s.thickness - case.thickness for s, case in zip(said, cases, strict=True)])
    return Told(
        strain,
        np.array([s.strain_sd for s in said]),
        thickness,
        np.array([s.thickness_sd for s in said]),
        np.array(
            [
                wrapped(s.rotation - case.rotation, symmetry(material(case.table.name)))
                for s, case in zip(said, cases, strict=True)
            ]
        ),
        np.array([s.rotation_sd for s in said]),
        np.array([s.centre - case.centre for s, case in zip(said, cases, strict=True)]),
        np.array([s.centre_sd for s in said]),
        np.array([s.phase == case.table.name for s, case in zip(said, cases, strict=True)]),
        np.array([s.flagged != "" for s in said]),
    )


def suspicion(network: CrystalNetwork, cases: list[CrystalCase], seed: int) -> np.ndarray:
    """How unlike the supposed crystals each case is at each of `FOREIGN_DOSES`, (doses, n)."""
    rows = []
    for number, case in enumerate(cases):
        network.distortion = case.under.distortion[0].double().numpy()
        generator = torch.Generator().manual_seed(5000 + 1000 * seed + number)
        counted = [case.frames(network.materials, dose, 1, generator) for dose in FOREIGN_DOSES.values()]
        rows.append(network.suspicion(torch.cat(counted).numpy(), case.optics))
    return np.array(rows).T


def outliers(own: list[np.ndarray], foreign: dict[str, list[np.ndarray]]) -> dict:
    """How well foreign crystals are told from the network's own, and what is flagged; each list is by seed."""
    sets = {**foreign, "all": [np.concatenate(some) for some in zip(*foreign.values(), strict=True)]}
    flat = {name: np.concatenate(some) for name, some in {"own": own, **sets}.items()}
    by_seed = {
        name: [areas(-mine, -theirs) for mine, theirs in zip(own, some, strict=True)] for name, some in sets.items()
    }
    return {
        "patterns": {name: len(some) for name, some in flat.items()},
        "auroc": {name: round(areas(-flat["own"], -flat[name]), 3) for name in sets},
        "auroc, sd of seeds": {name: round(statistics.stdev(each), 3) for name, each in by_seed.items()},
        "auroc, worst seed": {name: round(min(each), 3) for name, each in by_seed.items()},
        "flagged": {name: round(float((some > 1).mean()), 3) for name, some in flat.items()},
    }


def milliseconds(network: CrystalNetwork, case: CrystalCase) -> dict:
    """Time a pattern on the CPU [ms], in batches of 16, one and two threads in turn; medians."""
    network.distortion = case.under.distortion[0].double().numpy()
    frames = case.frames(network.materials, 1e5, 16, torch.Generator().manual_seed(1)).numpy()
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
    parser.add_argument("--cases", type=int, default=4, help="of a seed and material (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes that compute tables (default: %(default)s)")
    options = parser.parse_args()
    MATERIALS.update(FOREIGN)
    started = time.perf_counter()

    def done(what: str) -> None:
        print(f"{time.perf_counter() - started:.0f} s: {what}", flush=True)

    network = CrystalNetwork.pretrained(device="cpu")
    wanted = specs()
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        tables = {
            (t.material, t.energy_keV): DeviceTable.of(t) for t in pool.map(computed, wanted, [KEPT] * len(wanted))
        }
        done("tables")
        cases = {
            key: [held_out(table, options.cases, seed, network) for seed in SEEDS] for key, table in tables.items()
        }
        for name in network.among:
            own = [[whole_periods(case) for case in some] for some in cases[name, ENERGY]]
            under = [case.under for some in own for case in some]
            exact = pool.map(exactly_strained, [name] * len(under), [ENERGY] * len(under), under)
            cases[name, ENERGY] = [[replace(case, own=DeviceTable.of(next(exact))) for case in some] for some in own]
            done(f"{name}, as strained")
    result: dict = {
        "trained": {key: network.card[key] for key in ("date", "steps", "batch", "averaging")},
        "energy_keV": ENERGY,
        "seeds": len(SEEDS),
        "cases of a seed": options.cases,
        "draws": DRAWS,
    }
    for energy in ENERGIES:
        # The energy of most figures stands by itself.
        into = result if energy == ENERGY else result.setdefault(f"{energy:g} keV", {})
        for name in network.among:
            by_seed = [told(network, own, DRAWS, seed) for seed, own in zip(SEEDS, cases[name, energy], strict=True)]
            information = [np.array([case.information for case in own]) for own in cases[name, energy]]
            into[name] = {
                label: summarise([one[label] for one in by_seed], information, dose) for label, dose in DOSES.items()
            }
            done(f"{name} {energy:g} keV: {into[name]}")
    rows = {
        name: [suspicion(network, some, s) for s, some in zip(SEEDS, cases[name, ENERGY], strict=True)]
        for name in (*network.among, *FOREIGN)
    }
    result["foreign"] = {}
    for i, label in enumerate(FOREIGN_DOSES):
        own = [np.concatenate([rows[name][s][i] for name in network.among]) for s in range(len(SEEDS))]
        foreign = {name: [some[i] for some in rows[name]] for name in FOREIGN}
        result["foreign"][label] = outliers(own, foreign)
        done(f"foreign {label}: {result['foreign'][label]}")
    result["ms_per_pattern"] = milliseconds(network, cases["Si", ENERGY][0][0])
    network.refines = False
    result["ms_per_pattern, network alone"] = milliseconds(network, cases["Si", ENERGY][0][0])
    network.refines = True
    done(f"ms a pattern: {result['ms_per_pattern']}")
    some = [case for name in network.among for own in cases[name, ENERGY] for case in own[:2]]
    result["bfloat16"] = half_precision(some)
    done(f"bfloat16: {result['bfloat16']}")
    print(json.dumps(result))
