# How GPAW is built here (read through GPAW_CONFIG): serial, as a Dask worker is one process with one thread.
compiler = "g++"
mpi = False
fftw = True
libraries = ["xc", "openblas", "fftw3"]
