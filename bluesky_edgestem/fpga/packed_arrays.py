"""Facts and arrays as bytes: the same ones are the same bytes, whenever they are written, as an archive's are not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

_SIZE = 8  #: bytes that say how long the header is


def pack(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """A header of `facts`, which JSON can hold, and of the arrays' names, types and shapes; then the arrays."""
    described = [[name, array.dtype.str, array.shape] for name, array in arrays.items()]
    header = json.dumps({**facts, "arrays": described}, sort_keys=True).encode()
    parts = [len(header).to_bytes(_SIZE, "little"), header]
    return b"".join(parts + [np.ascontiguousarray(array).tobytes() for array in arrays.values()])


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `pack` was given; the arrays can only be read."""
    at = _SIZE + int.from_bytes(data[:_SIZE], "little")
    facts = json.loads(data[_SIZE:at])
    arrays = {}
    for name, dtype, shape in facts.pop("arrays"):
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(data, dtype, count, at).reshape(shape)
        at += arrays[name].nbytes
    return facts, arrays
