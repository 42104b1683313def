"""C functions of the libraries that Python's packages bring, called from compiled code.

The very library that a package uses is asked for the function, through the package's own extension module: so the
version is the package's, and nothing has to be found, built or linked.
"""

from __future__ import annotations

import ctypes
from types import ModuleType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def addresses(extension: ModuleType, *names: str) -> tuple[np.uint64, ...] | None:
    """Where C functions are that `extension` is linked to; None where they cannot be reached from outside."""
    try:
        library = ctypes.CDLL(str(extension.__file__))  # loaded already: this looks it up, and what it depends on
        return tuple(np.uint64(ctypes.cast(library[name], ctypes.c_void_p).value or 0) for name in names)
    except (OSError, AttributeError):
        return None


def _call(typingctx, function, arguments):
    """Call the C function at the address `function`; `arguments` is a tuple of integers of its widths, or addresses.

    What it returns is taken for 64 bits: of a C ``int`` only the lower 32 are of any meaning (`numpy.int32`).
    """
    signature = types.int64(types.uint64, arguments)

    def generate(context, builder, signature, values):
        given = cgutils.unpack_tuple(builder, values[1])
        kind = ir.FunctionType(ir.IntType(64), [value.type for value in given]).as_pointer()
        return builder.call(builder.inttoptr(values[0], kind), given)

    return signature, generate


call: Any = intrinsic(_call)
