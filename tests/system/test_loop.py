"""The closed loop against the soft-IOCs: multislice patterns, the shipped network, emulated energies."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from event_model import DocumentNames, schema_validators

from bluesky_edgestem.analysis.crystals import phase_strain
from bluesky_edgestem.energetics.emulator import Emulator
from bluesky_edgestem.geometry import FieldOfView, ScanGrid
from bluesky_edgestem.sim.launch import MicroscopeProcess
from bluesky_edgestem.sim.specimen import Heterojunction

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
SEED = 5
TARGET = 0.004


@pytest.fixture(scope="module")
def microscope():
    with MicroscopeProcess(source="specimen", seed=SEED) as process:
        yield process


@pytest.fixture(scope="module")
def loops(microscope, client_class, layer):
    environment = {**microscope.client_env, "OPHYD_CONTROL_LAYER": layer}
    client = client_class(str(Path(__file__).parent / "loops.py"), environment)
    yield client
    client.close()


def columns(documents, stream):
    """Columns of a derived stream, all rows of the run."""
    uid = next(doc["uid"] for name, doc in documents if name == "descriptor" and doc["name"] == stream)
    pages = [doc["data"] for name, doc in documents if name == "event_page" and doc["descriptor"] == uid]
    return {key: np.concatenate([np.asarray(page[key]) for page in pages]) for key in pages[0]}


@pytest.fixture(scope="module")
def finished(microscope, loops, tmp_path_factory):
    """A run to its target."""
    documents, error = loops.call(
        "loop", microscope.prefix, str(tmp_path_factory.mktemp("frames")), TARGET, timeout=240
    )
    assert error == ""
    return documents


def test_documents_are_valid_and_the_run_counts_what_it_holds(finished):
    for name, doc in finished:
        schema_validators[DocumentNames[name]].validate(doc)
    kinds = Counter(name for name, _ in finished)
    assert (kinds["start"], kinds["stop"], kinds["descriptor"], kinds["stream_resource"]) == (1, 1, 4, 3)
    stop = finished[-1][1]
    positions = len(columns(finished, "descriptors")["x"])
    batches = len(columns(finished, "optimization")["batch"])
    assert stop["exit_status"] == "success"
    assert stop["num_events"] == {
        "primary": positions,
        "descriptors": positions,
        "energetics": positions,
        "optimization": batches,
    }
    assert positions == 32 + 16 * (batches - 1)


def test_it_ends_at_the_target_over_the_whole_field_and_says_so(finished):
    optimization = columns(finished, "optimization")
    assert optimization["max_sd"][-1] <= TARGET
    assert optimization["energy_sd"][-1].max() == optimization["max_sd"][-1]
    assert optimization["stop"][-1].startswith("target reached")
    assert list(optimization["stop"][:-1]) == [""] * (len(optimization["stop"]) - 1)


def test_no_position_is_visited_twice_and_all_lie_in_the_field(finished):
    descriptors = columns(finished, "descriptors")
    positions = np.column_stack([descriptors["x"], descriptors["y"]])
    assert FieldOfView.centred(100.0).contains(positions).all()
    distance = np.hypot(*(positions[:, None] - positions[None]).transpose(2, 0, 1))
    assert distance[np.triu_indices(len(positions), 1)].min() >= 1.27  # the probe's resolution [nm]


def test_far_fewer_positions_than_the_nyquist_raster(finished):
    assert len(columns(finished, "descriptors")["x"]) <= 0.03 * 159**2


def test_descriptors_agree_with_the_truth_within_their_uncertainty(finished):
    found = columns(finished, "descriptors")
    specimen = Heterojunction(SEED)
    positions = np.column_stack([found["x"], found["y"]])
    truth = specimen.strain(positions)
    for i, component in enumerate(("exx", "eyy", "exy")):
        z = (found[component] - truth[:, i]) / found[f"{component}_sd"]
        # Some 80 positions; a few lie on the phase boundary or the grain's edge, where the strain is not one number.
        assert np.median(np.abs(z)) < 1.0
        assert np.mean(np.abs(z) < 3) > 0.93
    assert np.mean(found["phase"] == specimen.phase(positions)) > 0.95


def test_the_map_is_as_good_as_it_claims(finished):
    optimization = columns(finished, "optimization")
    grid = ScanGrid(FieldOfView.centred(100.0), 64, 64)
    specimen, emulator = Heterojunction(SEED), Emulator()
    strain, rotation, phase = (f(grid.positions) for f in (specimen.strain, specimen.rotation, specimen.phase))
    truth = np.empty(len(phase))
    for formula in ("MoS2", "WS2"):
        there = phase == formula
        truth[there] = emulator.energy(formula, phase_strain(strain[there], rotation[there], formula))
    error = optimization["energy_mean"][-1] - truth.reshape(64, 64)
    assert np.sqrt(np.mean(error**2)) <= 1.5 * TARGET
    assert np.mean(np.abs(error) <= 1.96 * optimization["energy_sd"][-1]) >= 0.90


def test_a_spent_budget_ends_the_run_and_says_so(microscope, loops, tmp_path):
    documents, error = loops.call("budget", microscope.prefix, str(tmp_path), timeout=120)
    assert error == ""
    optimization = columns(documents, "optimization")
    assert optimization["positions"][-1] == 40
    assert optimization["stop"][-1] == "the budget of 40 positions is spent"


def test_an_interrupted_run_is_resumed_from_its_own_documents(microscope, loops, tmp_path):
    earlier, error = loops.call("loop", microscope.prefix, str(tmp_path), 1e-5, 1, timeout=120)
    assert error == ""
    assert earlier[-1][1]["exit_status"] == "abort"
    documents, error = loops.call("budget", microscope.prefix, str(tmp_path), earlier, timeout=120)
    assert error == ""
    assert documents[0][1]["resumes"] == earlier[0][1]["uid"]
    optimization = columns(documents, "optimization")
    # 32 of the earlier run, then up to 40 of this one.
    assert optimization["positions"][-1] == 72
    assert optimization["max_sd"][0] < columns(earlier, "optimization")["max_sd"][0]


def test_a_field_beyond_the_coils_moves_nothing(microscope, loops, tmp_path, caget):
    before = caget(microscope, "Scan:X_RBV"), caget(microscope, "Scan:Y_RBV")
    documents, error = loops.call("too_large", microscope.prefix, str(tmp_path), timeout=180)
    assert "LimitError" in error
    assert "Scan:X" in error
    assert [name for name, _ in documents] == []
    assert (caget(microscope, "Scan:X_RBV"), caget(microscope, "Scan:Y_RBV")) == before
    assert caget(microscope, "Beam:Blank_RBV")[0] == 1  # Blanked


def test_a_raster_goes_row_by_row_and_its_descriptors_follow(microscope, loops, tmp_path):
    documents, error = loops.call("raster", microscope.prefix, str(tmp_path), 4, 3, timeout=180)
    assert error == ""
    found = columns(documents, "descriptors")
    expected = ScanGrid(FieldOfView.centred(100.0), 4, 3).positions
    assert np.column_stack([found["x"], found["y"]]) == pytest.approx(expected, abs=1e-6)
    assert documents[0][1]["shape"] == [3, 4]


def test_a_sobol_survey_is_reproducible_by_its_seed(microscope, loops, tmp_path):
    documents, error = loops.call("sobol", microscope.prefix, str(tmp_path), 8, 3, timeout=180)
    assert error == ""
    assert documents[-1][1]["num_events"] == {"primary": 8}
    assert documents[0][1]["seed"] == 3
