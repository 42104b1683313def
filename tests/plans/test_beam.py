"""What a run refuses before anything moves."""

import pytest

from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.geometry import FieldOfView
from bluesky_edgestem.plans.beam import check_resumable, checked_metadata, describe_beam

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
    check_resumable(earlier, FIELD, Optics())
    with pytest.raises(ValueError, match=r"run c0ffee00 cannot be resumed here: its optics was .*'energy_keV': 80"):
        check_resumable(earlier, FIELD, Optics(energy_keV=200))
    with pytest.raises(ValueError, match="its field_of_view was"):
        check_resumable(earlier, FieldOfView.centred(50.0), Optics())
