import numpy as np
import pytest

from bluesky_edgestem.fpga.frontend import CORE, Frontend


def test_the_middle_of_a_frame_is_binned_and_the_margin_cut_off():
    frontend = Frontend(128, bin=2, pixel_bits=16, bin_bits=10)
    frames = np.zeros((1, 128, 128), np.uint16)
    frames[0, :16] = frames[0, :, -16:] = 900  # the margin
    frames[0, 16:18, 20:22] = [[1, 2], [3, 4]]
    bins = frontend.binned(frames)[0]
    assert frontend.margin == 16
    assert bins[0, 2] == 10
    assert bins.sum() == 10


def test_bins_saturate_and_those_of_the_incident_beam_are_attenuated():
    frontend = Frontend(48, bin_bits=8, pixel_bits=16)
    frames = np.full((1, 48, 48), 3000, np.uint16)
    weighed = frontend(frames)[0]
    assert set(weighed[frontend.outer]) == {255}
    assert set(weighed[~frontend.outer]) == {3000 >> 7}
    # Closer than 5.5 bins to a middle between four bins.
    assert (~frontend.outer).sum() == sum(np.hypot(x - 23.5, y - 23.5) <= 5.5 for x in range(CORE) for y in range(CORE))


def test_bins_are_shifted_so_that_disks_do_not_saturate():
    frontend = Frontend(48, bin_bits=8, pixel_bits=16)
    # At 10⁶ electrons 700 in the brightest bin, 910 with some room: two bits more than 8.
    assert list(frontend.shift_for(np.array([1e3, 1e5, 1e6, 1e12]), 7e-4)) == [0, 0, 2, 7]
    frames = np.full((2, 48, 48), 301, np.uint16)
    assert set(frontend(frames, np.array([1, 2]))[:, 0]) == {150, 75}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"n_pixels": 48, "bin": 3}, "bins by 1, 2 or 4"),
        ({"n_pixels": 64, "bin": 2}, "sees 96 pixels"),
        ({"n_pixels": 49}, "a multiple of 2 more"),
        ({"n_pixels": 98, "bin": 2}, "a multiple of 4 more"),
        ({"n_pixels": 48, "pixel_bits": 12}, "8 or 16 bits"),
        ({"n_pixels": 48, "bin_bits": 14}, "4 to 12 bits"),
    ],
)
def test_a_frontend_that_cannot_be_is_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        Frontend(**settings)


def test_frames_of_another_shape_or_type_are_refused():
    frontend = Frontend(48)
    with pytest.raises(ValueError, match=r"built for \(any, 48, 48\)"):
        frontend(np.zeros((1, 96, 96), np.uint8))
    with pytest.raises(TypeError, match="unsigned integers"):
        frontend(np.zeros((1, 48, 48)))


def test_beats_must_divide_the_frame_and_its_margin():
    Frontend(128, bin=2).check_beats(16)
    with pytest.raises(ValueError, match="16 pixels a clock do not divide"):
        Frontend(120, bin=2).check_beats(16)


def test_pixels_saturate_on_the_wire_before_bins_do():
    frontend = Frontend(48, pixel_bits=8)
    assert frontend.attenuated(np.full((1, 48, 48), 5000))[0, ~frontend.outer].max() == 255 >> 7
