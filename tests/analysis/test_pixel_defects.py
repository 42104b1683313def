"""Dead pixels count nothing, hot ones more, the others are left alone."""

import numpy as np
import pytest

from bluesky_edgestem.analysis.pixel_defects import PixelDefects, gaps, good_pixels, share_in


def test_defects_change_their_own_pixels_only_and_in_every_frame():
    defects = PixelDefects.draw(128, np.random.default_rng(1), dead=0.01, hot=0.005, hot_counts=300.0)
    frames = np.random.default_rng(2).poisson(5.0, (50, 128, 128)).astype(np.uint16)
    seen = defects.applied(frames, np.random.default_rng(3))
    good = ~defects.dead & (defects.hot == 0)
    assert seen.dtype == np.uint16
    assert np.array_equal(seen[:, good], frames[:, good])
    assert (seen[:, defects.dead] == 0).all()
    hot = ~defects.dead & (defects.hot > 0)
    # Poisson means of 50 frames: five standard deviations.
    added = (seen[:, hot].astype(float) - frames[:, hot]).mean(0)
    assert (np.abs(added - defects.hot[hot]) < 5 * np.sqrt(defects.hot[hot] / 50) + 0.1).all()
    # Binomial: 164 ± 13 and 82 ± 9 pixels are expected.
    assert defects.dead.sum() == pytest.approx(164, abs=65)
    assert (defects.hot > 0).sum() == pytest.approx(82, abs=45)


def test_a_hot_pixel_saturates_and_impossible_fractions_are_refused():
    one = PixelDefects(np.zeros((1, 1), bool), np.full((1, 1), 1e6))
    assert one.applied(np.zeros((1, 1), np.uint16), np.random.default_rng(0))[0, 0] == 65535
    with pytest.raises(ValueError, match=r"fraction of hot pixels is 0 to 0\.1, got 0\.5"):
        PixelDefects.draw(8, np.random.default_rng(0), hot=0.5)


def test_defects_are_found_in_frames_with_structure():
    y, x = np.indices((48, 48))
    expected = 0.2 + 30.0 * (np.hypot(x - 20, y - 25) < 6) + 8.0 * (np.hypot(x - 37, y - 25) < 6)
    defects = PixelDefects(np.zeros((48, 48), bool), np.zeros((48, 48)))
    defects.dead[[25, 40, 25], [22, 40, 36]] = True
    defects.hot[[10, 26], [10, 36]] = 40.0
    rng = np.random.default_rng(0)
    frames = defects.applied(rng.poisson(expected, (300, 48, 48)).astype(np.uint16), rng)
    found = ~good_pixels(frames)
    # The dead pixel at (36, 25) has a hot neighbour, the hot one at (36, 26) a dead one; neither hides the other.
    assert np.argwhere(found).tolist() == [[10, 10], [25, 22], [25, 36], [26, 36], [40, 40]]


def disks(background):
    """Flat disks on a square lattice along the frame's axes, (96, 96), of one electron."""
    y, x = np.indices((96, 96))
    out = np.full((96, 96), float(background))
    for h in range(-1, 2):
        for k in range(-1, 2):
            out += (np.hypot(x - 47.6 - 28 * h, y - 48.3 - 28 * k) < 6) / (1 + 3 * (h * h + k * k))
    return out / out.sum()


@pytest.mark.parametrize("dose", [1e3, 1e5])
@pytest.mark.parametrize("background", [0.0, 0.01])
def test_lines_without_a_count_are_a_gap_only_between_lines_that_end_abruptly(dose, background):
    expected = disks(background)
    frames = np.random.default_rng(3).poisson(dose * expected, (200, 96, 96)).astype(np.uint16)
    assert not gaps(frames).any(), "between disks there is nothing, and no gap"
    frames[:, 60:64] = frames[:, :, 43:46] = 0
    found = gaps(frames)
    if background:
        assert np.flatnonzero(found.all(1)).tolist() == [60, 61, 62, 63]
    assert np.flatnonzero(found.all(0)).tolist() == [43, 44, 45]
    hidden = 1 - expected[~found].sum()
    assert 0.5 < share_in(found, frames) / hidden < 2, "what is beside the gap tells about how much"


def test_hot_pixels_between_disks_are_no_edges_of_a_gap():
    frames = np.random.default_rng(3).poisson(1e4 * disks(0.0), (8, 96, 96)).astype(np.uint16)
    frames[:, 20, 33] = frames[:, 70, 33] = 30
    frames[0, 50, 32] = 1  # as of the tail of a point spread
    assert not frames[:, :, 34:41].any()
    assert not gaps(frames).any()


def test_the_rim_of_a_frame_is_no_gap():
    frames = np.ones((50, 40, 40), np.uint16)
    frames[:, :6] = frames[:, :, -3:] = 0
    assert not gaps(frames).any()
