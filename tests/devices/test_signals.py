"""A readback agrees as far as hardware can say it, and what really differs is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from bluesky_edgestem.devices.scan_coils import PositionList
from bluesky_edgestem.devices.signals import SetSignal, TimeSignal


def agrees(kind: type[SetSignal], read: object, written: object, **settings: float) -> bool:
    """Whether a signal of `kind` that reads `read` believes that `written` was taken."""
    signal = kind("T:NONE", name="signal", **settings)
    signal._readback = read
    if kind is PositionList:
        signal._parent = SimpleNamespace(step=120 / 2**16)  # 1.8 pm
    try:
        return signal._agrees(written, signal.tolerance)
    finally:
        signal.destroy()


@pytest.mark.parametrize(
    ("kind", "written", "read"),
    [
        (SetSignal, 0.1, float(np.float32(0.1))),
        (SetSignal, 1_000_000, 1_000_000),
        (SetSignal, "External Series", "External Series"),
        (TimeSignal, 1.6e-3, 1.6004e-3),
        (TimeSignal, 8.33e-6, 8.0e-6),
        (PositionList, np.array([-12.3456, 50.0]), np.array([-12.3464, 50.0009])),
        (PositionList, np.array([7.0]), 7.0),
    ],
)
def test_what_hardware_rounds_agrees(kind, written, read):
    assert agrees(kind, read, written)


@pytest.mark.parametrize(
    ("kind", "written", "read"),
    [
        (SetSignal, 0.1, 0.1001),
        (SetSignal, 1_000_000, 999_999),
        (SetSignal, "External Series", "Internal Series"),
        (SetSignal, 0.1, None),
        (SetSignal, 0.1, float("nan")),
        (TimeSignal, 1.6e-3, 1.7e-3),
        (TimeSignal, 1.0e-3, 0.0),
        (PositionList, np.array([-12.3456, 50.0]), np.array([-12.3456, 50.01])),
        (PositionList, np.array([1.0, 2.0]), np.array([1.0])),
    ],
)
def test_what_differs_is_refused(kind, written, read):
    assert not agrees(kind, read, written)
