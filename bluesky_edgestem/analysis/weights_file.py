"""Files of trained weights: a line that says whose they are and of which format, with a checksum, then the weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SHIPPED = Path(__file__).parent / "weights"
_MARK = b"EDGESTEM-"
"""What every weights file begins with."""


def check_output(path: Path, beside: Sequence[str] = ()) -> None:
    """Raise ValueError where trained weights cannot be written: before the training, not after it.

    Parameters
    ----------
    path : Path
        File to write; weights that are there are replaced, nothing else is.
    beside : sequence of str
        Suffixes of what is written beside it.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder: name a file to write")
    ours = False
    if path.exists():
        with path.open("rb") as file:
            ours = file.read(len(_MARK)) == _MARK
        if not ours:
            raise ValueError(
                f"--out {path} holds something else than weights, which it would replace: name another file"
            )
    if not ours and (lost := [p for suffix in beside if (p := path.with_suffix(suffix)).exists()]):
        raise ValueError(f"--out {path}: {lost[0]}, which is there, would be replaced: name another file")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"--out {path}: {folder} is no folder that can be written to: name another file")


@dataclass(frozen=True)
class WeightsFile:
    """The files of one kind of network."""

    magic: bytes  #: the first word of the file
    format: int  #: raised when what follows changes
    name: str  #: of the network, for messages
    remedy: str = "write it anew with `edgestem train descriptors`"  #: what to do about a file that is none

    def is_of(self, path: Path) -> bool:
        """Whether a file says that it is such a file."""
        try:
            with Path(path).open("rb") as file:
                return file.read(len(self.magic) + 1) == self.magic + b" "
        except OSError:
            return False

    def write(self, path: Path, data: bytes) -> None:
        """Write `data` under its checksum."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        header = b"%s %d %s\n" % (self.magic, self.format, hashlib.sha256(data).hexdigest().encode())
        path.write_bytes(header + data)

    def read(self, path: Path) -> bytes:
        """What was written.

        Raises
        ------
        ValueError
            If the file is missing, cut short, altered, or of another format or network; the message names it.
        """
        try:
            header, _, data = Path(path).read_bytes().partition(b"\n")
        except OSError as error:
            raise self.refusal(path, error.strerror or "cannot be read") from None
        words = header.split()
        if len(words) != 3 or words[0] != self.magic:
            other = len(words) == 3 and header.startswith(_MARK)  # whole, and no reinstallation makes it another
            raise self.refusal(path, f"not a weights file of the {self.name}", installed_wrongly=not other)
        if words[1] != b"%d" % self.format:
            found = words[1].decode(errors="replace")
            raise self.refusal(path, f"format {found}, this version reads format {self.format}")
        if hashlib.sha256(data).hexdigest().encode() != words[2]:
            raise self.refusal(path, "cut short or altered (its checksum does not match)")
        return data

    def refusal(self, path: Path, why: str, installed_wrongly: bool = True) -> ValueError:
        """The error of a file that cannot be used, `installed_wrongly` if it ships with the package."""
        remedy = "reinstall bluesky-edgestem" if installed_wrongly and Path(path).parent == SHIPPED else self.remedy
        return ValueError(f"{self.name} weights {path}: {why}; {remedy}")
