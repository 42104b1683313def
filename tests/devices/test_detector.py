"""A detector that is disarmed may still expose."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from bluesky_edgestem.devices import detector


@pytest.mark.parametrize(("bits", "pixel"), [(8, "|u1"), (16, "<u2"), (32, "<u4")])
def test_the_pixel_is_as_deep_as_the_detector_says_now(bits, pixel):
    cam = SimpleNamespace(bit_depth=SimpleNamespace(get=Mock(return_value=bits), pvname="T:BitDepthImage_RBV"))
    assert detector.PixelatedDetector.pixel_type.fget(SimpleNamespace(cam=cam)).str == pixel
    cam.bit_depth.get.assert_called_once_with(use_monitor=False)


def test_another_depth_is_refused():
    cam = SimpleNamespace(bit_depth=SimpleNamespace(get=lambda **_: 12, pvname="T:BitDepthImage_RBV"))
    with pytest.raises(ValueError, match="T:BitDepthImage_RBV is 12; pixels of 8, 16 or 32 bits"):
        detector.PixelatedDetector.pixel_type.fget(SimpleNamespace(cam=cam))


def test_the_read_out_has_the_exposure_on_top(monkeypatch):
    wait_until = Mock()
    monkeypatch.setattr(detector, "wait_until", wait_until)
    cam = SimpleNamespace(acquire=Mock(), acquire_time=SimpleNamespace(latest=7.0), detector_state=Mock())
    detector.SeriesArming(cam).disarm()  # type: ignore[arg-type]
    cam.acquire.end.assert_called_once_with()
    assert wait_until.call_args.args[-1] == 7.0 + detector.READ_OUT_TIMEOUT
