"""Flights over the simulated microscope, documents and frames exact, by both of ophyd's control layers."""

from __future__ import annotations

import time
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 -- registers bitshuffle
import numpy as np
import pytest

from bluesky_edgestem.sim.launch import MicroscopeProcess

HERE = Path(__file__).parent
pytestmark = pytest.mark.system

DISKS_AT_100K = 1e5
rng = np.random.default_rng(4)
FIRST, SECOND = rng.uniform(-50, 50, (7, 2)), rng.uniform(-50, 50, (5, 2))


def read_frames(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    (path,) = directory.glob("*.h5")
    with h5py.File(path, "r", swmr=True) as file:
        attributes = file["/entry/instrument/NDAttributes"]
        return file["/entry/data/data"][:], np.column_stack([attributes["ScanX"][:], attributes["ScanY"][:]])


def test_the_layer_is_the_one_asked_for(client, layer):
    assert client.call("layer") == layer


def test_a_text_is_whole_however_early_it_is_asked_for(ioc, client, layer):
    """pyepics gives who asks while ophyd asks for time and alarm that answer, which had one letter of the text."""
    if layer == "pyepics":
        assert set(client.call("read_early", ioc.prefix, 0.5)) == {"Simulated pixelated detector"}


def test_a_text_is_whole_however_short_it_was_before(fresh_ioc, fresh_client):
    """pyepics asks for no more letters than the last monitor had."""
    texts = ["a", "three", "a text that is longer", "short"]
    assert fresh_client.call("read_unmonitored", fresh_ioc.prefix, texts) == texts[1:]


def test_documents_of_two_flights_in_one_run(ioc, client, tmp_path):
    documents, error, _ = client.call("run", ioc.prefix, str(tmp_path), [FIRST, SECOND])
    assert error == ""
    names = [name for name, _ in documents]
    assert names[:5] == ["start", "descriptor", "stream_resource", "stream_resource", "stream_resource"]
    assert names[-1] == "stop"
    assert set(names[5:-1]) == {"stream_datum"}

    descriptor = documents[1][1]
    assert descriptor["name"] == "primary"
    keys = descriptor["data_keys"]
    assert list(keys) == ["detector", "detector_x", "detector_y"]
    assert keys["detector"]["shape"] == [64, 64]
    assert keys["detector"]["dtype_numpy"] == "<u2"
    assert all(key["external"] == "STREAM:" for key in keys.values())
    assert [keys[f"detector_{axis}"]["units"] for axis in "xy"] == ["nm", "nm"]
    configuration = descriptor["configuration"]["microscope"]["data"]
    assert configuration["microscope_detector_cam_acquire_time"] == 1e-3
    assert configuration["microscope_detector_cam_trigger_mode"] == "External Series"

    resources = {d["uid"]: d for n, d in documents if n == "stream_resource"}
    assert {d["data_key"]: d["parameters"] for d in resources.values()} == {
        "detector": {"dataset": "/entry/data/data", "swmr": True, "chunk_shape": [1, 64, 64]},
        "detector_x": {"dataset": "/entry/instrument/NDAttributes/ScanX", "swmr": True, "chunk_shape": [256]},
        "detector_y": {"dataset": "/entry/instrument/NDAttributes/ScanY", "swmr": True, "chunk_shape": [256]},
    }
    assert {d["mimetype"] for d in resources.values()} == {"application/x-hdf5"}
    (path,) = tmp_path.glob("*.h5")
    assert {d["uri"] for d in resources.values()} == {f"file://localhost{path}"}

    for uid, resource in resources.items():
        data = [d for n, d in documents if n == "stream_datum" and d["stream_resource"] == uid]
        indices = [(d["indices"]["start"], d["indices"]["stop"]) for d in data]
        assert indices[0][0] == 0 and indices[-1][1] == 12, resource["data_key"]
        assert [a[1] for a in indices[:-1]] == [b[0] for b in indices[1:]], "neither a gap nor a frame twice"
        assert [d["seq_nums"]["start"] for d in data] == [start + 1 for start, _ in indices]
        assert {d["descriptor"] for d in data} == {descriptor["uid"]}

    stop = documents[-1][1]
    assert (stop["exit_status"], stop["reason"], stop["num_events"]) == ("success", "", {"primary": 12})


def test_frames_are_declared_as_deep_as_they_are(client_class, tmp_path, layer):
    with MicroscopeProcess(source="disks", pixels=64, bit_depth=32) as deep:
        client = client_class(str(HERE / "flights.py"), {**deep.client_env, "OPHYD_CONTROL_LAYER": layer})
        documents, error, _ = client.call("run", deep.prefix, str(tmp_path), [FIRST])
        client.close()
    assert error == ""
    (descriptor,) = [document for name, document in documents if name == "descriptor"]
    frames, _ = read_frames(tmp_path)
    assert descriptor["data_keys"]["detector"]["dtype_numpy"] == frames.dtype.str == "<u4"


def test_frames_are_those_of_the_positions_asked_for(ioc, client, tmp_path, caget):
    _, error, _ = client.call("run", ioc.prefix, str(tmp_path), [FIRST, SECOND])
    assert error == ""
    frames, positions = read_frames(tmp_path)
    np.testing.assert_array_equal(positions, np.vstack([FIRST, SECOND]))
    assert frames.shape == (12, 64, 64) and frames.dtype == np.uint16
    electrons = frames.sum(axis=(1, 2), dtype=float)
    np.testing.assert_allclose(electrons, DISKS_AT_100K, atol=5 * np.sqrt(DISKS_AT_100K))  # 16.02 pA for 1 ms
    assert len(np.unique(electrons)) > 6, "each frame has counting noise of its own"
    # the pattern turns with x: frames of the same position, and only those, are alike but for the noise
    assert caget(ioc, "Beam:Blank_RBV")[0] == 1


def test_frames_are_compressed_with_bitshuffle_lz4_one_to_a_chunk(ioc, client, tmp_path):
    client.call("run", ioc.prefix, str(tmp_path), [FIRST])
    (path,) = tmp_path.glob("*.h5")
    with h5py.File(path) as file:
        frames = file["/entry/data/data"]
        assert frames.chunks == (1, 64, 64)
        code, _, values, _ = frames.id.get_create_plist().get_filter(0)
        assert (code, values[4]) == (32008, 2), "bitshuffle, with lz4"


def test_step_scans_take_one_pattern_an_event(ioc, client, tmp_path, caget):
    documents = client.call("step", ioc.prefix, str(tmp_path), 3, (-10, 10, 5))
    names = [name for name, _ in documents]
    assert (names.count("start"), names.count("event"), names.count("stop")) == (2, 8, 2)
    assert [d["num_events"] for n, d in documents if n == "stop"] == [{"primary": 3}, {"primary": 5}]
    events = [d["data"] for n, d in documents if n == "event"]
    assert [d["microscope_coils_x"] for d in events[3:]] == [-10, -5, 0, 5, 10]
    first, second = sorted(tmp_path.glob("*.h5"), key=lambda path: path.stat().st_mtime)
    for path, x in ((first, None), (second, [-10, -5, 0, 5, 10])):
        with h5py.File(path) as file:
            assert file["/entry/data/data"][:].sum(axis=(1, 2)).min() > 0.9e5
            if x is not None:
                np.testing.assert_array_equal(file["/entry/instrument/NDAttributes/ScanX"][:], x)
    assert caget(ioc, "Beam:Blank_RBV")[0] == 1


def test_a_blanked_beam_gives_empty_frames(ioc, client, tmp_path):
    assert client.call("fly_blanked", ioc.prefix, str(tmp_path), FIRST)
    frames, positions = read_frames(tmp_path)
    np.testing.assert_array_equal(positions, FIRST)
    assert frames.max() == 0


def test_a_flight_of_one_position(ioc, client, tmp_path):
    documents, error, _ = client.call("run", ioc.prefix, str(tmp_path), [[[3.0, 4.0]], [[5.0, 6.0]]])
    assert error == "" and documents[-1][1]["num_events"] == {"primary": 2}
    assert read_frames(tmp_path)[1].tolist() == [[3, 4], [5, 6]]


def test_coils_settle_before_each_exposure(ioc, client, tmp_path):
    started = time.time()
    client.call("run", ioc.prefix, str(tmp_path), [FIRST], 1e-3, 0.1)
    assert time.time() - started >= 7 * 0.1


def test_a_position_outside_the_limits_moves_nothing(ioc, client, tmp_path, caget):
    before = caget(ioc, "Scan:X_RBV")[0], caget(ioc, "cam1:ArrayCounter_RBV")[0]
    documents, error, _ = client.call("run", ioc.prefix, str(tmp_path), [[[0, 0], [61, 0], [0, 70]]])
    assert error.startswith(
        f"LimitError: x = 61 nm (position 1, one of 1 outside) is beyond the limits of {ioc.prefix}Scan:X, -60 to 60 nm"
    )
    assert documents[-1][1]["exit_status"] == "fail"
    assert (caget(ioc, "Scan:X_RBV")[0], caget(ioc, "cam1:ArrayCounter_RBV")[0]) == before
    assert caget(ioc, "Beam:Blank_RBV")[0] == 1


@pytest.mark.parametrize("positions", [[[0, float("nan")]], [], [[1, 2, 3]]])
def test_what_is_no_position_is_refused(ioc, client, tmp_path, positions):
    assert "ValueError: position" in client.call("attempt", ioc.prefix, str(tmp_path), "prepare", positions)


def test_a_dose_over_budget_is_refused_before_the_beam_is_unblanked(ioc, client, tmp_path, caget):
    before = caget(ioc, "Scan:X_RBV")[0], caget(ioc, "cam1:ArrayCounter_RBV")[0]
    documents, error, _ = client.call("budget", ioc.prefix, str(tmp_path), FIRST, 1.5e5)
    assert error.startswith("DoseExceeded: a pattern would cost 2e+05 electrons, the budget is 1.5e+05")
    assert f"shorten {ioc.prefix}cam1:AcquireTime to at most 0.0005 s" in error
    assert "stream_datum" not in [name for name, _ in documents]
    assert (caget(ioc, "Scan:X_RBV")[0], caget(ioc, "cam1:ArrayCounter_RBV")[0]) == before
    assert client.call("budget", ioc.prefix, str(tmp_path), FIRST, 2.1e5)[1] == ""


def test_a_budget_that_settling_alone_exceeds_says_so(ioc, client, tmp_path):
    _, error, _ = client.call("budget", ioc.prefix, str(tmp_path), FIRST, 5e4)
    assert f"shorten {ioc.prefix}Scan:SettleTime, now 0.001 s, with which no exposure is short enough" in error


def test_a_pattern_costs_what_settling_and_exposure_bring(ioc, client, tmp_path):
    dose, exposure, optics = client.call("dose", ioc.prefix, str(tmp_path), 2e-3, 1e-3)
    assert dose == pytest.approx(3e5, rel=1e-6), "the beam is on while the coils settle"
    assert exposure == pytest.approx(1e-3, rel=1e-6), "1e5 electrons in the pattern"
    assert (optics.energy_keV, optics.semiangle_mrad, optics.pixel_mrad, optics.n_pixels) == (80, 2, 0.5, 64)


@pytest.mark.parametrize("dose", [-1.0, 0.0, float("nan")])
def test_a_dose_that_is_none_is_refused(ioc, client, tmp_path, dose):
    error = client.call("attempt", ioc.prefix, str(tmp_path), "exposure_for", dose)
    assert error == f"ValueError: the dose is {dose:g} electrons per pattern; it has to be above 0"


def test_a_put_that_the_ioc_refuses_fails_and_names_the_pv(ioc, client, tmp_path, caget):
    error = client.call("attempt", ioc.prefix, str(tmp_path), "detector.cam.acquire_time.set", -1.0)
    assert f"{ioc.prefix}cam1:AcquireTime was set to -1.0" in error
    assert caget(ioc, "cam1:AcquireTime_RBV")[0] > 0
    assert caget(ioc, "cam1:AcquireTime")[1] == 2, "MAJOR alarm"
    assert client.call("attempt", ioc.prefix, str(tmp_path), "detector.cam.acquire_time.set", 1e-3) == ""
    assert caget(ioc, "cam1:AcquireTime")[1] == 0


def test_a_state_that_a_pv_does_not_have_is_told_with_those_it_has(ioc, client, tmp_path):
    error = client.call("attempt", ioc.prefix, str(tmp_path), "detector.cam.trigger_mode.set", "By hand")
    assert "TriggerMode has no state 'By hand'; its states are Internal Series" in error
