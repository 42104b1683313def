# How GPAW is built here (read through GPAW_CONFIG): serial, because each Dask worker is one process with one thread.
# ruff: noqa: F821
compiler = "g++"
mpi = False
fftw = True
libraries = ["xc", "openblas", "fftw3"]
