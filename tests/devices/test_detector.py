"""A detector that is disarmed may still expose."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import Mock

from bluesky_edgestem.devices import detector


def test_the_read_out_has_the_exposure_on_top(monkeypatch):
    wait_until = Mock()
    monkeypatch.setattr(detector, "wait_until", wait_until)
    cam = SimpleNamespace(acquire=Mock(), acquire_time=SimpleNamespace(latest=7.0), detector_state=Mock())
    detector.SeriesArming(cam).disarm()  # type: ignore[arg-type]
    cam.acquire.end.assert_called_once_with()
    assert wait_until.call_args.args[-1] == 7.0 + detector.READ_OUT_TIMEOUT
