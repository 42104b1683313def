"""The file that a strain autoencoder's weights are kept in: facts as JSON and arrays, under a checksum."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"EDGESTEM-STRAIN"
FORMAT = 1


def write(path: Path, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write facts and arrays."""
    payload = io.BytesIO()
    np.savez_compressed(payload, facts=np.array(json.dumps(facts)), **arrays)  # pyright: ignore[reportArgumentType]
    data = payload.getvalue()
    header = b"%s %d %s\n" % (MAGIC, FORMAT, hashlib.sha256(data).hexdigest().encode())
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + data)


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Facts and arrays of a file.

    Raises
    ------
    ValueError
        If it is missing, cut short, altered or of another version; the message names it.
    """

    def refuse(why: str) -> ValueError:
        return ValueError(f"strain autoencoder weights {path}: {why}; write it anew with `edgestem train strain`")

    try:
        header, _, data = Path(path).read_bytes().partition(b"\n")
    except OSError as error:
        raise refuse(error.strerror or "cannot be read") from None
    words = header.split()
    if len(words) != 3 or words[0] != MAGIC:
        raise refuse("not a weights file of the strain autoencoder")
    if words[1] != b"%d" % FORMAT:
        raise refuse(f"format {words[1].decode(errors='replace')}, this version reads format {FORMAT}")
    if hashlib.sha256(data).hexdigest().encode() != words[2]:
        raise refuse("cut short or altered (its checksum does not match)")
    with np.load(io.BytesIO(data), allow_pickle=False) as kept:
        arrays = {name: kept[name] for name in kept.files}
    return json.loads(str(arrays.pop("facts"))), arrays
