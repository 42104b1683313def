from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest

from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.fpga.frontend import Frontend
from bluesky_edgestem.fpga.student import OUTPUT_FRACTION, Layer, Student, divided

FRONTEND = Frontend(48)


def test_quotients_are_those_of_exact_fractions_downwards():
    rng = np.random.default_rng(0)
    sums = rng.integers(-5000, 5001, (200, 3))
    divisors = rng.integers(1, 6000, 200)
    found = divided(sums, divisors, 8)
    for row, divisor, quotients in zip(sums, divisors, found, strict=True):
        for u, q in zip(row, quotients, strict=True):
            assert q == min(max(floor(Fraction(int(u) * 256, int(divisor))), -256), 255)


def test_a_normaliser_of_zero_gives_zero_and_a_flag(make_student):
    assert not divided(np.array([[7, -7]]), np.array([0]), 8).any()
    student = make_student(FRONTEND)
    read = student.predict(np.zeros((1, 48, 48), np.uint8), student.optics)
    assert read.flagged[0] == "no Bragg disks over the background"
    assert read.strain_sd[0, 0] == pytest.approx(0.02)
    assert list(read.phase_probability[0]) == [0.5, 0.5]
    assert list(read.centre_sd[0]) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("value", "expected"), [(4, 2), (5, 3), (-5, -2), (-6, -3), (-7, -3), (999, 127), (-999, -128)]
)
def test_a_layer_rounds_and_saturates(value, expected):
    # Out of fraction 1 into 0, and a quarter more: 5/2 + 1/4 is 2.75, to 3; -5/2 + 1/4 is -2.25, to -2.
    layer = Layer(np.array([[1]], np.int32), np.array([1]), 0, 8, 0, True)
    assert layer(np.array([[value]]), 1)[0, 0] == expected


def test_a_bias_that_leaves_sums_halfway_is_refused():
    with pytest.raises(ValueError, match="a bias is even"):
        Layer(np.ones((1, 2), np.int32), np.array([1, 2]), 0, 8, 0, True)


def test_it_is_read_back_as_it_was_written_and_another_is_told_by_its_hash(tmp_path, make_student, make_frames):
    student = make_student(FRONTEND)
    student.save(tmp_path / "student.weights")
    again = Student.load(tmp_path / "student.weights")
    frames = make_frames(FRONTEND, 5)
    assert again.hash == student.hash
    assert all(np.array_equal(a, b) for a, b in zip(again.outputs(frames), student.outputs(frames), strict=True))
    assert make_student(FRONTEND, seed=1).hash != student.hash


@pytest.mark.parametrize("damage", ["cut short", "altered", "another"])
def test_a_damaged_file_is_refused_by_name(tmp_path, damage, make_student):
    path = tmp_path / "student.weights"
    make_student(FRONTEND).save(path)
    data = bytearray(path.read_bytes())
    if damage == "cut short":
        data = data[:-100]
    elif damage == "altered":
        data[-100] ^= 1
    else:
        data = bytearray(b"something else")
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"student network weights .*student\.weights: (cut short or|not a weights)"):
        Student.load(path)


def test_optics_that_it_was_not_made_for_are_refused(make_student):
    student = make_student(FRONTEND)
    with pytest.raises(ValueError, match=r"built for 80 keV.*edgestem fpga build"):
        student.predict(np.zeros((1, 48, 48), np.uint8), Optics(200.0, 2.0, 64 / 48, 48))


def test_a_pattern_that_tells_hardly_anything_is_flagged(make_student):
    student = make_student(FRONTEND)
    words = np.zeros((2, 9), np.int64)
    words[1, 7] = -2 * 2**OUTPUT_FRACTION  # e⁻² of the unit, 0.27 %
    read = replace(student, card={"strain_sd": 0.02}).described(words, np.zeros(2, int))
    assert list(read.flagged) == ["the pattern tells hardly more than was known before", ""]
    assert read.strain_sd[1] == pytest.approx([0.02 * np.exp(-2)] * 2 + [0.02 * np.exp(-2) / np.sqrt(2)])
