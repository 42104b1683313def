import re
from dataclasses import replace

import numpy as np
import pytest

from bluesky_edgestem.fpga.frontend import Frontend
from bluesky_edgestem.fpga.golden import GoldenFrames
from bluesky_edgestem.fpga.results import COLUMNS, descriptors, rows

FRONTEND = Frontend(48)


@pytest.fixture
def student(make_student):
    return make_student(FRONTEND)


@pytest.fixture
def golden(student, make_frames):
    frames = make_frames(FRONTEND, 3)
    return GoldenFrames(student.hash, frames, *student.outputs(frames))


def test_golden_frames_are_read_back_and_the_student_passes(tmp_path, student, golden):
    golden.save(tmp_path / "golden.frames")
    again = GoldenFrames.load(tmp_path / "golden.frames")
    assert again.student == student.hash
    assert np.array_equal(again.frames, golden.frames) and again.frames.dtype == golden.frames.dtype
    assert again.complaint(student) == ""


def test_one_bit_that_is_wrong_is_told_with_its_frame(student, golden):
    words = golden.words.copy()
    words[4, 2] ^= 1
    told = replace(golden, words=words).complaint(student)
    assert told.startswith("1 of 14 golden frames gave other words than they should; the first is frame 4: ")


def test_golden_frames_of_another_student_are_no_test(student, golden, make_student):
    told = golden.complaint(make_student(FRONTEND, seed=1))
    assert re.fullmatch(f"the golden frames are those of student {student.hash}, loaded is [0-9a-f]{{16}}", told)


def test_rows_hold_all_that_a_student_tells(student, make_frames):
    student = replace(student, card={"strain_sd": 1.0})  # else none of its random results is known
    frames = make_frames(FRONTEND, 4)
    found = student.described(*student.outputs(frames))
    table = rows(7, np.arange(len(frames)) + 3, 2e4, found)
    assert table.shape == (len(frames), len(COLUMNS))
    assert (table[:, 0] == 7).all() and table[0, 1] == 3 and (table[:, 2] == 2e4).all()
    again = descriptors(table, found.phases)
    for name in ("strain", "covariance", "rotation", "rotation_sd", "phase_probability", "centre", "centre_sd"):
        # exy's is divided and multiplied by √2 on its way
        np.testing.assert_allclose(getattr(again, name), getattr(found, name), rtol=1e-15, err_msg=name)
    assert list(again.flagged) == list(found.flagged) and "" in again.flagged and any(again.flagged)
