"""Strain from structured disks: the strain autoencoder beside py4DSTEM and libertem-blobfinder, on the same patterns.

The specimens are those of `strain_cases` and `strain_pyxem`; each seed is another one. The autoencoder is trained on
each scan at 1e5 electrons a pattern, and reads other draws of the noise at positions spread over it, at 1e4 too without
being trained again. The peers read the same frames. They are given what a user would have to find: the probe without
noise, which disks are bright, and each grain's lattice without its strain. Of a few settings of theirs each case gets
the one with the least error, which only somebody who knows the truth could choose. What disks' insides do to a peer
alike everywhere, a reference region takes off: so their mean error over each scan is taken off before anything is
counted. Ours is left on.

One case after the other; ``--without peers`` or ``--without ours`` leaves those out. Figures are means over seeds, with
the standard deviation from seed to seed beside.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scipy.ndimage import gaussian_filter
from strain_cases import StrainCase, make
from strain_pyxem import make_pyxem
from strain_scores import Reading, errors, from_affine, summarise

from bluesky_edgestem.analysis import crystals
from bluesky_edgestem.analysis.strain_autoencoder import StrainAutoencoder

DOSES = {"1e4": 1e4, "1e5": 1e5}
TRAINED_AT = 1e5
DRAWS, TIMED = 2, 4
"""Draws of a sample's noise whose readings are scored, and that are read at once, a small scan, to take the time."""
ROOT = Path(__file__).parents[1]
PEER = ROOT / ".venv-py4dstem/bin/python"
PY4DSTEM = {"peer": "py4DSTEM", "corrPower": 0.8, "upsample_factor": 16, "minRelativeIntensity": 0.01}
SETTINGS: dict[str, list[dict]] = {
    "py4DSTEM": [
        PY4DSTEM | {"kernel": "sigmoid", "sigma_cc": 2, "weight": 1.0, "power": 1.0},
        PY4DSTEM | {"kernel": "sigmoid", "sigma_cc": 0, "weight": 1.0, "power": 1.0},
        PY4DSTEM | {"kernel": "sigmoid", "sigma_cc": 0, "weight": 0.5, "power": 0.5},
        PY4DSTEM | {"kernel": "gaussian", "sigma_cc": 0, "weight": 0.5, "power": 1.0},
        PY4DSTEM | {"kernel": "gaussian", "sigma_cc": 0, "weight": 0.5, "power": 0.5},
    ],
    "blobfinder": [
        {"peer": "blobfinder", "pattern": "gradient", "upsample": 20},
        {"peer": "blobfinder", "pattern": "gradient", "upsample": False},
        {"peer": "blobfinder", "pattern": "flat", "upsample": 20},
        {"peer": "blobfinder", "pattern": "flat", "upsample": False},
    ],
}
CHOSEN_ON = 32
"""Patterns of the first seed on which a peer's setting is chosen."""


def probe(case: StrainCase) -> np.ndarray:
    """The beam without a specimen, in the frame's middle, without noise (ny, nx)."""
    axis = (np.arange(8 * case.optics.n_pixels) + 0.5) / 8 - case.optics.n_pixels / 2
    fine = np.hypot(axis, axis[:, None]) < case.optics.disk_radius
    n = case.optics.n_pixels
    return gaussian_filter(fine.reshape(n, 8, n, 8).mean((1, 3)), case.optics.psf_px)


def nominal(case: StrainCase) -> np.ndarray:
    """The lattice of each pattern's grain without its strain, (n, 2, 2) rows [pixels]."""
    grain, rotation = case.specimen.grain, case.specimen.rotation
    mean = np.array([rotation[grain == g].mean() for g in range(grain.max() + 1)])
    return case.reference @ np.linalg.inv(crystals.rotation_matrix(mean[grain]))


