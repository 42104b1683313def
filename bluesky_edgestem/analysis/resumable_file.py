"""HDF5 files of a long computation, which goes on where it was when it is begun again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import h5py

UNFINISHED = "unfinished"
"""What is being written, until it is whole and gets its name."""


@contextlib.contextmanager
def resumable(path: Path, what: str, own: Callable[[h5py.File, str], bool]) -> Iterator[h5py.File]:
    """Open a file to add to it; a new one, and the folders above it, where there is none.

    What a computation that was ended has left behind is deleted.

    Parameters
    ----------
    path : Path
    what : str
        That the file holds, for messages.
    own : function
        Of the file and a name in it: whether it is of such a file.

    Raises
    ------
    ValueError
        If it holds anything else, which it is left with.
    OSError
        If it cannot be opened; the message names it.
    """
    import h5py

    if path.is_file() and not h5py.is_hdf5(path):
        raise ValueError(f"{path} is no HDF5 file, let alone one of {what}: choose another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = h5py.File(path, "a")
    except OSError as error:
        raise OSError(
            f"{path} cannot be added to ({error}): another process has it open, or it was cut short. Wait for the "
            "other, or delete the file and begin anew"
        ) from None
    with file:
        foreign = [name for name in file if name != UNFINISHED and not own(file, name)]
        # Each of them states its format before anything is put into it.
        if foreign or (len(file) and "format" not in file.attrs):
            raise ValueError(f"{path} holds {', '.join(list(file)[:3])}: it is no file of {what}; choose another")
        file.pop(UNFINISHED, None)
        file.flush()  # from now on it can be opened again, whatever ends the process
        yield file
