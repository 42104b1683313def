"""Make the disks that ship with the package, `analysis/weights/disks.bin`: ten minutes of one core, nothing drawn.

python benchmarks/make_disk_library.py                            # Si, SrTiO3 at 80, 200 and 300 keV
python benchmarks/make_disk_library.py --energies 60 --out my.bin # others, for `disk_store.table(..., path=...)`
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from bluesky_edgestem.analysis import disk_store
from bluesky_edgestem.analysis.disk_library import ENERGIES

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--material", nargs="+", default=("Si", "SrTiO3"), metavar="NAME")
    parser.add_argument("--energies", nargs="+", type=float, default=ENERGIES, metavar="KEV", help="of the beam [keV]")
    parser.add_argument("--out", type=Path, default=disk_store.SHIPPED)
    options = parser.parse_args()
    tables = []
    for spec in disk_store.specs(options.material, options.energies):
        began = time.perf_counter()
        tables.append(spec.compute())
        print(f"{spec.name}: {time.perf_counter() - began:.0f} s", flush=True)
    disk_store.write(options.out, tables)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")
