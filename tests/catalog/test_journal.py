"""What is written to a journal comes back, and a disk that fails is one clear error."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from bluesky_edgestem.catalog import journal
from bluesky_edgestem.catalog.errors import JournalError
from bluesky_edgestem.catalog.journal import Journal, claimed, encode, pending, read_journal


def test_numbers_come_back_bit_for_bit(tmp_path: Path) -> None:
    values = np.array([[np.nan, np.inf], [0.1, 1e-300]])
    data = {"map": values, "scalar": np.float64(1 / 3), "count": np.int64(3), "flag": np.bool_(True), "text": "2 µm"}
    run = Journal(tmp_path, "a")
    run.append(encode("event", {"data": data}), sync=True)
    run.close()

    ((name, doc),) = read_journal(run.path)

    assert name == "event"
    np.testing.assert_array_equal(np.array(doc["data"]["map"]), values)
    assert doc["data"]["scalar"] == 1 / 3
    assert doc["data"] | {"map": 0, "scalar": 0} == {"map": 0, "scalar": 0, "count": 3, "flag": True, "text": "2 µm"}


def test_paths_and_sets_of_the_metadata_are_kept() -> None:
    assert (
        encode("start", {"file": Path("/a"), "tags": {"b", "a"}}) == b'["start", {"file": "/a", "tags": ["a", "b"]}]\n'
    )


def test_what_cannot_be_kept_is_named() -> None:
    with pytest.raises(JournalError, match=r"start document.*'sample\.holders\[1\]' = <object"):
        encode("start", {"sample": {"holders": ["left", object()]}})


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(encode("start", {"uid": "a"}) + encode("stop", {"uid": "b"})[:-4])

    assert list(read_journal(path)) == [("start", {"uid": "a"})]


def test_damage_before_the_last_line_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"not json\n" + encode("stop", {"uid": "b"}))

    with pytest.raises(JournalError, match=r"Line 1 of the journal .*a\.jsonl is damaged"):
        list(read_journal(path))


def test_a_journal_that_is_written_is_not_claimed(tmp_path: Path) -> None:
    run = Journal(tmp_path, "a")
    with claimed(run.path) as state:
        assert state == "under way"
    run.close()
    with claimed(run.path) as state:
        assert state == "claimed"
    run.path.unlink()
    with claimed(run.path) as state:
        assert state == "gone"


def test_removed_journals_are_not_pending(tmp_path: Path) -> None:
    first, second = Journal(tmp_path, "a"), Journal(tmp_path, "b")
    assert {path.stem for path in pending(tmp_path)} == {"a", "b"}
    first.remove()
    assert pending(tmp_path) == [second.path]
    second.close()
    second.close()  # once more does no harm


def test_a_full_disk_leaves_whole_lines_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Journal(tmp_path, "a")
    run.append(encode("start", {"uid": "a"}), sync=True)
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) > 8:
            return write(fd, bytes(data)[:8])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal.os, "write", full)
    with pytest.raises(JournalError, match=r"a\.jsonl \(No space left on device\), so the run is stopped"):
        run.append(encode("event", {"uid": "b"}), sync=False)
    run.close()

    assert list(read_journal(run.path)) == [("start", {"uid": "a"})]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match=r"file/journals/a\.jsonl \(Not a directory\)"):
        Journal(tmp_path / "file" / "journals", "a")
