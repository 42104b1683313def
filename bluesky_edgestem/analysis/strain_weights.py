"""The file that a strain autoencoder's weights are kept in: facts as JSON and arrays, under a checksum."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from .weights_file import WeightsFile

WEIGHTS = WeightsFile(b"EDGESTEM-STRAIN", 4, "strain autoencoder", "write it anew with `edgestem train strain`")


def write(path: Path, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write facts and arrays."""
    payload = io.BytesIO()
    np.savez_compressed(payload, facts=np.array(json.dumps(facts)), **arrays)  # pyright: ignore[reportArgumentType]
    WEIGHTS.write(path, payload.getvalue())


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Facts and arrays of a file.

    Raises
    ------
    ValueError
        If it is missing, cut short, altered or of another version; the message names it.
    """
    with np.load(io.BytesIO(WEIGHTS.read(path)), allow_pickle=False) as kept:
        arrays = {name: kept[name] for name in kept.files}
    return json.loads(str(arrays.pop("facts"))), arrays
