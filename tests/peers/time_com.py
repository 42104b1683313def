"""Run in .venv-libertem by benchmarks/bench_com.py: LiberTEM's centre of mass of frames in memory, timed.

Takes a file of frames (n, ny, nx) as numpy saves them, n a multiple of `WIDTH`, and the cores to use. Answers each line
of its standard input by one JSON object: the time [s], and the mean centre of mass (y, x) [pixels].

Threads with a few partitions each, and one thread in each matrix product, are what was fastest: the inline executor
took twenty times as long, processes have the frames sent to them.
"""

import json
import os
import sys
import time
import warnings
from importlib.metadata import version

import numpy as np
from libertem.api import Context
from libertem.udf.com import CoMUDF

WIDTH = 32
"""Of the scan that the frames are taken for: LiberTEM differentiates the field."""

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    cores = int(sys.argv[2])
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    frames = np.load(sys.argv[1])
    with Context.make_with("threads") as context:
        scan = frames.reshape(-1, WIDTH, *frames.shape[1:])
        data = context.load("memory", data=scan, sig_dims=2, num_partitions=4 * cores)
        print(json.dumps({"libertem": version("libertem")}), flush=True)
        for _ in sys.stdin:
            began = time.perf_counter()
            found = context.run_udf(data, CoMUDF())
            seconds = time.perf_counter() - began
            mean = np.nanmean(found["raw_com"].data.reshape(-1, 2), axis=0)
            print(json.dumps({"seconds": seconds, "mean": mean.tolist()}), flush=True)
