"""The inference board as a process of its own, on the detector's stream, in runs of the RunEngine."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 -- registers bitshuffle
import numpy as np
import pytest
from event_model import DocumentNames, schema_validators

from bluesky_edgestem.analysis.networks import DescriptorNetwork
from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.fpga import golden
from bluesky_edgestem.fpga import student as student_module
from bluesky_edgestem.fpga.frontend import Frontend
from bluesky_edgestem.fpga.student import Student
from bluesky_edgestem.sim.launch import MicroscopeProcess
from bluesky_edgestem.sim.simplon_launch import SimplonProcess

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]
FRONTEND = Frontend(48, pixel_bits=16)
OPTICS = {"pixels": 48, "pixel": 64 / 48, "source": "disks"}


@pytest.fixture
def build(tmp_path, make_build) -> Path:
    folder = tmp_path / "build"
    make_build(folder, FRONTEND)
    return folder


@pytest.fixture(params=["a process of its own"])
def scope(build, request) -> Iterator[MicroscopeProcess]:
    apart = request.param == "a process of its own"
    with MicroscopeProcess(board=build, separate_board=apart, **OPTICS) as process:
        yield process


@pytest.fixture
def maps(scope, client_class) -> Iterator:
    client = client_class(str(Path(__file__).parent / "board_runs.py"), scope.client_env)
    yield client
    client.close()


def rows_of(documents, stream="descriptors"):
    """Columns of a derived stream."""
    uid = next(doc["uid"] for name, doc in documents if name == "descriptor" and doc["name"] == stream)
    pages = [doc["data"] for name, doc in documents if name == "event_page" and doc["descriptor"] == uid]
    return {key: np.concatenate([np.asarray(page[key]) for page in pages]) for key in pages[0]}


def frames_of(documents):
    uri = next(d["uri"] for n, d in documents if n == "stream_resource" and d["data_key"] == "detector")
    with h5py.File(uri.removeprefix("file://localhost")) as file:
        return file["/entry/data/data"][:]


def expected(student: Student, frames, electrons):
    return student.described(*student.outputs(frames, student.frontend.shift_for(electrons, student.brightest)))


def board_event(documents):
    uid = next(doc["uid"] for name, doc in documents if name == "descriptor" and doc["name"] == "board")
    (event,) = [doc["data"] for name, doc in documents if name == "event" and doc["descriptor"] == uid]
    return {key.removeprefix("microscope_board_"): value for key, value in event.items()}


@pytest.mark.parametrize("scope", ["a process of its own", "one process for all"], indirect=True)
def test_the_stream_has_bit_for_bit_what_the_student_makes_of_the_frames_in_the_file(scope, maps, build, tmp_path):
    documents, error, blanked, counted = maps.call("raster", scope.prefix, str(tmp_path), 8, 5)
    assert (error, blanked, counted) == ("", True, 40)
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)
    student = Student.load(build / student_module.NAME)
    # 10 pA for 10 ms
    found = expected(student, frames_of(documents), 10.0 * 1e-2 / 1.602176634e-7)
    rows = rows_of(documents)
    assert set(rows["read_by"]) == {"board"}
    assert rows["frame"].tolist() == list(range(40))
    for k, name in enumerate(("exx", "eyy", "exy")):
        np.testing.assert_array_equal(rows[name], found.strain[:, k])
    # An arc tangent is rounded differently by where in a batch a frame is.
    np.testing.assert_allclose(rows["rotation"], found.rotation, rtol=1e-15, atol=0)
    np.testing.assert_array_equal(rows["flagged"], found.flagged)
    assert len(set(rows["exx"])) > 20
    event = board_event(documents)
    assert (event["frames_in"], event["results_out"], event["dropped"], event["refused_frames"]) == (40, 40, 0, 0)
    assert (event["state"], event["self_test_result"]) == ("Running", "Passed")
    assert np.sum(event["latency"]) == 40
    configuration = next(d for n, d in documents if n == "descriptor" and d["name"] == "board")["configuration"]
    assert configuration["microscope_board"]["data"]["microscope_board_model_hash"] == student.hash


def test_the_board_that_ships_reads_what_the_network_reads(client_class, tmp_path):
    with MicroscopeProcess(board="shipped", separate_board=True, pixels=48, pixel=64 / 48) as process:
        client = client_class(str(Path(__file__).parent / "board_runs.py"), process.client_env)
        # 2·10⁵ electrons a pattern: of many more, pixels of 16 bits saturate.
        documents, error, blanked, counted = client.call(
            "raster", process.prefix, str(tmp_path), 6, 6, 0, None, signal.SIGKILL, None, 3e-3
        )
        client.close()
    assert (error, blanked, counted) == ("", True, 36)
    rows = rows_of(documents)
    assert set(rows["read_by"]) == {"board"}
    network = DescriptorNetwork.pretrained().predict(frames_of(documents), Optics(80.0, 2.0, 64 / 48, 48))
    known = (rows["flagged"] == "") & (network.flagged == "")
    assert known.sum() >= 30
    for k, name in enumerate(("exx", "eyy", "exy")):
        # Of multislice patterns each errs by 0.3 to 0.4 % (RMS); those of a boundary between phases are read less well.
        assert np.median(np.abs(rows[name] - network.strain[:, k])[known]) < 0.006


def test_a_loop_goes_on_what_the_board_reads(scope, maps, tmp_path):
    documents, error, blanked, _, messages = maps.call("loop", scope.prefix, str(tmp_path))
    assert (error, blanked, messages) == ("", True, [])
    rows = rows_of(documents)
    assert Counter(rows["read_by"]) == {"board": 32}
    assert board_event(documents)["results_out"] == 32  # of three flights, each a series
    assert len(rows_of(documents, "energetics")["energy"]) == (rows["flagged"] == "").sum()


def test_a_loop_goes_on_with_the_network_when_the_board_falls_silent(scope, maps, tmp_path):
    documents, error, blanked, _, messages = maps.call("loop", scope.prefix, str(tmp_path), scope.board_process.pid, 16)
    assert (error, blanked) == ("", True)
    assert documents[-1][1]["exit_status"] == "success"
    rows = rows_of(documents)
    assert rows["read_by"].tolist() == ["board"] * 16 + ["network"] * 16
    np.testing.assert_array_equal(rows["exx"][16:], 0.5)
    told = [message for message in messages if "whose frames its fallback reads" in message]
    assert len(told) == 2  # a flight each
    assert "Electrons did not answer within" in told[0]


def test_the_network_reads_on_when_the_board_dies(scope, maps, tmp_path):
    documents, error, blanked, counted = maps.call(
        "raster", scope.prefix, str(tmp_path), 8, 8, scope.board_process.pid, 20
    )
    assert (error, blanked, counted) == ("", True, 64)
    assert documents[-1][1]["exit_status"] == "success"
    rows = rows_of(documents)
    by_board = rows["read_by"] == "board"
    assert 20 <= by_board.sum() < 64
    np.testing.assert_array_equal(rows["exx"][~by_board], 0.5)
    assert rows["frame"].tolist() == list(range(64))
    assert board_event(documents)["state"] == "Disconnected"


def test_a_board_that_hangs_is_not_waited_for_and_is_heard_again(scope, maps, tmp_path):
    documents, error, blanked, _ = maps.call(
        "raster", scope.prefix, str(tmp_path), 20, 20, scope.board_process.pid, 40, signal.SIGSTOP
    )
    assert (error, blanked) == ("", True)
    read_by = rows_of(documents)["read_by"]
    assert set(read_by[:40]) == {"board"}
    assert read_by[-1] == "board"
    assert 1 <= (read_by == "network").sum() < 350


def test_a_board_with_a_wrong_bit_is_not_used(scope, maps, build, tmp_path):
    data = golden.GoldenFrames.load(build / golden.NAME)
    words = data.words.copy()
    words[3, 0] ^= 1
    golden.GoldenFrames(data.student, data.frames, words, data.status).save(build / golden.NAME)
    documents, error, blanked, counted = maps.call("raster", scope.prefix, str(tmp_path), 8, 5)
    assert "SelfTest_RBV is Failed: 1 of 14 golden frames gave other words" in error
    assert "the board must not be used" in error
    assert (blanked, counted) == (True, 0)
    assert documents == []


def test_patterns_of_more_electrons_than_it_was_taught_are_the_networks(scope, maps, tmp_path):
    # 10 pA for 20 ms: 1.25·10⁶ electrons.
    documents, error, blanked, counted = maps.call(
        "raster", scope.prefix, str(tmp_path), 4, 3, 0, None, signal.SIGKILL, None, 2e-2
    )
    assert (error, blanked, counted) == ("", True, 12)
    assert set(rows_of(documents)["read_by"]) == {"network"}


def test_the_same_student_is_loaded_from_another_folder_where_its_files_are_whole(scope, maps, build, tmp_path):
    whole = shutil.copytree(build, tmp_path / "whole")
    (build / golden.NAME).unlink()
    documents, error, *_ = maps.call("raster", scope.prefix, str(tmp_path), 4, 3)
    assert "No such file" in error and documents == []
    documents, error, blanked, counted = maps.call(
        "raster", scope.prefix, str(tmp_path), 4, 3, 0, None, signal.SIGKILL, str(whole)
    )
    assert (error, blanked, counted) == ("", True, 12)
    assert set(rows_of(documents)["read_by"]) == {"board"}
    assert documents[0][1]["board"]["build"] == str(whole)


def test_another_build_is_loaded_and_a_corrupt_one_is_not(scope, maps, build, tmp_path, make_build):
    other = make_build(tmp_path / "other", FRONTEND, seed=1)
    assert maps.call("load", scope.prefix, str(tmp_path), str(tmp_path / "other")) == ("", other.hash)
    data = bytearray((tmp_path / "other" / student_module.NAME).read_bytes())
    data[-9] ^= 1
    corrupt = tmp_path / "corrupt"
    corrupt.mkdir()
    (corrupt / student_module.NAME).write_bytes(data)
    error, hashed = maps.call("load", scope.prefix, str(tmp_path), str(corrupt))
    assert "cut short or altered" in error and hashed == other.hash
    error, hashed = maps.call("load_by_pv", scope.prefix, str(tmp_path), str(corrupt))
    assert "cut short or altered" in error and "Board:Model" in error and hashed == other.hash
    # The one that it has still works.
    assert maps.call("load", scope.prefix, str(tmp_path), str(build))[0] == ""


def test_a_model_for_another_frame_is_refused_before_anything_moves(scope, maps, tmp_path, make_build):
    make_build(tmp_path / "large", Frontend(96, 2, 16))
    documents, error, blanked, counted = maps.call(
        "raster", scope.prefix, str(tmp_path), 8, 5, 0, None, signal.SIGKILL, str(tmp_path / "large")
    )
    assert "Board:" in error and "the board was built for" in error and "edgestem fpga build" in error
    assert (documents, blanked, counted) == ([], True, 0)


def positions_of(documents):
    """The coils' readback of each frame, (n, 2) [nm]."""
    uri = next(d["uri"] for n, d in documents if n == "stream_resource" and d["data_key"] == "detector_x")
    with h5py.File(uri.removeprefix("file://localhost")) as file:
        attributes = file["/entry/instrument/NDAttributes"]
        return np.column_stack([attributes["ScanX"][:], attributes["ScanY"][:]])


