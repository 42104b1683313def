"""An experiment file that is wrong is explained, with the right key where it is near."""

from typing import get_args

import pytest

from bluesky_edgestem.config import (
    EnergeticsTable,
    ExperimentFileError,
    demo_experiment,
    load_experiment,
    parse_experiment,
)
from bluesky_edgestem.energetics.method import METHODS


def test_the_shipped_experiment_is_valid_and_states_its_target():
    experiment = demo_experiment()
    assert experiment.microscope.simulated
    assert experiment.field.width_nm == 100.0
    assert experiment.metadata["material"] == ["MoS2", "WS2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[stop]\ntarget_sd_ev = 0.01", r"unknown key 'stop.target_sd_ev'; did you mean 'target_sd_eV'\?"),
        ("[feild]\nwidth_nm = 1.0", r"unknown key 'feild'; did you mean 'field'\?"),
        ("[field]\nzzz = 1.0", r"unknown key 'field.zzz'; known are centre_x_nm, centre_y_nm, width_nm, height_nm"),
        ("[field]\nwidth_nm = -5.0", r"field.width_nm is -5.0: input should be greater than 0"),
        ("[detector]\ndwell_time_s = nan", r"detector.dwell_time_s is nan: input should be a finite number"),
        ("[stop]\nmax_dose_per_position_electrons = -1", r"max_dose_per_position_electrons is -1: .* greater than 0"),
        ("[beam]\nenergy_keV = 'high'", r"beam.energy_keV is 'high': input should be a valid number"),
        ("[beam", r"is not valid TOML"),
    ],
)
def test_each_mistake_has_its_message(text, message):
    with pytest.raises(ExperimentFileError, match=message):
        parse_experiment(text)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ExperimentFileError) as caught:
        parse_experiment("[field]\nwidth_nm = 0\nheigth_nm = 3")
    assert "field.width_nm" in str(caught.value)
    assert "did you mean 'height_nm'" in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ExperimentFileError, match=r"cannot read the experiment file .*absent\.toml"):
        load_experiment(tmp_path / "absent.toml")


def test_dates_in_the_metadata_become_text_that_documents_can_hold():
    experiment = parse_experiment("[metadata]\ngrown = 2026-01-31\nnested = {at = [2026-01-31T10:00:00]}")
    assert experiment.metadata == {"grown": "2026-01-31", "nested": {"at": ["2026-01-31T10:00:00"]}}


def test_true_is_not_a_number_and_text_is_not_either():
    with pytest.raises(ExperimentFileError, match="width_nm is True"):
        parse_experiment("[field]\nwidth_nm = true")
    with pytest.raises(ExperimentFileError, match="batch is '3'"):
        parse_experiment("[loop]\nbatch = '3'")
    assert parse_experiment("[field]\nwidth_nm = 50").field.width_nm == 50.0


def test_methods_are_those_that_there_are():
    of = EnergeticsTable.model_fields["method"].annotation
    assert list(get_args(of)) == list(METHODS)
