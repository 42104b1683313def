# How GPAW is built here (read through GPAW_CONFIG): serial, because each Dask worker is one process, one thread.
compiler = "g++"
mpi = False
fftw = True
libraries = ["xc", "openblas", "fftw3"]
