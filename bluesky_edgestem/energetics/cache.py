"""Energies on disk, keyed by structure and method, so that none is computed twice: not in this run, not in the next,
not by two processes at once.

One SQLite file. A process that is to compute an energy first claims it; another that wants the same one sees the claim
and waits. A claim lives by its owner's heartbeat and lapses with it: what a crashed process left is taken over.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from .method import DFTMethod
from .result import EnergyResult

_SCHEMA = """
CREATE TABLE IF NOT EXISTS energies (
    formula TEXT NOT NULL, exx REAL NOT NULL, eyy REAL NOT NULL, exy REAL NOT NULL,
    method TEXT NOT NULL, code TEXT NOT NULL,
    energy REAL NOT NULL, gxx REAL NOT NULL, gyy REAL NOT NULL, gxy REAL NOT NULL,
    wall_s REAL NOT NULL, time REAL NOT NULL,
    PRIMARY KEY (formula, exx, eyy, exy, method, code)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (
    formula TEXT NOT NULL, exx REAL NOT NULL, eyy REAL NOT NULL, exy REAL NOT NULL,
    method TEXT NOT NULL, code TEXT NOT NULL,
    owner TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL, beat REAL NOT NULL,
    PRIMARY KEY (formula, exx, eyy, exy, method, code)
) WITHOUT ROWID;
"""
_MATCH = "formula = ? AND exx = ? AND eyy = ? AND exy = ? AND method = ? AND code = ?"


@dataclass(frozen=True)
class Structure:
    """What an energy is the energy of; strain must be rounded (`bluesky_edgestem.energetics.result.rounded`)."""

    formula: str
    strain: tuple[float, float, float]
    method: str
    code: str

    @classmethod
    def of(cls, formula: str, strain: tuple[float, float, float], method: DFTMethod) -> Structure:
        """The structure by `method`, as the installed GPAW computes it."""
        return cls(formula, strain, method.name, f"gpaw {version('gpaw')}")

    @property
    def row(self) -> tuple:
        """Its values in the order of the table's key."""
        return (self.formula, *self.strain, self.method, self.code)


class EnergyCache:
    """The energies of one folder. To be used from the thread that made it.

    Parameters
    ----------
    folder : path
        Made if missing. On a disk of this machine: SQLite's log does not work over a network file system.
    lapse : float
        A claim whose owner has not been heard of for so long [s] is void.

    Raises
    ------
    OSError
        If the folder cannot be written.
    ValueError
        If the file in it is not such a cache.
    """

    def __init__(self, folder: str | os.PathLike, lapse: float = 30.0) -> None:
        self.path = Path(folder) / "energies.sqlite"
        self.lapse = lapse
        self._host = socket.gethostname()
        self._owner = f"{self._host}:{os.getpid()}:{time.time_ns()}:{id(self)}"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._alone():
                self._db = sqlite3.connect(self.path, timeout=30.0, isolation_level=None)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
                self._db.executescript(_SCHEMA)
                # The schema exists already in an old file: only a write shows whether it can be written.
                with self._writing():
                    self._db.execute("DELETE FROM claims WHERE beat < ?", (time.time() - 10 * lapse,))
        except OSError as error:
            raise OSError(
                f"cannot make the folder of the energy cache {folder}: {error.strerror}; choose another one"
            ) from None
        except sqlite3.OperationalError as error:
            raise OSError(
                f"cannot write the energy cache {self.path}: {error}; "
                "free space, change permissions or choose another folder"
            ) from None
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{self.path} is no energy cache: {error}; "
                "move it away, and a new one is begun (energies are computed again)"
            ) from None

    def get(self, structure: Structure) -> EnergyResult | None:
        """The energy of `structure`, if known."""
        row = self._db.execute(
            f"SELECT energy, gxx, gyy, gxy, wall_s FROM energies WHERE {_MATCH}", structure.row
        ).fetchone()
        if row is None:
            return None
        energy, gxx, gyy, gxy, wall_s = row
        return EnergyResult(
            structure.formula,
            structure.strain,
            energy,
            (gxx, gyy, gxy),
            "converged",
            "",
            True,
            wall_s,
            structure.method,
        )

    def claim(self, structure: Structure) -> EnergyResult | bool:
        """Ask to compute `structure`.

        Returns
        -------
        EnergyResult or bool
            The energy if it is known; True if the caller is to compute it, and then to `put` or `release` it; False if
            another process does so already: ask again later.
        """
        with self._writing():
            known = self.get(structure)
            if known is not None:
                return known
            claim = self._db.execute(
                f"SELECT owner, host, pid, beat FROM claims WHERE {_MATCH}", structure.row
            ).fetchone()
            if claim is not None and self._holds(*claim):
                return claim[0] == self._owner
            self._db.execute(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*structure.row, self._owner, self._host, os.getpid(), time.time()),
            )
            return True

    def put(self, structure: Structure, result: EnergyResult) -> None:
        """Keep a converged `result` and end the claim; one that failed is not kept, since the next try may succeed."""
        with self._writing():
            if result.state == "converged":
                self._db.execute(
                    "INSERT OR REPLACE INTO energies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (*structure.row, result.energy, *result.gradient, result.wall_s, time.time()),
                )
            self._db.execute(f"DELETE FROM claims WHERE {_MATCH} AND owner = ?", (*structure.row, self._owner))

    def release(self, structure: Structure) -> None:
        """End the claim without an energy."""
        with self._writing():
            self._db.execute(f"DELETE FROM claims WHERE {_MATCH} AND owner = ?", (*structure.row, self._owner))

    def beat(self) -> None:
        """Keep this process's claims alive; to be called several times within `lapse`."""
        with self._writing():
            self._db.execute("UPDATE claims SET beat = ? WHERE owner = ?", (time.time(), self._owner))

    def __len__(self) -> int:
        return self._db.execute("SELECT count(*) FROM energies").fetchone()[0]

    def close(self) -> None:
        """End all claims of this process and close the file."""
        with contextlib.suppress(sqlite3.Error), self._writing():
            self._db.execute("DELETE FROM claims WHERE owner = ?", (self._owner,))
        try:
            with self._alone():
                self._db.close()
        except OSError:  # the folder is gone
            self._db.close()

    def _holds(self, owner: str, host: str, pid: int, beat: float) -> bool:
        if owner == self._owner:
            return True
        if time.time() - beat > self.lapse:
            return False
        if host != self._host:
            return True
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        # Neither the change to a log nor its removal by the last to close waits for another process as a write does:
        # SQLite says "database is locked" at once.
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        # IMMEDIATE takes the write lock before the read, so that two claims cannot both find nothing.
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def known(result: EnergyResult) -> EnergyResult:
    """`result` as one that was not computed for the one who asks."""
    return replace(result, cached=True)
