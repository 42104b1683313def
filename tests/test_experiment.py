"""A real microscope's calibration is never overridden by the file's defaults."""

from types import SimpleNamespace

import pytest

from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.config import parse_experiment
from bluesky_edgestem.experiment import calibrated_optics

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
