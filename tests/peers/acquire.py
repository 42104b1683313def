"""Run in .venv-libertem: libertem-live acquires a scan. Takes API port, stream port, ny, nx, file for the results."""

import sys

import numpy as np
from libertem.executor.inline import InlineJobExecutor
from libertem.udf.com import CoMUDF
from libertem.udf.sum import SumUDF
from libertem.udf.sumsigudf import SumSigUDF
from libertem_live.api import LiveContext

api_port, data_port, ny, nx = (int(word) for word in sys.argv[1:5])
with (
    LiveContext(executor=InlineJobExecutor()) as context,
    context.make_connection("dectris").open(
        api_host="127.0.0.1", api_port=api_port, data_host="127.0.0.1", data_port=data_port, buffer_size=128
    ) as connection,
):
    scan = context.make_acquisition(
        conn=connection, controller=connection.get_active_controller(trigger_mode="exte"), nav_shape=(ny, nx)
    )
    total, sums, com = context.run_udf(scan, udf=[SumUDF(), SumSigUDF(), CoMUDF()])
np.savez(sys.argv[5], total=total["intensity"].data, sums=sums["intensity"].data, com=com["raw_com"].data)
