"""The scores of the networks benchmark tell bias from scatter, and its crystals are what they are said to be."""

from __future__ import annotations

import crystal_cases as cases
import crystal_scores as scores
import numpy as np
import pytest
import readme


def told(seed: int, bias: float, scatter: float, n: int = 400, r: int = 4):
    """Readings of known bias, of either sign, and scatter, whose stated deviations are those of the whole error."""
    rng = np.random.default_rng(seed)
    error = bias * rng.choice((-1.0, 1.0), (n, 1, 3)) + scatter * rng.normal(size=(n, r, 3))
    nothing = np.zeros((n, r), bool)
    whole = np.full_like(error, np.hypot(bias, scatter))
    one, its = error[..., 0], whole[..., 0]
    return scores.Told(error, whole, one, its, one, its, error[..., :2], whole[..., :2], ~nothing, nothing)


def test_bias_and_scatter_are_told_apart() -> None:
    information = [np.eye(6) * 1e2] * 2
    by_seed = [told(seed, 2e-3, 1e-3) for seed in (1, 2)]
    out = scores.summarise(by_seed, [np.broadcast_to(i, (400, 6, 6)) for i in information], 1e4)
    # 800 patterns of 4: each figure is known to a few percent.
    assert out["bias"]["exx"] == pytest.approx(2e-3, rel=0.06)
    assert out["scatter"]["exx"] == pytest.approx(1e-3, rel=0.06)
    assert out["rms"]["exx"] == pytest.approx(np.hypot(2e-3, 1e-3), rel=0.06)
    # An information of 100 an electron allows 1e-3 with 1e4 of them.
    assert out["bound"] == dict.fromkeys(scores.COMPONENTS, 1e-3)
    assert out["ratio"]["exy"] == pytest.approx(np.sqrt(5), rel=0.06)
    assert out["flagged"] == 0 and out["material_right"] == 1
    for place in ("rotation", "centre"):
        assert out[place]["rms"] == pytest.approx(np.hypot(2e-3, 1e-3), rel=0.06)
        assert out[place]["bound"] == 1e-3 and out[place]["ratio"] == pytest.approx(np.sqrt(5), rel=0.06)


def test_without_bias_the_draws_share_nothing() -> None:
    reading = told(3, 0.0, 1e-3)
    bias, scatter = scores.parts(reading.strain, ~reading.flagged)
    # The mean of four draws alone has half the scatter; taken off, what is left is noise.
    assert bias.max() < 2.5e-4
    assert scatter == pytest.approx(1e-3, rel=0.06)


def test_what_is_flagged_counts_in_no_error() -> None:
    by_seed = [told(seed, 0.0, 1e-3) for seed in (1, 2)]
    for one in by_seed:
        one.flagged[::2] = True
        one.strain[::2] = one.thickness[::2] = np.nan
    out = scores.summarise(by_seed, [np.broadcast_to(np.eye(6), (400, 6, 6))] * 2, 1e4)
    assert out["flagged"] == 0.5
    assert out["strain"]["all"] == pytest.approx(1e-3, rel=0.06)
    assert out["thickness"]["all"] == pytest.approx(1e-3, rel=0.06)


def test_foreign_crystals_show_their_first_reflections_and_are_none_of_the_package() -> None:
    from bluesky_edgestem.analysis.materials import MATERIALS
    from bluesky_edgestem.analysis.projected_lattice import first_order

    # 111 of the face-centred ones along [110]; 200 of rock salt, whose columns along [001] are alike.
    for name, spacing in (("Au", 4.078 / np.sqrt(3)), ("NaCl", 5.640 / 2), ("GaAs", 5.653 / np.sqrt(3))):
        assert first_order(cases.FOREIGN[name]) == pytest.approx(1 / spacing)
        assert name not in MATERIALS


def test_rows_of_the_readme_name_what_the_scores_hold() -> None:
    by_seed = [told(seed, 1e-3, 1e-3, n=8) for seed in (1, 2)]
    scored = scores.summarise(by_seed, [np.broadcast_to(np.eye(6), (8, 6, 6))] * 2, 1e4)
    asked = [row.value for row in readme.ROWS if row.name == "networks" and row.value.startswith(("{Si", "{SrTiO3"))]
    doses = {"1e4": scored, "1e5": scored}
    assert len(asked) == 13
    for value in asked:
        assert value.format_map({"Si": doses, "SrTiO3": doses})