class Peers:
    """py4DSTEM and blobfinder in their own environment, at work on one or more draws of a case's frames."""

    def __init__(self, case: StrainCase, frames: np.ndarray, bright: np.ndarray) -> None:
        self._folder = TemporaryDirectory()
        self.frames = len(frames)
        place = Path(self._folder.name)
        np.save(place / "frames.npy", frames)
        np.save(place / "probe.npy", probe(case))
        np.savez(
            place / "given.npz",
            lattice=np.tile(nominal(case), (len(frames) // len(case.patterns), 1, 1)),
            reflections=bright,
            radius=case.optics.disk_radius,
        )
        self._process = subprocess.Popen(
            [str(PEER), str(ROOT / "tests/peers/find_disks.py"), str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ) | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
        )
        self.versions: dict[str, str] = self._answer()

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended with status {self._process.wait()}; scripts/peers makes it anew")
        return json.loads(line)

    def find(self, settings: dict, frames: int | None = None, cores: int = 2) -> tuple[Reading, float]:
        """What is found in the first frames, and the time a pattern [s]."""
        assert self._process.stdin is not None
        out = Path(self._folder.name) / "found.npz"
        asked = settings | {"frames": frames or self.frames, "cores": cores, "out": str(out)}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        seconds = self._answer()["seconds"]
        lattice = np.full((self.frames, 2, 2), np.nan)
        with np.load(out) as found:
            lattice[: asked["frames"]] = found["lattice"]
        return Reading(lattice), seconds

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._folder.cleanup()


def bright_reflections(case: StrainCase) -> np.ndarray:
    """Indices (m, 2) of the reflections where a fiftieth of the brightest pixel is reached, somewhere."""
    index = np.stack(np.meshgrid(*[np.arange(-8, 9)] * 2, indexing="ij"), -1).reshape(-1, 2)
    brightest, size = np.zeros(len(index)), case.optics.n_pixels
    for pattern, centre, lattice in zip(case.patterns, case.centre, case.lattice, strict=True):
        x, y = np.round(centre + index @ lattice).astype(int).T
        inside = (np.minimum(x, y) >= 0) & (np.maximum(x, y) < size)
        brightest[inside] = np.maximum(brightest[inside], pattern[y[inside], x[inside]] / pattern.max())
    return index[brightest > 0.02]


def chosen_setting(name: str, peers: Peers, case: StrainCase) -> dict:
    """The setting of a peer with the least error on some of a case's patterns, its mean taken off."""

    def error(settings: dict) -> float:
        some = peers.find(settings, CHOSEN_ON)[0].lattice[: len(case.patterns)]
        found = errors(Reading(some), case)[:CHOSEN_ON, :3]
        return float(np.nanvar(found, 0).sum() + np.isnan(found).mean())

    return min(SETTINGS[name], key=error)


def spread(rows: Sequence[dict]) -> dict:
    """Mean over seeds of every figure, and beside it under `sd` how it differs from seed to seed."""

    def joined(values: list) -> dict | float:
        if isinstance(values[0], dict):
            return {key: joined([value[key] for value in values]) for key in values[0]}
        return float(f"{statistics.mean(values):.3g}")

    def deviation(values: list) -> dict | float:
        if isinstance(values[0], dict):
            return {key: deviation([value[key] for value in values]) for key in values[0]}
        return float(f"{statistics.stdev(values) if len(values) > 1 else 0:.2g}")

    both = joined(list(rows))
    assert isinstance(both, dict)
    worst = {key: max(row["worst"][key] for row in rows) for key in rows[0]["worst"]}
    return both | {"worst": worst, "sd": deviation(list(rows))}


def run_case(name: str, seeds: Sequence[int], folder: Path, wanted: Sequence[str]) -> dict:
    """All figures of one case."""
    scores: dict[str, dict[str, list[dict]]] = {}
    training: list[dict] = []
    settings: dict[str, dict] = {}

    def score(who: str, label: str, readings: list[Reading], case: StrainCase, relative: bool) -> None:
        rows = scores.setdefault(who, {}).setdefault(label, [])
        rows.append(summarise(readings, case, DOSES[label], relative))

    for seed in seeds:
        scan = make_pyxem(seed) if name == "pyxem" else make(name, seed, folder, workers=2)
        network = None
        if "ours" in wanted:
            began = time.perf_counter()
            network = StrainAutoencoder.train(scan.frames(TRAINED_AT, 0), seed=seed, progress=print)
            seconds = round(time.perf_counter() - began, 1)
            training.append({"s": seconds, "converged": network.converged, "why": network.why})
        case = scan.sample()
        for label, dose in DOSES.items():
            if name.startswith("background") and label != "1e5":
                continue  # what is published of others is at 1e5
            draws = [case.frames(dose, 1 + draw) for draw in range(DRAWS)]
            if network is not None:
                readings = [from_affine(network.read(frames), network.base_vectors, case) for frames in draws]
                score("ours", label, readings, case, relative=False)
                score("ours, mean error taken off", label, readings, case, relative=True)
            if "peers" in wanted:
                peers = Peers(case, np.concatenate(draws), bright_reflections(case))
                for peer in SETTINGS:
                    if seed == seeds[0]:
                        settings[f"{peer} {label}"] = chosen_setting(peer, peers, case)
                    found = peers.find(settings[f"{peer} {label}"])[0].lattice.reshape(DRAWS, -1, 2, 2)
                    score(peer, label, [Reading(part) for part in found], case, relative=True)
                peers.close()
        for who, by in scores.items():
            last = {label: {k: rows[-1].get(k) for k in ("rms", "ratio", "lost")} for label, rows in by.items()}
            print(f"{name}, seed {seed}, {who}: {last}", flush=True)
    out: dict = {who: {label: spread(rows) for label, rows in by.items()} for who, by in scores.items()}
    return out | {"training": training, "settings": settings}


def run_time(folder: Path, wanted: Sequence[str], rounds: int = 25, cores: int = 2) -> dict:
    """Time a pattern [ms] of each, in turn, so that what else the machine does hits all alike; medians."""
    out: dict = {"cores": cores}
    for name in ("Si-128", "Si-256"):
        scan = make(name, 1, folder)
        case = scan.sample()
        frames = np.concatenate([case.frames(TRAINED_AT, draw) for draw in range(TIMED)])
        times: dict[str, list[float]] = {}
        network = StrainAutoencoder.train(scan.frames(TRAINED_AT, 0), seed=1) if "ours" in wanted else None
        peers = Peers(case, frames, bright_reflections(case)) if "peers" in wanted else None
        for round_ in range(rounds + 1):
            if network is not None:
                began = time.perf_counter()
                network.read(frames)
                times.setdefault("ours", []).append((time.perf_counter() - began) / len(frames))
            for peer in SETTINGS if peers is not None else ():
                assert peers is not None
                for settings in SETTINGS[peer] if peer == "blobfinder" else SETTINGS[peer][:1]:
                    named = f"{peer}, upsampled" if settings.get("upsample") else peer
                    if settings.get("pattern") != "flat" and (round_ < 3 or peer == "blobfinder"):
                        seconds = peers.find(settings, 64 if peer == "py4DSTEM" else None, cores)[1]
                        times.setdefault(named, []).append(seconds)
        if peers is not None:
            peers.close()
        # The first of each compiles, or loads.
        out[name] = {who: float(f"{1e3 * statistics.median(values[1:]):.3g}") for who, values in times.items()}
        print(f"ms a pattern, {name}: {out[name]}", flush=True)
    return out


def main(parts: Sequence[str], description: str | None, without: str | None = None) -> None:
    """Run cases, "pyxem", or "time", as a benchmark does: by its command line, with the figures as its last line.

    Whom it is `without`, "ours" or "peers", if nothing else is asked for.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, default=3, help="specimens of each case (default: %(default)s)")
    parser.add_argument("--without", choices=["ours", "peers"], default=without, help="leave these out")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("edgestem_data/strain_cases"),
        help="where tables of disks and multislice patterns are kept (default: %(default)s)",
    )
    options = parser.parse_args()
    wanted = [who for who in ("ours", "peers") if who != options.without]
    if "peers" in wanted:
        subprocess.run([ROOT / "scripts/peers"], check=True, stdout=sys.stderr)
    result: dict = {"seeds": options.seeds, "trained at": TRAINED_AT}
    started = time.perf_counter()
    for name in parts:
        if name == "time":
            result[name] = run_time(options.folder, wanted)
        else:
            result[name] = run_case(name, range(1, options.seeds + 1), options.folder, wanted)
        print(f"{time.perf_counter() - started:.0f} s: {name} done", flush=True)
    print(json.dumps(result))
