"""The cache: what is in it, who may compute, and what a crashed process leaves."""

import sqlite3
import subprocess
import sys

import pytest

from bluesky_edgestem.energetics import EnergyResult
from bluesky_edgestem.energetics.cache import EnergyCache, Structure
from bluesky_edgestem.energetics.method import DRAFT, STANDARD
from bluesky_edgestem.energetics.result import rounded

STRAIN = (0.01, -0.005, 0.002)
STRUCTURE = Structure.of("MoS2", STRAIN, DRAFT)
RESULT = EnergyResult("MoS2", STRAIN, 0.0123, (1.0, 2.0, 3.0), "converged", "", False, 2.5, DRAFT.name)


@pytest.fixture
def cache(tmp_path):
    cache = EnergyCache(tmp_path)
    yield cache
    cache.close()


def test_strain_is_rounded_so_that_structure_and_key_agree():
    assert rounded((0.0100049, -0.0, 1e-6)) == (0.01, 0.0, 0.0)
    assert str(rounded((-1e-7, 0, 0))[0]) == "0.0"
    with pytest.raises(ValueError, match=r"three finite numbers"):
        rounded((0.0, float("nan"), 0.0))
    with pytest.raises(ValueError, match=r"beyond ±0.1"):
        rounded((0.0, 0.2, 0.0))


def test_kept_energy_is_read_by_the_next_process(cache, tmp_path):
    assert cache.claim(STRUCTURE) is True
    cache.put(STRUCTURE, RESULT)
    again = EnergyCache(tmp_path)
    found = again.claim(STRUCTURE)
    assert (found.energy, found.gradient, found.wall_s, found.cached) == (0.0123, (1.0, 2.0, 3.0), 2.5, True)
    assert again.get(Structure.of("WS2", STRAIN, DRAFT)) is None
    assert again.get(Structure.of("MoS2", STRAIN, STANDARD)) is None
    assert len(again) == 1
    again.close()


def test_one_claims_and_the_other_waits(cache, tmp_path):
    other = EnergyCache(tmp_path)
    assert cache.claim(STRUCTURE) is True
    assert other.claim(STRUCTURE) is False
    cache.release(STRUCTURE)
    assert other.claim(STRUCTURE) is True
    other.close()
    assert cache.claim(STRUCTURE) is True, "closing ends claims"


def test_failure_is_not_kept(cache):
    assert cache.claim(STRUCTURE) is True
    cache.put(STRUCTURE, EnergyResult.failed("MoS2", STRAIN, "not converged", DRAFT.name))
    assert cache.get(STRUCTURE) is None
    assert cache.claim(STRUCTURE) is True


def test_claim_of_a_dead_process_is_taken_over_at_once(cache, tmp_path):
    claim = (
        "import os; from bluesky_edgestem.energetics.cache import *;"
        "from bluesky_edgestem.energetics.method import DRAFT;"
        f"assert EnergyCache({str(tmp_path)!r}).claim(Structure.of('MoS2', {STRAIN}, DRAFT)) is True; os._exit(1)"
    )
    assert subprocess.run([sys.executable, "-c", claim]).returncode == 1
    assert sqlite3.connect(cache.path).execute("SELECT count(*) FROM claims").fetchone() == (1,)
    assert cache.claim(STRUCTURE) is True


def test_processes_open_and_close_it_at_the_same_moment(tmp_path):
    # Without a lock around them SQLite refused about one opening in a hundred: "database is locked".
    script = (
        "import sys; from bluesky_edgestem.energetics.cache import EnergyCache\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        f"for k in range(100): EnergyCache({str(tmp_path)!r} + f'/{{k // 4}}').close()\n"
    )
    several = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    assert [p.stdout.readline() for p in several] == ["ready\n"] * 6
    for p in several:
        p.stdin.write("go\n")
        p.stdin.flush()
    assert [p.communicate(timeout=60) and p.returncode for p in several] == [0] * 6


def test_claim_without_heartbeat_lapses(cache, tmp_path):
    other = EnergyCache(tmp_path, lapse=0.0)
    assert cache.claim(STRUCTURE) is True
    assert other.claim(STRUCTURE) is True
    other.close()


def test_unusable_folders_are_one_clear_error(tmp_path):
    (tmp_path / "energies.sqlite").write_text("not a database, but long enough to be taken for one" * 20)
    with pytest.raises(ValueError, match=r"no energy cache.*move it away"):
        EnergyCache(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot make the folder of the energy cache .*file"):
        EnergyCache(tmp_path / "file" / "below")
