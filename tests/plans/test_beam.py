"""What a run refuses before anything moves."""

import pytest

from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.geometry import FieldOfView
from bluesky_edgestem.plans.beam import as_field, as_optics, check_resumable, checked_metadata, describe_beam

FIELD = FieldOfView.centred(100.0)


@pytest.mark.parametrize("key", ["optics", "uid", "field_of_view", "target_sd"])
def test_metadata_may_not_replace_what_the_run_says_itself(key):
    with pytest.raises(ValueError, match=f"metadata may not be called {key}"):
        checked_metadata({key: 1, "sample": "x"})


def test_any_other_metadata_is_kept_as_it_is():
    md = {"plan_name": "mine", "nested": {"a": [1, 2]}}
    assert checked_metadata(md) == md
    assert checked_metadata(None) == {}


def test_a_run_of_another_field_or_beam_is_not_resumed():
    earlier = {"uid": "c0ffee00", **describe_beam(FIELD, Optics())}
    check_resumable(earlier, describe_beam(FIELD, Optics()))
    with pytest.raises(ValueError, match=r"run c0ffee00 cannot be resumed here: its optics was .*'energy_keV': 80"):
        check_resumable(earlier, describe_beam(FIELD, Optics(energy_keV=200)))
    with pytest.raises(ValueError, match="its field_of_view was"):
        check_resumable(earlier, describe_beam(FieldOfView.centred(50.0), Optics()))


@pytest.mark.parametrize("given", [{"x0": 0, "y0": 0}, (0, 0, 100), (0, 0, 1, 1, 1), 100.0, (0, 0, "wide", 1), None])
def test_a_field_that_is_none_is_answered_with_what_one_is(given):
    with pytest.raises(ValueError, match=r"field_of_view is .*; give x0, y0, width and height \[nm\]"):
        as_field(given)
    assert as_field([-50, -50, 100, 100]) == FIELD


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"energy_kev": 80}, "unknown key 'energy_kev'; did you mean 'energy_keV'"),
        ({"zzz": 80}, "unknown key 'zzz'; known are energy_keV, semiangle_mrad"),
        ({"energy_keV": "80"}, "energy_keV = '80'; give a number"),
        ({"energy_keV": 8}, "energy_keV is 8 keV; allowed is 20.0 to 400.0 keV"),
    ],
)
def test_optics_that_are_wrong_are_answered_with_what_is_right(given, message):
    with pytest.raises(ValueError, match=message):
        as_optics(given)
    assert as_optics({"energy_keV": 200}) == Optics(energy_keV=200)
