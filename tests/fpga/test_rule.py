from dataclasses import replace

import numpy as np
import pytest

from bluesky_edgestem.fpga.frontend import Frontend
from bluesky_edgestem.fpga.rule import QUANTITIES, Rule
from bluesky_edgestem.fpga.student import OUTPUT_FRACTION, OUTPUTS


@pytest.fixture(scope="module")
def student(make_student):
    return replace(make_student(Frontend(48)), card={"strain_sd": 0.02}, sd_factors=(1.25, 1.0, 1.0))


def words_of(**values):
    """One result's words, known well unless it is said."""
    words = np.zeros((1, len(OUTPUTS)), np.int64)
    for name, value in {"log_sd": -4.0, **values}.items():
        words[0, OUTPUTS.index(name)] = round(value * 2**OUTPUT_FRACTION)
    return words


def holds(rule, status=0, **values):
    return bool(rule(words_of(**values), np.array([status]))[0])


@pytest.mark.parametrize("quantity", ["exx", "eyy", "exy"])
def test_it_holds_outside_of_its_range_of_strain(student, quantity):
    rule = Rule.of(student, quantity, -1.0, 0.01, inside=False)
    assert holds(rule, **{quantity: 0.0101 / 0.02})
    assert not holds(rule, **{quantity: 0.0099 / 0.02})
    assert not holds(rule, **{quantity: -1.9})  # -1 is below all words
    other = next(name for name in ("exx", "eyy", "exy") if name != quantity)
    assert not holds(rule, **{other: 1.0})


def test_it_holds_inside(student):
    rule = Rule.of(student, "exx", 0.005, 0.01, inside=True)
    assert [holds(rule, exx=v / 0.02) for v in (0.004, 0.006, 0.011)] == [False, True, False]


def test_a_probability_becomes_log_odds(student):
    rule = Rule.of(student, "second phase", 0.75, 1.0, inside=True)
    odds = np.log(np.array([0.74, 0.76, 0.9999]) / (1 - np.array([0.74, 0.76, 0.9999])))
    assert [holds(rule, phase=v) for v in odds] == [False, True, True]


def test_the_words_are_those_at_which_the_decoded_value_crosses_the_limit(student):
    limit = 0.0123
    rule = Rule.of(student, "exx", -1.0, limit, inside=False)
    words = np.tile(words_of(), (2000, 1))
    words[:, 0] = np.arange(2000)
    read = student.described(words, np.zeros(2000, int))
    np.testing.assert_array_equal(rule(words, np.zeros(2000, int)), read.strain[:, 0] > limit)


def test_what_the_board_does_not_know_never_holds(student):
    rule = Rule.of(student, "exx", -1.0, 0.0, inside=False)
    for status in (1, 2, 3):
        assert not holds(rule, status, exx=1.0)
    # As for `described`: 0.8 of what was known beforehand, whatever the calibration's factor.
    words = np.tile(words_of(exx=1.0), (4000, 1))
    words[:, OUTPUTS.index("log_sd")] = np.arange(-3000, 1000)
    known = student.described(words, np.zeros(4000, int)).flagged == ""
    assert 0 < known.sum() < 4000
    np.testing.assert_array_equal(rule(words, np.zeros(4000, int)), known)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("size", 0.0, 1.0, True), f"quantity is 'size'; allowed is {' | '.join(QUANTITIES)}".replace("|", r"\|")),
        (("exx", 0.02, 0.01, True), "from 0.02 to 0.01; low must not be above high"),
        (("exx", float("nan"), 0.01, True), "low must not be above high"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(student, settings, told):
    with pytest.raises(ValueError, match=told):
        Rule.of(student, *settings)
