"""Linear algebra and networks in the thread that calls them: those of a library fight with ours for the processors."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from functools import lru_cache

from threadpoolctl import ThreadpoolController


@lru_cache(maxsize=1)
def _libraries(modules: int) -> ThreadpoolController:
    """Those that are loaded; looked for anew when more modules are, as it takes half a millisecond and more."""
    return ThreadpoolController()


def one_thread() -> AbstractContextManager:
    """Inside, linear algebra (BLAS) and networks (OpenMP) compute in the calling thread alone.

    OpenBLAS wakes its threads for the inverse of a 2 by 2 matrix, and they look out for more, a tenth of a second long,
    on processors that `kernels.in_parts` or a calculation in another process keeps busy. With more threads than free
    processors a network takes ten times as long.

    OpenMP counts threads for each thread that calls it, BLAS for the whole process: of several threads inside, it is
    for the first that threadpoolctl limits BLAS, until that one leaves. Libraries that are loaded inside are not
    limited.
    """
    return _libraries(len(sys.modules)).limit(limits=1)
