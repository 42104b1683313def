"""Run in .venv-libertem: LiberTEM, HyperSpy and RosettaSciIO open a file; what they see of it goes to an npz file."""

import sys
import warnings

import hdf5plugin  # noqa: F401
import hyperspy.api as hs
import libertem.api as lt
import numpy as np
from libertem.udf.sumsigudf import SumSigUDF
from rsciio.nexus import file_reader

warnings.simplefilter("ignore")
path, out = sys.argv[1:]
with lt.Context.make_with("inline") as context:
    data = context.load("hdf5", path=path, ds_path="/entry/data/data")
    sums = context.run_udf(data, udf=SumSigUDF())["intensity"].data
signals = hs.load(path, file_format="NeXus")
signal = next(s for s in signals if s.metadata.General.title == "scan")
read = next(r for r in file_reader(path) if r["metadata"]["General"]["title"] == "data")
np.savez(
    out,
    libertem_shape=tuple(data.shape),
    libertem_sums=sums,
    hyperspy=signal.data,
    hyperspy_scales=[axis.scale for axis in signal.axes_manager._axes],
    hyperspy_units=[str(axis.units) for axis in signal.axes_manager._axes],
    rosettasciio=read["data"],
    pixel_size=signal.original_metadata.instrument.detector.x_pixel_size.value,
)
