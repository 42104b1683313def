"""The emulator: the table's energies, and the interface of the real thing."""

import numpy as np
import pytest

from bluesky_edgestem.energetics.emulator import Emulator, tabulated
from bluesky_edgestem.energetics.method import STANDARD


@pytest.mark.parametrize("formula", ["MoS2", "WS2"])
def test_fit_reproduces_the_table(formula):
    strain, energy, gradient = tabulated(formula)
    emulator = Emulator()
    assert len(strain) >= 40
    assert np.abs(strain).max(axis=0) == pytest.approx([0.04, 0.04, 0.03], rel=0.1)
    assert emulator.residual(formula) < 1e-4
    assert np.abs(emulator.energy(formula, strain) - energy).max() < 4e-4
    assert np.abs(emulator.gradient(formula, strain) - gradient).max() < 0.15
    assert emulator.energy(formula, np.zeros(3)) == pytest.approx(0.0, abs=1.5e-4)


def test_ws2_is_stiffer_than_mos2():
    emulator = Emulator()
    strain = np.array([0.02, 0.02, 0.0])
    assert emulator.energy("WS2", strain) > 1.05 * emulator.energy("MoS2", strain)


def test_answers_as_the_cluster_does():
    with Emulator() as emulator:
        result = emulator.submit("WS2", (0.010001, 0.0, -0.005)).result(0)
        assert (result.state, result.strain, result.cached) == ("converged", (0.01, 0.0, -0.005), False)
        assert result.method == f"emulator of {STANDARD.name}"
        assert result.energy == pytest.approx(float(emulator.energy("WS2", np.array(result.strain))))
        far = emulator.submit("WS2", (0.09, 0.0, 0.0)).result(0)
        assert far.state == "failed" and "further than the table" in far.reason
        blind = emulator.submit("WS2", (float("nan"), 0.0, 0.0)).result(0)
        assert blind.state == "failed" and "finite" in blind.reason
        assert (emulator.submitted, emulator.completed) == (3, 3)
        with pytest.raises(ValueError, match="unknown material 'MoSe2'; known are MoS2, WS2"):
            emulator.submit("MoSe2", (0.0, 0.0, 0.0))
    with pytest.raises(RuntimeError, match="closed"):
        emulator.submit("WS2", (0.0, 0.0, 0.0))


def test_delay_is_kept():
    result = Emulator(delay=0.05).submit("MoS2", (0.0, 0.0, 0.0))
    assert not result.done()
    assert result.result(2).wall_s == 0.05