def test_a_rule_on_the_board_sends_the_coils_on_and_the_run_records_it(scope, maps, build, tmp_path):
    always = {"quantity": "exx", "low": 1.0, "high": 1.0, "inside": False, "spacing": 2.0, "limit": 11}
    never = {**always, "low": -1.0}
    rows = [maps.call("ruled", scope.prefix, str(tmp_path), [rule])[0] for rule in (always, never, None)]
    for documents, error, blanked, _ in rows:
        assert (error, blanked) == ("", True)
        assert documents[-1][1]["exit_status"] == "success"
        for name, doc in documents:
            schema_validators[DocumentNames[name]].validate(doc)
    documents = rows[0][0]
    assert documents[0][1]["board"] == {"build": str(build), "hash": Student.load(build / student_module.NAME).hash}
    assert documents[0][1]["edge_rule"] == always and "shape" not in documents[0][1]
    # The list, then as many as were allowed: four around each where the board read a strain that it knows.
    assert rows[0][3] == 30 + 11
    added = rows_of(documents, "added_positions")
    assert added["frame"].tolist() == list(range(30, 41))
    where, read = positions_of(documents), rows_of(documents)
    np.testing.assert_allclose(np.column_stack([added["x"], added["y"]]), where[30:], atol=1e-9)
    causes = added["because_of"]
    np.testing.assert_allclose(np.hypot(*(where[30:] - where[causes]).T), 2.0, atol=1e-9)
    assert set(read["flagged"][causes]) == {""}
    gaps = np.hypot(*(where[:, None] - where[None]).transpose(2, 0, 1)) + 9 * np.eye(len(where))
    assert gaps.min() >= 1.0
    assert board_event(documents)["rule_hits"] >= 3
    # While the coils waited for the board, three seconds in the end, the beam was off: each frame has what a
    # millisecond at 100 pA brings, within six standard deviations, and the frame after a wait too.
    sums = frames_of(documents).sum((1, 2), dtype=float)
    expected = 100.0 * 1e-3 / 1.602176634e-7
    assert np.abs(sums / expected - 1).max() < 6 / np.sqrt(expected) + 0.01
    # A rule that never holds adds nothing, nor does a board without one; the flight ends with its list.
    for documents, _, _, counted in rows[1:]:
        assert counted == 30
        assert board_event(documents)["rule_hits"] == 0


