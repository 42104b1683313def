"""A real microscope's calibration is never overridden by the file's defaults; a resumed run's past is all of it."""

from types import SimpleNamespace

import pytest

from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.config import parse_experiment
from bluesky_edgestem.experiment import _documents, calibrated_optics

MICROSCOPE = SimpleNamespace(
    optics=Optics(energy_keV=200.0, semiangle_mrad=1.5, pixel_mrad=0.31, n_pixels=128),
    beam=SimpleNamespace(current=SimpleNamespace(get=lambda: 50.0)),
)


def test_what_the_file_leaves_out_the_microscope_says():
    optics = calibrated_optics(parse_experiment("[detector]\npsf_px = 0.4"), MICROSCOPE)
    assert optics == Optics(energy_keV=200.0, semiangle_mrad=1.5, pixel_mrad=0.31, n_pixels=128, psf_px=0.4)


def test_a_file_that_agrees_is_taken():
    calibrated_optics(parse_experiment("[beam]\nenergy_keV = 200.0\ncurrent_pA = 50.01"), MICROSCOPE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[beam]\nenergy_keV = 80.0", "the experiment file says energy_keV = 80, the microscope says 200"),
        ("[detector]\npixel_mrad = 0.3", "pixel_mrad = 0.3, the microscope says 0.31"),
        ("[beam]\ncurrent_pA = 100.0", "current_pA = 100, the microscope says 50"),
    ],
)
def test_a_file_that_contradicts_the_microscope_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        calibrated_optics(parse_experiment(text), MICROSCOPE)


def catalog(**resumes):
    """Runs by uid, each a start and a stop document, and which run each resumed."""

    def run(uid, resumed):
        documents = [("start", {"uid": uid, **({"resumes": resumed} if resumed else {})}), ("stop", {"run_start": uid})]
        return SimpleNamespace(documents=lambda: iter(documents))

    return {uid: run(uid, resumed) for uid, resumed in resumes.items()}


def starts(documents):
    return [doc["uid"] for name, doc in documents if name == "start"]


def test_a_resumed_run_is_resumed_with_all_that_came_before_it():
    runs = catalog(first="", second="first", third="second", other="first")
    assert starts(_documents(runs, "third")) == ["first", "second", "third"]
    assert [name for name, _ in _documents(runs, "third")] == ["start", "stop"] * 3
    assert starts(_documents(runs, "first")) == ["first"]


def test_runs_that_claim_to_resume_each_other_are_read_once():
    assert starts(_documents(catalog(one="two", two="one"), "one")) == ["two", "one"]


def test_a_run_that_is_missing_is_named_with_the_one_that_resumed_it():
    with pytest.raises(ValueError, match=r"no run 'zzz' in this catalog"):
        _documents(catalog(one=""), "zzz")
    with pytest.raises(ValueError, match=r"no run 'lost', which one resumed, in this catalog"):
        _documents(catalog(one="lost"), "one")
