"""Bring runs into the catalog that are still in journals only."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bluesky_edgestem.catalog.connection import check_answers
from bluesky_edgestem.catalog.delivery import Tally, impatient, is_complete, rewrite
from bluesky_edgestem.catalog.errors import CatalogError, JournalError
from bluesky_edgestem.catalog.journal import claimed, pending, read_journal

if TYPE_CHECKING:
    from tiled.client.container import Container


@dataclass(frozen=True)
class Replayed:
    """What became of one journal.

    Attributes
    ----------
    uid : str
        Of the run.
    outcome : str
        "written"; "already there" (the catalog had all of it); "under way" (the run goes on: left alone);
        "failed" (see `reason`; the journal stays).
    reason : str
    """

    uid: str
    outcome: Literal["written", "already there", "under way", "failed"]
    reason: str = ""


def replay(journals: str | Path, client: "Container") -> list[Replayed]:
    """Write the runs of every journal in a folder to the catalog, and remove the journals that are then in it.

    A run that is in the catalog wholly is left as it is; one that is there in part is removed from the catalog and
    written anew (its frames are the detector's and are not touched); a run whose process died before it could close
    it is closed as aborted. Replaying twice changes nothing.

    Parameters
    ----------
    journals : str or Path
        The folder that was given to `CatalogWriter`.
    client : Container
        Tiled client of the catalog.

    Raises
    ------
    CatalogError
        No server answers, or there is no such folder.
    """
    if not Path(journals).is_dir():
        raise CatalogError(f"There is no folder {Path(journals).absolute()} to replay journals from.")
    check_answers(str(client.context.api_uri))
    client = impatient(client)
    replayed = []
    for path in pending(journals):
        with claimed(path) as state:
            if state == "claimed":
                replayed.append(_replay_one(path, client))
            elif state == "under way":
                replayed.append(Replayed(path.stem, "under way"))
    return replayed


def _replay_one(path: Path, client: "Container") -> Replayed:
    try:
        tally = Tally()
        for name, doc in read_journal(path):
            tally.add(name, doc)
        if not tally.start:
            raise JournalError("It does not begin with a start document.")
        there = is_complete(client, tally)
        if not there:
            rewrite(client, read_journal(path))
    except Exception as error:  # one journal that cannot be replayed must not keep the others from it
        return Replayed(path.stem, "failed", str(error) or type(error).__name__)
    path.unlink()
    return Replayed(path.stem, "already there" if there else "written")