def test_an_aborted_run_records_what_the_board_added_until_then(scope, maps, tmp_path):
    always = {"quantity": "exx", "low": 1.0, "high": 1.0, "inside": False, "spacing": 0.5, "limit": 3000}
    ((documents, _, blanked, counted),) = maps.call("ruled", scope.prefix, str(tmp_path), [always], 60)
    assert blanked and documents[-1][1]["exit_status"] == "abort" and counted >= 60
    added = rows_of(documents, "added_positions")
    # One row for each frame beyond the list, none for what was asked for and not flown.
    assert added["frame"].tolist() == list(range(30, len(positions_of(documents))))


def test_a_dectris_detector_streams_to_the_board_too(build, client_class, tmp_path):
    # It is triggered by itself, not by the coils: the delay leaves time to tell the board of the flight.
    with (
        SimplonProcess(pixels=48, rate=500, drop=[7], delay=["0:1.0"], tap_port=0) as detector,
        MicroscopeProcess(board=build, separate_board=True, stream=detector.tap, **OPTICS) as process,
    ):
        client = client_class(str(Path(__file__).parent / "board_runs.py"), process.client_env)
        try:
            host = f"127.0.0.1:{detector.api_port}"
            documents, error, blanked, _ = client.call(
                "simplon_raster", process.prefix, host, detector.address, str(tmp_path), 8, 5
            )
        finally:
            client.close()
    assert (error, blanked) == ("", True)
    rows = rows_of(documents)
    assert np.flatnonzero(rows["read_by"] == "network").tolist() == [7]
    event = board_event(documents)
    assert (event["results_out"], event["dropped"]) == (39, 1)
    student = Student.load(build / student_module.NAME)
    electrons = 16.021766 * 5e-4 / 1.602176634e-7
    found = expected(student, np.delete(frames_of(documents), 7, 0), electrons)
    np.testing.assert_array_equal(np.delete(rows["exx"], 7), found.strain[:, 0])


@pytest.mark.parametrize("folder", ["", "nothing"])
def test_a_board_that_cannot_be_is_told_at_the_start(folder, tmp_path, capfd):
    from bluesky_edgestem.cli import main

    options = ["--board", str(tmp_path / folder), "--tap", "tcp://127.0.0.1:1"] if folder else []
    assert main(["sim", "--part", "board", "--prefix", f"T{os.getpid()}:", *options]) == 1
    assert "edgestem fpga build" in capfd.readouterr().err
