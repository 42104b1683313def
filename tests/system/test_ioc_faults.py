"""What goes wrong while the beam is on the specimen: the run ends, says why, keeps its data, and the beam is off."""

from __future__ import annotations

import resource
import signal
import time
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 -- registers bitshuffle
import numpy as np
import pytest

pytestmark = pytest.mark.system

MANY = np.random.default_rng(1).uniform(-50, 50, (600, 2))
ENDLESS = np.random.default_rng(2).uniform(-50, 50, (5000, 2))
"""More than any machine flies in 20 s: whatever a test does to a flight over these comes before its end."""

BLANKED = 1
HANGS = 60
"""Time [s] without a word from a client after which it counts as hung; not a speed that is asked for."""


def frames_told_of(documents: list) -> int:
    return max((d["indices"]["stop"] for n, d in documents if n == "stream_datum"), default=0)


def read_file(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    (path,) = directory.glob("*.h5")
    with h5py.File(path, "r", swmr=True) as file:
        attributes = file["/entry/instrument/NDAttributes"]
        return (
            file["/entry/data/data"][:].sum(axis=(1, 2)),
            # Killed between two writes, one may be a row longer.
            np.array(list(zip(attributes["ScanX"][:], attributes["ScanY"][:], strict=False))),
        )


def wait_for_frames(client, n: int) -> None:
    while client.told(HANGS)[1] < n:
        pass


def press_ctrl_c_twice(client) -> None:
    """The first asks the RunEngine to pause at the next checkpoint, the second to pause now."""
    client.interrupt()
    time.sleep(0.2)
    client.interrupt()


def check_what_a_lost_ioc_leaves(documents: list, directory: Path) -> None:
    """Every frame that was told of is in the file, where it was said to be, with the beam on it."""
    told = frames_told_of(documents)
    electrons, positions = read_file(directory)
    assert 40 <= told <= len(electrons)
    np.testing.assert_array_equal(positions[:told], ENDLESS[:told])
    assert electrons[:told].min() > 1e5


def test_an_ioc_killed_in_mid_scan_ends_the_run(fresh_ioc, fresh_client, tmp_path):
    fresh_client.start("run_telling", fresh_ioc.prefix, str(tmp_path), [ENDLESS], 2e-3, 2e-3)
    wait_for_frames(fresh_client, 40)
    fresh_ioc.process.kill()
    killed = time.time()
    documents, error, ended = fresh_client.result(HANGS)
    assert f"lost the connection to {fresh_ioc.prefix}" in error
    assert ended - killed < 5
    stop = documents[-1][1]
    assert documents[-1][0] == "stop" and stop["exit_status"] == "fail"
    assert f"lost the connection to {fresh_ioc.prefix}" in stop["reason"]
    check_what_a_lost_ioc_leaves(documents, tmp_path)


def test_an_ioc_killed_while_the_loop_waits_for_energies_ends_the_run(fresh_ioc, fresh_client, tmp_path):
    fresh_client.start("loop_waiting", fresh_ioc.prefix, str(tmp_path), 8)
    assert fresh_client.told(HANGS) == "waits"
    fresh_ioc.process.kill()
    killed = time.time()
    documents, error, ended = fresh_client.result(HANGS)
    assert f"lost the connection to {fresh_ioc.prefix}" in error
    assert ended - killed < 5
    stop = documents[-1][1]
    assert documents[-1][0] == "stop" and stop["exit_status"] == "fail"
    assert f"lost the connection to {fresh_ioc.prefix}" in stop["reason"]
    assert stop["num_events"]["descriptors"] == 8, "what was measured is in the run"


def test_a_lost_ioc_holds_no_stop_up_that_comes_before_its_callbacks(fresh_ioc, fresh_client, tmp_path):
    """Each put would wait for a connection [2 s], and the next step towards a safe microscope with it."""
    fresh_client.start("stop_unaware", fresh_ioc.prefix, str(tmp_path))
    assert fresh_client.told(HANGS) == "ready"
    fresh_ioc.process.kill()
    took, errors = fresh_client.result(HANGS)
    assert took < 1
    assert f"lost the connection to {fresh_ioc.prefix}Beam:Blank" in " ".join(errors)


@pytest.mark.parametrize("looked", ["ophyd", "layer"])
def test_a_write_does_not_wait_for_a_connection_lost_since_it_was_looked_at(fresh_ioc, fresh_client, tmp_path, looked):
    """Without a timeout of its own it waits for good, and with it whoever makes the microscope safe."""
    fresh_client.start("end_unaware", fresh_ioc.prefix, str(tmp_path), looked)
    assert fresh_client.told(HANGS) == "ready"
    fresh_ioc.process.kill()
    took, error = fresh_client.result(HANGS)
    assert took < 2, "pyepics alone would wait 5"
    assert error.startswith(f"LostConnection: no connection to {fresh_ioc.prefix}cam1:Acquire")


def test_the_end_of_a_put_that_a_lost_ioc_completes_is_no_end_of_the_flight(fresh_ioc, fresh_client, tmp_path):
    """pyepics completes the put that started the flight when its IOC dies."""
    fresh_client.start("run_hasty", fresh_ioc.prefix, str(tmp_path), [ENDLESS], 2e-3, 2e-3)
    wait_for_frames(fresh_client, 40)
    fresh_ioc.process.kill()
    documents, error, _ = fresh_client.result(HANGS)
    assert f"lost the connection to {fresh_ioc.prefix}" in error
    check_what_a_lost_ioc_leaves(documents, tmp_path)


def test_a_flight_ends_well_however_late_the_counter_of_the_coils_is_told(fresh_ioc, fresh_client, tmp_path):
    documents, error, _ = fresh_client.call(
        "run_hasty", fresh_ioc.prefix, str(tmp_path), [MANY[:7], MANY[7:12]], 2e-3, 2e-3, timeout=HANGS
    )
    assert error == ""
    assert frames_told_of(documents) == 12
    np.testing.assert_array_equal(read_file(tmp_path)[1], MANY[:12])


def test_a_lost_detector_leaves_the_beam_blanked(split_ioc, split_client, tmp_path, caget):
    split_client.start("run_telling", split_ioc.prefix, str(tmp_path), [ENDLESS], 2e-3, 2e-3)
    wait_for_frames(split_client, 40)
    assert caget(split_ioc, "Beam:Blank_RBV")[0] != BLANKED, "else this test shows nothing"
    split_ioc.detector_process.kill()
    killed = time.time()
    documents, error, ended = split_client.result(HANGS)
    assert f"lost the connection to {split_ioc.prefix}" in error
    assert ended - killed < 5
    assert documents[-1][1]["exit_status"] == "fail"
    assert caget(split_ioc, "Beam:Blank_RBV")[0] == BLANKED
    assert caget(split_ioc, "Scan:State_RBV")[0] == 4, "the coils were told to stop"
    check_what_a_lost_ioc_leaves(documents, tmp_path)


def test_a_run_that_starts_without_an_ioc_says_which_pv_is_missing(fresh_ioc, fresh_client, tmp_path):
    assert fresh_client.call("run", fresh_ioc.prefix, str(tmp_path), [MANY[:3]])[1] == ""
    fresh_ioc.process.kill()
    time.sleep(0.5)
    started = time.time()
    _, error, ended = fresh_client.call("run_again", fresh_ioc.prefix, str(tmp_path), [MANY[:3]])
    assert fresh_ioc.prefix in error
    assert ended - started < 5


def test_an_aborted_run_is_blanked_and_keeps_what_was_measured(ioc, client, tmp_path, caget):
    client.start("paused", ioc.prefix, str(tmp_path), MANY, "abort")
    wait_for_frames(client, 20)
    press_ctrl_c_twice(client)
    while (told := client.told(10))[0] != "paused":
        pass
    assert told[1] == "Paused"
    assert caget(ioc, "Beam:Blank_RBV")[0] == BLANKED, "held, the beam is off the specimen"
    documents = client.result()
    assert documents[-1][1]["exit_status"] == "abort"
    assert caget(ioc, "Beam:Blank_RBV")[0] == BLANKED
    electrons, positions = read_file(tmp_path)
    assert 20 <= len(electrons) < len(MANY)
    assert frames_told_of(documents) == len(electrons), "the tail is in the stream"
    np.testing.assert_array_equal(positions, MANY[: len(positions)])
    assert electrons.min() > 1e5, "no position was taken with the beam blanked"


def test_a_resumed_run_measures_every_position_once(ioc, client, tmp_path, caget):
    few = MANY[:150]
    client.start("paused", ioc.prefix, str(tmp_path), few, "resume")
    wait_for_frames(client, 20)
    press_ctrl_c_twice(client)
    while client.told(10)[0] != "paused":
        pass
    documents = client.result()
    assert documents[-1][1]["exit_status"] == "success"
    electrons, positions = read_file(tmp_path)
    np.testing.assert_array_equal(positions, few)
    assert electrons.min() > 1e5
    assert frames_told_of(documents) == len(few)
    assert caget(ioc, "Beam:Blank_RBV")[0] == BLANKED


@pytest.mark.parametrize("armed", ["while paused", "afterwards"])
def test_an_abort_while_the_detector_arms_never_unblanks(ioc, client, tmp_path, caget, armed):
    documents, in_pause, at_end, has_armed = client.call(
        "paused_while_arming", ioc.prefix, str(tmp_path), MANY[:20], "abort", armed, timeout=HANGS
    )
    assert has_armed, "else this test shows nothing"
    assert in_pause == ("Blanked", 0, "Armed" if armed == "while paused" else "Unarmed", False)
    assert at_end == ("Blanked", 0, "Unarmed", False), "what is armed after the abort is disarmed"
    assert documents[-1][1]["exit_status"] == "abort"
    assert caget(ioc, "Beam:Blank_RBV")[0] == BLANKED
    assert client.call("run", ioc.prefix, str(tmp_path), [MANY[:3]])[1] == "", "the next run is not disturbed"


@pytest.mark.parametrize("armed", ["while paused", "afterwards"])
def test_a_run_paused_while_the_detector_arms_flies_when_it_is_resumed(ioc, client, tmp_path, caget, armed):
    few = MANY[:20]
    documents, in_pause, at_end, has_armed = client.call(
        "paused_while_arming", ioc.prefix, str(tmp_path), few, "resume", armed, timeout=HANGS
    )
    assert has_armed, "else this test shows nothing"
    assert in_pause == ("Blanked", 0, "Armed" if armed == "while paused" else "Unarmed", False)
    assert at_end == ("Blanked", len(few), "Unarmed", True)
    assert documents[-1][1]["exit_status"] == "success"
    electrons, positions = read_file(tmp_path)
    np.testing.assert_array_equal(positions, few)
    assert electrons.min() > 1e5, "no position was taken with the beam blanked"
    assert frames_told_of(documents) == len(few)


def test_a_flight_that_nobody_completes_blanks_all_the_same(ioc, client, tmp_path):
    states, taken = client.call("never_completed", ioc.prefix, str(tmp_path), MANY[:3], timeout=HANGS)
    assert states == ["Blanked"] * 3, "at its end, through a pause, and when it is completed late"
    assert taken == 3


def test_an_exception_in_the_plan_leaves_the_beam_blanked(ioc, client, tmp_path, caget):
    documents, error = client.call("failing", ioc.prefix, str(tmp_path), MANY)
    assert error == "RuntimeError: the plan's own error"
    assert documents[-1][1]["exit_status"] == "fail"
    assert caget(ioc, "Beam:Blank_RBV")[0] == BLANKED
    time.sleep(0.2)
    assert caget(ioc, "Scan:State_RBV")[0] in (0, 4), "idle or aborted, not flying on"


def test_a_client_that_is_interrupted_dead_leaves_the_beam_blanked(ioc, layer, tmp_path, caget):
    """Ctrl-C with nobody there to resume: the process ends with the beam blanked."""
    pytest.importorskip("ophyd")
    from importlib.util import module_from_spec, spec_from_file_location

    here = Path(__file__).parent
    spec = spec_from_file_location("system_client", here / "client.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    client = module.Client(str(here / "flights.py"), {**ioc.client_env, "OPHYD_CONTROL_LAYER": layer})
    try:
        client.start("paused", ioc.prefix, str(tmp_path), MANY, "abort")
        wait_for_frames(client, 20)
        assert caget(ioc, "Beam:Blank_RBV")[0] != BLANKED, "else this test shows nothing"
        press_ctrl_c_twice(client)
        while client.told(10)[0] != "paused":
            pass
    finally:
        client.close()
    assert caget(ioc, "Beam:Blank_RBV")[0] == BLANKED


def test_a_folder_that_does_not_exist_is_an_error_before_anything_moves(ioc, client, tmp_path, caget):
    before = caget(ioc, "Scan:X_RBV")[0]
    documents, error, _ = client.call("run", ioc.prefix, str(tmp_path / "missing"), [MANY[:3]])
    assert f"the folder {tmp_path}/missing does not exist on the detector's computer" in error
    assert documents == [], "staging comes before the run"
    assert caget(ioc, "Scan:X_RBV")[0] == before
    assert caget(ioc, "Beam:Blank_RBV")[0] == BLANKED


def test_a_folder_that_cannot_be_written_is_an_error_before_anything_moves(ioc, client, caget):
    documents, error, _ = client.call("run", ioc.prefix, "/proc/self", [MANY[:3]])
    assert "cannot write /proc/self/" in error and f"{ioc.prefix}HDF1:Capture" in error
    assert documents == []
    assert caget(ioc, "Beam:Blank_RBV")[0] == BLANKED


def test_a_full_disk_ends_the_run_and_keeps_what_was_written(fresh_ioc, fresh_client, tmp_path, caget):
    resource.prlimit(fresh_ioc.process.pid, resource.RLIMIT_FSIZE, (200_000, 200_000))
    documents, error, _ = fresh_client.call("run", fresh_ioc.prefix, str(tmp_path), [MANY], 1e-3, 0.0)
    assert f"{fresh_ioc.prefix}HDF1:WriteMessage: File too large: {tmp_path}/" in error
    assert documents[-1][1]["exit_status"] == "fail"
    assert caget(fresh_ioc, "Beam:Blank_RBV")[0] == BLANKED
    told = frames_told_of(documents)
    electrons, positions = read_file(tmp_path)
    assert 0 < told <= len(electrons) < len(MANY)
    np.testing.assert_array_equal(positions[:told], MANY[:told])


def test_an_ioc_that_hangs_is_noticed(fresh_ioc, fresh_client, tmp_path):
    """Stopped, not dead: its connections stay, and only the silence tells."""
    fresh_client.start("run_impatient", fresh_ioc.prefix, str(tmp_path), [MANY], 2e-3, 2e-3, 2.0)
    wait_for_frames(fresh_client, 20)
    fresh_ioc.process.send_signal(signal.SIGSTOP)
    try:
        documents, error, _ = fresh_client.result(120)
    finally:
        fresh_ioc.process.send_signal(signal.SIGCONT)
    assert "no frame for 2 s" in error and f"{fresh_ioc.prefix}Scan:State_RBV" in error
    assert documents[-1][1]["exit_status"] == "fail"


def test_a_flight_aborted_by_someone_else_is_an_error(ioc, client, tmp_path, caget, caput):
    client.start("run_telling", ioc.prefix, str(tmp_path), [MANY], 2e-3, 2e-3)
    wait_for_frames(client, 20)
    assert caput(ioc, "Scan:Abort", 1) == ""
    documents, error, _ = client.result()
    assert f"{ioc.prefix}Scan:Message_RBV: aborted after" in error
    assert documents[-1][1]["exit_status"] == "fail"
    electrons, _ = read_file(tmp_path)
    assert frames_told_of(documents) == len(electrons)
    assert caget(ioc, "Beam:Blank_RBV")[0] == BLANKED


def test_the_microscope_ends_with_the_process_that_started_it(tmp_path):
    import os
    import subprocess
    import sys

    script = (
        "import time\n"
        "from bluesky_edgestem.sim.launch import MicroscopeProcess\n"
        "process = MicroscopeProcess(source='disks').start()\n"
        "print(process.process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return  # ended; only init has not collected it yet
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the simulated microscope outlived its parent")
