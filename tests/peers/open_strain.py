"""Run in .venv-libertem: RosettaSciIO, with which HyperSpy loads, opens strain maps; what it sees goes to a file."""

import sys

import numpy as np
from rsciio.nexus import file_reader

path, out = sys.argv[1:]
maps = {each["metadata"]["General"]["title"]: each for each in file_reader(path, nxdata_only=True)}
np.savez(
    out,
    names=sorted(maps),
    exx=maps["exx"]["data"],
    axes=[[axis["offset"], axis["scale"]] for axis in maps["exx"]["axes"]],
    units=[axis["units"] for axis in maps["exx"]["axes"]],
)
