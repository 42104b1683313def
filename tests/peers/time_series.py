"""Run in .venv-libertem by benchmarks/bench_stream.py: libertem-live acquires series, and says how long each took.

Takes the executor (inline or pipelined), then on each line of its standard input API port, stream port and frames.
Answers each by one JSON object: the time [s] from arming to the result, and the sum over all frames [counts].
"""

import json
import sys
import time
from importlib.metadata import version

from libertem.executor.inline import InlineJobExecutor
from libertem.udf.com import CoMUDF
from libertem.udf.sumsigudf import SumSigUDF
from libertem_live.api import LiveContext

WIDTH = 100


def acquire(context: LiveContext, api_port: int, data_port: int, frames: int) -> dict:
    """One series; the connection is closed after it, as an open one would take frames of the next."""
    connecting = context.make_connection("dectris").open(
        api_host="127.0.0.1", api_port=api_port, data_host="127.0.0.1", data_port=data_port, buffer_size=256
    )
    with connecting as connection:
        scan = context.make_acquisition(
            conn=connection,
            controller=connection.get_active_controller(trigger_mode="exte"),
            nav_shape=(frames // WIDTH, WIDTH),
        )
        began = time.perf_counter()
        sums, _ = context.run_udf(scan, udf=[SumSigUDF(), CoMUDF()])
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "counts": int(sums["intensity"].data.sum(dtype=float))}


if __name__ == "__main__":
    executors = {"inline": lambda: LiveContext(executor=InlineJobExecutor()), "pipelined": LiveContext}
    with executors[sys.argv[1]]() as context:
        print(
            json.dumps({name: version(name) for name in ("libertem", "libertem-live", "libertem-dectris")}), flush=True
        )
        for line in sys.stdin:
            print(json.dumps(acquire(context, *(int(word) for word in line.split()))), flush=True)
