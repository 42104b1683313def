"""Strain weights on scans that they were not learned from: of another specimen, and at another dose.

Of each material as many specimens, whose networks learn from their own scan at 1e4 and at 1e5 electrons a pattern. Each
reads its own scan at both doses, and at 1e5 the scan of the next specimen: other strain, thickness and tilt, of which
it has seen no pattern. Disks of 6 pixels, where errors are largest.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from strain_cases import make
from strain_comparison import DOSES, DRAWS, spread
from strain_scores import from_affine, summarise

from bluesky_edgestem.analysis.strain_autoencoder import StrainAutoencoder


def main() -> None:
    """Print the figures as JSON, on the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="specimens of each material (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("edgestem_data/strain_cases"), help="as for the others")
    options = parser.parse_args()
    result: dict = {"seeds": options.seeds}
    for material in ("Si", "SrTiO3"):
        scans = [make(f"{material}-128", seed, options.folder, workers=2) for seed in range(1, options.seeds + 1)]
        rows: dict[str, list[dict]] = {}
        for seed, scan in enumerate(scans):
            for learned, dose in DOSES.items():
                network = StrainAutoencoder.train(scan.frames(dose, 0), seed=seed + 1, progress=print)
                read = [(label, "own", scan) for label in DOSES]
                if learned == "1e5":
                    read.append(("1e5", "another specimen", scans[(seed + 1) % len(scans)]))
                for label, which, of in read:
                    case = of.sample()
                    draws = [case.frames(DOSES[label], 1 + draw) for draw in range(DRAWS)]
                    readings = [from_affine(network.read(each), network.base_vectors, case) for each in draws]
                    name = f"{which}, learned at {learned}, read at {label}"
                    rows.setdefault(name, []).append(summarise(readings, case, DOSES[label]))
                    print(material, seed + 1, name, rows[name][-1]["rms"], rows[name][-1]["ratio"], flush=True)
        result[material] = {name: spread(each) for name, each in rows.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
