"""Run in .venv-py4dstem: py4DSTEM imports a file. Takes it, the rows of its scan, and a file for what py4DSTEM sees."""

import sys

import numpy as np
import py4DSTEM

path, rows, out = sys.argv[1:]
cube = py4DSTEM.import_file(path, scan_width=int(rows))
np.savez(out, data=cube.data)
