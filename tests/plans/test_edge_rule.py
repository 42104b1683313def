from types import SimpleNamespace

import pytest

from bluesky_edgestem.callbacks.imaging import Imaging
from bluesky_edgestem.plans.edge_rule import EdgeRule
from bluesky_edgestem.plans.survey import Survey


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"quantity": "temperature"}, r"quantity is 'temperature'; allowed is exx \| eyy \| exy \| second phase"),
        ({"low": 0.5}, r"the range is from 0\.5 to 0\.01; allowed is -1 to 1"),
        ({"high": 2.0}, r"the range is from -1 to 2; allowed is -1 to 1"),
        ({"low": float("nan")}, "the range is from nan"),
        ({"spacing": 0.0}, "spacing is 0 nm; allowed is 0.001 to 1000 nm"),
        ({"limit": 0}, "limit is 0; allowed is a whole number of positions, 1 to 65536"),
        ({"limit": 1.5}, r"limit is 1\.5; allowed is a whole number"),
        ({"limit": True}, "limit is True; allowed is a whole number"),
        ({"low": "x"}, "low is 'x'; a number is needed"),
        ({"inside": "no"}, r"inside is 'no'; allowed is True \| False"),
    ],
)
def test_a_rule_that_is_not_allowed_is_refused(changed, told):
    with pytest.raises(ValueError, match=told):
        EdgeRule(**{"quantity": "exx", "low": -1.0, "high": 0.01, **changed})


def test_a_rule_may_be_a_dict_as_a_queue_server_sends_it():
    settings = {"quantity": "exx", "low": -1.0, "high": 0.01, "inside": False, "spacing": 2.0, "limit": 7}
    assert EdgeRule.of(settings) == EdgeRule(**settings)
    assert EdgeRule.of(settings).metadata == settings


def test_a_rule_needs_a_board_and_no_raster():
    rule = EdgeRule("exx", -1.0, 0.01)
    fixed, board = SimpleNamespace(detector=SimpleNamespace(name="arina", may_grow=False)), [None]
    with pytest.raises(ValueError, match=r"give descriptors=microscope\.board with it"):
        Survey(None, None, 1e7, rule=rule)._checked_rule(fixed, [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="leave out imaging and strain, or the rule"):
        Survey(None, None, 1e7, rule=rule, imaging=Imaging())._checked_rule(fixed, board)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="arina needs all positions before the flight: leave out the rule, which adds some"
    ):
        Survey(None, None, 1e7, rule=rule)._checked_rule(fixed, board)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"quantity": "exx", "low": 0.0, "high": 0.1, "above": 1}, "a rule has no above; it has quantity, low, high"),
        ({"quantity": "exx", "low": 0.0}, "the rule says nothing of high"),
        ([1], r"a rule is an EdgeRule or a dict with its fields, got \[1\]"),
    ],
)
def test_a_dict_that_is_no_rule_is_refused(rule, told):
    with pytest.raises(ValueError, match=told):
        EdgeRule.of(rule)
