"""DFT on real worker processes: each energy once, and no failure that ends the loop."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import wait
from dataclasses import replace

import numpy as np
import pytest

from bluesky_edgestem.energetics.cluster import DFTCluster
from bluesky_edgestem.energetics.method import DRAFT

pytestmark = pytest.mark.system

# Never converges, and so keeps a worker busy for as long as a test needs.
ENDLESS = replace(DRAFT, density_tolerance=1e-30, iterations=100_000)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def busy(cluster: DFTCluster) -> bool:
    # By its own client: the greeting of another can cross with what the scheduler tells of a worker, where Dask fails.
    return any(cluster._client.processing().values())


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)


def test_each_energy_is_computed_once_in_this_run_and_the_next(folder):
    strain = (0.01, 0.002, -0.003)
    with DFTCluster(workers=1, cache=folder, method=DRAFT) as cluster:
        first, second = (cluster.submit("MoS2", strain) for _ in range(2))
        assert not first.done(), "submit must not wait for the calculation"
        assert not first.result(60).cached and second.result(30).cached
        assert first.result().energy == second.result().energy
        assert first.result().method == DRAFT.name
        # Without a calculation: what no structure has, and what the network misread.
        assert "finite" in cluster.submit("MoS2", (np.nan, 0, 0)).result(30).reason
        assert "beyond" in cluster.submit("MoS2", (0.5, 0, 0)).result(30).reason
        with pytest.raises(ValueError, match=r"unknown material 'graphite'; known are MoS2, WS2"):
            cluster.submit("graphite", strain)
        assert (cluster.submitted, cluster.completed, cluster.cached, cluster.failed) == (4, 4, 1, 2)
    with pytest.raises(RuntimeError, match=r"closed"):
        cluster.submit("MoS2", strain)
    with DFTCluster(workers=1, cache=folder, method=DRAFT) as cluster:
        again = cluster.submit("MoS2", strain).result(30)
    assert again.cached and again.energy == first.result().energy and again.wall_s == first.result().wall_s


def test_two_processes_compute_once(folder):
    # Without the guard against a second start that multiprocessing would ask for.
    script = (
        "import sys; from bluesky_edgestem.energetics.cluster import DFTCluster\n"
        "from bluesky_edgestem.energetics.method import DRAFT\n"
        f"cluster = DFTCluster(workers=1, cache={str(folder)!r}, method=DRAFT)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "futures = [cluster.submit('MoS2', (0.004 * i, 0.001, 0.0)) for i in range(3)]\n"
        "print([f.result(100).cached for f in futures], repr([f.result().energy for f in futures]))\n"
        "cluster.close()\n"
    )
    pair = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [p.stdout.readline() for p in pair] == ["ready\n"] * 2
    for p in pair:
        p.stdin.write("go\n")
        p.stdin.flush()
    (one, two) = (p.communicate(timeout=120)[0].split("] [") for p in pair)
    assert one[1] == two[1], "the same energies"
    cached = [text[0].count("True") for text in (one, two)]
    assert sum(cached) == 3, "each was computed by one of the two, and taken over by the other"


def test_what_fails_has_a_reason_and_the_loop_goes_on(folder):
    with DFTCluster(workers=1, cache=folder, method=replace(DRAFT, iterations=3)) as cluster:
        result = cluster.submit("WS2", (0.01, 0.0, 0.0)).result(60)
        assert (result.state, result.reason) == ("failed", "not converged after 3 iterations")
        assert np.isnan(result.energy)
    with DFTCluster(workers=1, cache=folder, method=ENDLESS, time_limit=1.0) as cluster:
        results = [cluster.submit("MoS2", (0.01 * i, 0.0, 0.0)) for i in range(2)]
        assert all("not converged within 1 s" in f.result(60).reason for f in results)


def test_killed_worker_is_replaced_and_its_task_tried_once_more(folder):
    with DFTCluster(workers=1, cache=folder, method=ENDLESS, time_limit=20.0) as cluster:
        doomed = cluster.submit("MoS2", (0.01, 0.0, 0.0))
        for _ in range(2):
            (pid,) = cluster.worker_pids
            until(lambda: busy(cluster))
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: cluster.worker_pids != [pid])
        result = doomed.result(60)
        assert result.state == "failed" and "worker process died" in result.reason
        # The third worker is there, and takes the next.
        following = cluster.submit("MoS2", (0.02, 0.0, 0.0))
        until(lambda: busy(cluster) or following.done())
        assert not following.done(), following.result(0).reason
        (pid,) = cluster.worker_pids
    assert "closed before" in following.result(0).reason
    until(lambda: not alive(pid), 5)


def test_workers_die_with_their_parent(folder):
    script = (
        "from bluesky_edgestem.energetics.cluster import DFTCluster; import time\n"
        f"cluster = DFTCluster(workers=2, cache={str(folder)!r})\n"
        "print(*cluster.worker_pids, flush=True); time.sleep(100)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(map(alive, pids))
    parent.kill()
    parent.communicate()
    until(lambda: not any(map(alive, pids)), 10)


def test_cancelled_energy_is_given_up_and_others_are_not(folder):
    with DFTCluster(workers=1, cache=folder, method=ENDLESS, time_limit=2.0) as cluster:
        running, unwanted, shared, wanted = (cluster.submit("MoS2", (e, 0.0, 0.0)) for e in (0.01, 0.02, 0.03, 0.03))
        assert unwanted.cancel() and shared.cancel()
        assert not wait([running, wanted], 60).not_done
        assert "not converged within" in wanted.result().reason
        assert (cluster.submitted, cluster.completed) == (4, 4)


def test_no_worker_and_no_scheduler_are_clear_errors(folder, monkeypatch):
    monkeypatch.setattr("bluesky_edgestem.energetics.cluster._PATIENCE", 0.5)
    with pytest.raises(TimeoutError, match=r"no DFT worker at the Dask scheduler tcp://127.0.0.1:9"):
        DFTCluster("tcp://127.0.0.1:9", cache=folder)


def test_unwritable_cache_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("")
    # An address where nothing answers: a cluster that looks for workers first says so after a minute.
    for scheduler in ("local", "tcp://127.0.0.1:9"):
        with pytest.raises(OSError, match=r"energy cache"):
            DFTCluster(scheduler, workers=1, cache=tmp_path / "file")
    assert not [t for t in threading.enumerate() if t.name.startswith("dft-")]


def test_a_start_that_is_given_up_leaves_nothing(folder):
    given_up = threading.Event()
    given_up.set()
    with pytest.raises(RuntimeError, match="the start of the DFT workers was given up"):
        DFTCluster(workers=1, cache=folder, given_up=given_up)
    assert not [t for t in threading.enumerate() if t.name.startswith("dft-")]


@contextlib.contextmanager
def remote_scheduler():
    """A scheduler of its own process, on a free port of the loopback: its process and address."""
    script = (
        "import asyncio\n"
        "from distributed import Scheduler\n"
        "async def serve():\n"
        "    async with Scheduler(host='127.0.0.1', port=0, dashboard=False) as scheduler:\n"
        "        print(scheduler.address, flush=True)\n"
        "        await scheduler.finished()\n"
        "asyncio.run(serve())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def remote_worker(address):
    worker = subprocess.Popen(
        [sys.executable, "-m", "bluesky_edgestem.energetics.worker", address],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


def test_energies_fail_with_the_reason_when_a_remote_scheduler_has_lost_its_last_worker(folder, monkeypatch):
    with contextlib.ExitStack() as stack:
        _, address = stack.enter_context(remote_scheduler())
        worker = stack.enter_context(remote_worker(address))
        cluster = stack.enter_context(DFTCluster(address, cache=folder, method=ENDLESS, time_limit=60.0))
        running, queued = (cluster.submit("MoS2", (e, 0.0, 0.0)) for e in (0.01, 0.02))
        until(lambda: busy(cluster))
        # Only now: a first worker has the usual time to come.
        monkeypatch.setattr("bluesky_edgestem.energetics.cluster._PATIENCE", 0.5)
        worker.kill()  # SIGKILL
        for doomed in (running, queued):
            result = doomed.result(60)
            assert result.state == "failed"
            assert result.reason == f"the Dask scheduler {address} has shown no worker for more than 0.5 s"
        # Another worker takes what is asked for from then on, and not what was given up.
        stack.enter_context(remote_worker(address))
        cluster._client.wait_for_workers(1, timeout=60)
        assert not any(cluster._client.processing().values())
        following = cluster.submit("MoS2", (0.03, 0.0, 0.0))
        until(lambda: busy(cluster))
        assert not following.done()


def test_energies_fail_with_the_reason_when_a_remote_scheduler_is_killed(folder, monkeypatch):
    with (
        remote_scheduler() as (scheduler, address),
        remote_worker(address),
        DFTCluster(address, cache=folder, method=ENDLESS, time_limit=60.0) as cluster,
    ):
        doomed = cluster.submit("MoS2", (0.01, 0.0, 0.0))
        until(lambda: busy(cluster))
        scheduler.kill()
        assert f"the Dask scheduler {address} was lost" in doomed.result(60).reason
        # What is asked for while Dask still hopes to reach it again is not kept waiting for ever either.
        monkeypatch.setattr("bluesky_edgestem.energetics.cluster._PATIENCE", 0.5)
        assert f"the Dask scheduler {address} " in cluster.submit("MoS2", (0.02, 0.0, 0.0)).result(90).reason


def test_scheduler_elsewhere_with_a_worker_of_its_own(folder):
    from distributed import LocalCluster

    with (
        LocalCluster(
            n_workers=0, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=None, silence_logs=50
        ) as scheduler,
        remote_worker(scheduler.scheduler_address),
        DFTCluster(scheduler.scheduler_address, cache=folder, method=DRAFT) as cluster,
    ):
        assert cluster.submit("MoS2", (0.01, 0.0, 0.0)).result(60).state == "converged"
        assert cluster.worker_pids == []
