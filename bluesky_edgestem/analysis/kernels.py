"""Compiled code: without the interpreter's lock, kept on disk where there is room for it, and never out of date."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import itertools
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FunctionType
from typing import Any

from numba import njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target


def kernel(function: Callable | None = None, **options: Any) -> Any:
    """Compile a function at its first call, as `numba.njit` does, for any number of threads at a time.

    What was compiled is kept beside the source, or in the user's cache. Where neither can be written it is compiled
    anew in each process. numba itself believes what it kept as long as the function's own file is the same; here all
    that goes into the compiled code has to be: the files of the kernels that it calls, and the constants that it uses.

    Parameters
    ----------
    function : callable, optional
    **options
        Further ones of `numba.njit`.
    """
    if function is None:
        return lambda function: kernel(function, **options)
    compiled: Any = njit(nogil=True, error_model="numpy", **options)(function)
    with contextlib.suppress(RuntimeError):  # there is no folder that can be written
        compiled._cache = _Cache(function)
    return compiled


def in_parts(n: int, do: Callable[[slice], object]) -> None:
    """Call `do` with parts of `n`, all processors at work; kernels do not hold the interpreter's lock."""
    load()
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = max(min(allowed, n), 1)
    edges = [n * i // count for i in range(count + 1)]
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(do, [slice(*edge) for edge in itertools.pairwise(edges)]))


@functools.cache
def load() -> None:
    """Let numba load what it does at its first compilation: two threads that do so at once can end with an error.

    To be called before kernels are, by threads.
    """
    with global_compiler_lock:
        cpu_target.typing_context.refresh()  # pyright: ignore[reportAttributeAccessIssue]
        cpu_target.target_context.refresh()  # pyright: ignore[reportAttributeAccessIssue]


class _Sources(CompileResultCacheImpl):
    """Says for what source the compiled code stands."""

    def __init__(self, py_func: FunctionType) -> None:
        super().__init__(py_func)
        digest = hashlib.sha256(b"".join(_sources(py_func, set()))).hexdigest()
        self.locator.get_source_stamp = lambda: digest


class _Cache(FunctionCache):
    """A cache whose disk may be full, and whose files may be of classes that are no more, or cut short."""

    _impl_class = _Sources

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


def _sources(function: FunctionType, seen: set[FunctionType]) -> Iterator[bytes]:
    """The function's file, and what it takes from elsewhere: constants, and other functions likewise."""
    seen.add(function)
    yield Path(inspect.getfile(function)).read_bytes()
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        called = getattr(value, "py_func", None) or getattr(value, "_defn", None)  # a kernel, or an intrinsic
        if called is None:
            with contextlib.suppress(Exception):  # no constant, and no part of what is compiled
                yield pickle.dumps(value)
        elif called not in seen:
            yield from _sources(called, seen)
