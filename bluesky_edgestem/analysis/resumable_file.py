"""HDF5 files of a long computation, which goes on where it was when it is begun again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import h5py


@contextlib.contextmanager
def resumable(path: Path) -> Iterator[h5py.File]:
    """Open a file to add to it; a new one, and the folders above it, where there is none.

    Raises
    ------
    OSError
        If it cannot be opened; the message names it.
    """
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = h5py.File(path, "a")
    except OSError as error:
        raise OSError(
            f"{path} cannot be added to ({error}): another process has it open, or it was cut short. Wait for the "
            "other, or delete the file and begin anew"
        ) from None
    with file:
        file.flush()  # from now on it can be opened again, whatever ends the process
        yield file
