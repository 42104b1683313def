import numpy as np
import pytest

from bluesky_edgestem.analysis.descriptor import FeatureDescriptors

TWO = FeatureDescriptors(
    strain=np.zeros((2, 3)),
    covariance=np.tile(np.diag([4e-6, 1e-6, 9e-6]), (2, 1, 1)),
    rotation=np.zeros(2),
    rotation_sd=np.ones(2),
    phases=("MoS2", "WS2"),
    phase_probability=np.array([[0.2, 0.8], [0.0, 1.0]]),
    flagged=np.array(["", ""]),
)


def test_the_most_probable_phase_and_the_standard_deviations():
    assert list(TWO.phase) == ["WS2", "WS2"]
    assert TWO.strain_sd == pytest.approx(np.array([[2e-3, 1e-3, 3e-3]] * 2))


def test_among_fewer_phases_the_probabilities_are_normalised_anew():
    only = TWO.among(["MoS2"])
    assert only.phases == ("MoS2",)
    assert only.phase_probability.tolist() == [[1.0], [1.0]]
    assert list(only.phase) == ["MoS2", "MoS2"]
    assert TWO.among(["WS2", "MoS2"]).phase_probability[0] == pytest.approx([0.8, 0.2])


def test_a_phase_that_is_not_told_apart_is_refused():
    with pytest.raises(ValueError, match="graphene is not among the phases told apart: MoS2, WS2"):
        TWO.among(["graphene"])
