"""The demo's closed loop on several specimens: real Channel Access, multislice, DFT and catalog; nothing known before.

python benchmarks/bench_loop.py               # specimens 1, 2 and 3
python benchmarks/bench_loop.py --seeds 4 5   # others

The map is scored against the emulator's energies (an elastic fit to the committed table of DFT energies) at the true
strain, on every point of the map. All is simulated but the DFT, the network and the software.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def one(seed: int, folder: Path) -> dict[str, float | str]:
    """Run the demo on the specimen of `seed` with an empty cache; its figures."""
    from bluesky_edgestem.catalog.server import open_catalog
    from bluesky_edgestem.config import demo_experiment
    from bluesky_edgestem.experiment import carry_out
    from bluesky_edgestem.report import RunRecord, figures
    from bluesky_edgestem.run_report import score

    demo = demo_experiment()
    experiment = demo.model_copy(
        update={
            "microscope": demo.microscope.model_copy(update={"specimen_seed": seed, "prefix": f"BENCH{seed}:"}),
            "energetics": demo.energetics.model_copy(update={"cache": folder / "cache"}),
            "catalog": demo.catalog.model_copy(update={"folder": folder / "data"}),
        }
    )
    began = time.monotonic()
    status = carry_out(experiment)
    if status:
        raise RuntimeError(f"the run of specimen {seed} ended with status {status}")
    whole = time.monotonic() - began
    with open_catalog(folder / "data" / "catalog") as catalog:
        record = RunRecord.read(catalog[-1])
        found = {name: value for name, (value, _) in figures(record, score(record)).items()}
    return {**found, "whole command, s": whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(one(options.only, Path(folder))))
        return
    runs = []
    for seed in options.seeds:
        # EPICS reads its environment once in a process.
        done = subprocess.run(
            [sys.executable, __file__, "--only", str(seed)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        print(done.stdout, flush=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    columns = {name: [run[name] for run in runs] for name in runs[0]}
    result = {
        "specimens": options.seeds,
        "runs": columns,
        "mean": {k: float(np.mean(v)) for k, v in columns.items() if not isinstance(v[0], str)},
        "sd": {k: float(np.std(v, ddof=1)) for k, v in columns.items() if not isinstance(v[0], str) and len(v) > 1},
        "worst": {k: float(np.max(v)) for k, v in columns.items() if not isinstance(v[0], str)},
        "least": {k: float(np.min(v)) for k, v in columns.items() if not isinstance(v[0], str)},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
