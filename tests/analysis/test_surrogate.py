"""The energy map in use: what it recommends, when it stops, what it says to bad input, and that it can be resumed."""

import json
from itertools import pairwise

import numpy as np
import pytest

from bluesky_edgestem.analysis.surrogate import EnergyMap, sobol_design
from bluesky_edgestem.geometry import FieldOfView

FIELD = FieldOfView(-20.0, 10.0, 60.0, 40.0)
RESOLUTION = 1.27


def strain_at(positions):
    """A ridge along y at x = 0, on a nearly relaxed sheet."""
    x, y = np.asarray(positions, float).reshape(-1, 2).T
    ridge = 0.03 * np.exp(-(x**2) / (2 * 4.0**2))
    return np.column_stack([ridge, 0.002 * np.sin(y / 10), np.zeros_like(x)])


def energy_of(strain):
    t, u, v = strain[0] + strain[1], strain[0] - strain[1], 2 * strain[2]
    energy = 22.0 * t * t + 13.0 * (u * u + v * v)
    return energy, [44.0 * t + 26.0 * u, 44.0 * t - 26.0 * u, 52.0 * v]


def measured(positions, seed=0, sd=1e-3, **changes):
    """Rows as the streams have them, with noise on the strain."""
    rng = np.random.default_rng(seed)
    rows = []
    for (x, y), true in zip(positions, strain_at(positions), strict=True):
        strain = true + sd * rng.normal(size=3)
        energy, gradient = energy_of(strain)
        row = {
            "x": x,
            "y": y,
            "exx": strain[0],
            "eyy": strain[1],
            "exy": strain[2],
            "rotation": 0.0,
            "rotation_sd": 1e-3,
        }
        row |= {"exx_sd": sd, "eyy_sd": sd, "exy_sd": sd, "cov_exx_eyy": 0.0, "cov_exx_exy": 0.0, "cov_eyy_exy": 0.0}
        row |= {"phase": "MoS2", "phase_probability": 0.99, "flagged": ""}
        row |= {"energy": energy, "gradient": gradient, "formula": "MoS2", "state": "converged"}
        rows.append(row | changes)
    return rows


def new_map(target_sd=2e-3, **settings):
    return EnergyMap(FIELD, target_sd, RESOLUTION, ("MoS2",), **settings)


@pytest.fixture(scope="module")
def finished():
    """A whole run: 16 positions, then batches of 8 until it stops."""
    energy_map, batches, stops = new_map(seed=3), [], []
    for batch in range(25):
        positions = energy_map.suggest(16 if batch == 0 else 8)
        batches.append(positions)
        energy_map.ingest(measured(positions, seed=batch))
        stops.append(energy_map.should_stop())
        if stops[-1]:
            break
    return energy_map, batches, stops


def test_first_positions_are_a_seeded_sobol_design_in_the_field():
    first, again, other = (new_map(seed=s).suggest(24) for s in (1, 1, 2))
    assert first.shape == (24, 2)
    assert FIELD.contains(first).all()
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    design = sobol_design(FIELD, 24, np.random.default_rng([1, 0]))
    assert sorted(map(tuple, first)) == sorted(map(tuple, design))


def test_run_stops_once_the_target_is_met_in_two_batches(finished):
    energy_map, _, stops = finished
    assert stops[-1].startswith("target reached")
    assert "2.00 meV" in stops[-1]
    assert all(stop is None for stop in stops[:-1])
    assert 32 <= len(energy_map.measurements) <= 120
    mean, sd = energy_map.posterior()
    assert sd.shape == mean.shape == energy_map.map_grid.shape == (64, 64)
    assert sd.max() <= 2e-3


def test_map_is_right_and_its_intervals_cover_the_truth(finished):
    energy_map, _, _ = finished
    grid = energy_map.map_grid.positions
    truth = np.array([energy_of(strain)[0] for strain in strain_at(grid)])
    mean, sd = energy_map.posterior(grid)
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 1.5 * 2e-3
    assert 0.90 <= np.mean(np.abs(mean - truth) < 1.96 * sd) <= 1.0


def test_positions_gather_where_the_energy_is_sensitive_to_strain(finished):
    _, batches, _ = finished
    x = np.vstack(batches[1:])[:, 0]
    # The ridge's flanks take a quarter of the field.
    assert np.mean(np.abs(x) < 8.0) > 0.4


def test_no_two_positions_are_closer_than_the_resolution(finished):
    _, batches, _ = finished
    first, later = batches[0], np.vstack(batches[1:])
    assert FIELD.contains(later).all()
    everything = np.vstack([first, later])
    gaps = np.linalg.norm(later[:, None] - everything[None], axis=-1)
    gaps[np.arange(len(later)), len(first) + np.arange(len(later))] = np.inf
    assert gaps.min() >= RESOLUTION


def test_batches_are_in_travel_order(finished):
    _, batches, _ = finished
    for before, batch in pairwise(batches):
        steps = np.linalg.norm(np.diff(np.vstack([before[-1], batch]), axis=0), axis=1)
        by_chance = np.linalg.norm(np.diff(np.vstack([before[-1], batch[::-1]]), axis=0), axis=1)
        assert steps.sum() <= by_chance.sum() + 1e-9


def test_checkpoint_goes_through_json_and_goes_on_alike():
    energy_map = new_map(seed=5)
    rows = measured(energy_map.suggest(16))
    rows[3] |= {"energy": float("nan"), "gradient": [float("nan")] * 3, "state": "failed"}
    rows[7] |= {"flagged": "no crystal", "exx": float("nan"), "phase": "", "state": "failed"}
    energy_map.ingest(rows)
    energy_map.should_stop()
    restored = EnergyMap.from_checkpoint(json.loads(json.dumps(energy_map.checkpoint(), allow_nan=False)))
    for a, b in zip(energy_map.posterior(), restored.posterior(), strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(energy_map.suggest(8), restored.suggest(8))
    assert restored.checkpoint() == energy_map.checkpoint()


def test_flagged_positions_teach_nothing_but_are_not_visited_again():
    positions = sobol_design(FIELD, 24, np.random.default_rng(0))
    plain, flagged = new_map(), new_map()
    plain.ingest(measured(positions))
    here = plain.suggest(4)
    flagged.ingest(measured(positions))
    flagged.ingest([row | {"flagged": "two grains"} for row in measured(here)])
    at = FIELD.x0 + 1, FIELD.y0 + 1
    assert plain.posterior(np.array([at]))[0] == pytest.approx(flagged.posterior(np.array([at]))[0])
    again = flagged.suggest(8)
    assert np.linalg.norm(again[:, None] - here[None], axis=-1).min() >= RESOLUTION


def test_failed_calculation_still_tells_the_strain():
    positions = sobol_design(FIELD, 40, np.random.default_rng(1))
    few, failed = new_map(), new_map()
    few.ingest(measured(positions[:20]))
    failed.ingest(measured(positions[:20]))
    failed.ingest(
        measured(
            positions[20:], energy=float("nan"), gradient=[float("nan")] * 3, state="failed", reason="no convergence"
        )
    )
    assert failed.models["MoS2"].count == 20
    assert np.mean(failed.posterior()[1]) < 0.8 * np.mean(few.posterior()[1])


def test_energy_that_comes_later_completes_its_position():
    positions = sobol_design(FIELD, 20, np.random.default_rng(2))
    joined, apart = new_map(), new_map()
    rows = measured(positions)
    joined.ingest(rows)
    theirs = ("energy", "gradient", "formula", "state")
    apart.ingest([{k: v for k, v in row.items() if k not in theirs} for row in rows])
    assert apart.models["MoS2"].count == 0
    apart.ingest([{k: row[k] for k in ("x", "y", *theirs)} for row in rows])
    assert len(apart.measurements) == 20
    assert np.array_equal(joined.posterior()[0], apart.posterior()[0])


def test_a_position_that_is_read_anew_changes_the_map():
    positions = sobol_design(FIELD, 20, np.random.default_rng(2))
    rows = measured(positions)
    again, fresh = new_map(), new_map()
    again.ingest(measured(positions, exx=0.02))
    again.posterior()
    again.ingest(rows)
    fresh.ingest(rows)
    fresh = EnergyMap.from_checkpoint(
        {**fresh.checkpoint(), **{k: again.checkpoint()[k] for k in ("kernels", "levels", "fitted_at")}}
    )
    assert np.array_equal(again.posterior()[0], fresh.posterior()[0])


def test_does_not_stop_before_the_least_number_of_positions():
    energy_map = new_map(target_sd=1.0, min_positions=30)
    for batch, count in enumerate((12, 12, 12)):
        energy_map.ingest(measured(energy_map.suggest(count), seed=batch))
        assert bool(energy_map.should_stop()) == (batch == 2)


def test_asking_twice_is_not_a_second_batch():
    energy_map = new_map(target_sd=1.0, min_positions=1)
    energy_map.ingest(measured(energy_map.suggest(12)))
    assert energy_map.should_stop() is None
    assert energy_map.should_stop() is None


def test_goes_on_when_every_pattern_is_flagged():
    energy_map = new_map()
    energy_map.ingest([row | {"flagged": "vacuum"} for row in measured(energy_map.suggest(12))])
    assert energy_map.should_stop() is None
    assert energy_map.suggest(6).shape == (6, 2)


def test_a_field_that_is_full_gives_fewer_positions():
    tiny = EnergyMap(FieldOfView(0.0, 0.0, 4.0, 4.0), 1e-4, 1.5, ("MoS2",))
    tiny.ingest(measured(tiny.suggest(2)))
    assert 0 < len(tiny.suggest(200)) < 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": float("nan")}, "finite x and y"),
        ({"exx": float("nan")}, "Flag a pattern that could not be read"),
        ({"phase": "WSe2"}, "made for the phases MoS2"),
    ],
)
def test_bad_measurements_are_refused_and_nothing_is_taken_in(change, message):
    energy_map = new_map()
    good, bad = measured(sobol_design(FIELD, 2, np.random.default_rng(0)))
    with pytest.raises(ValueError, match=message):
        energy_map.ingest([good, bad | change])
    assert energy_map.measurements == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_sd": 0.0}, "target_sd"),
        ({"map_shape": (32, 64)}, "64 x 64"),
        ({"phases": ("MoSe3",)}, "known are MoS2, WS2"),
        ({"resolution": -1.0}, "resolution"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EnergyMap(**{"field_of_view": FIELD, "target_sd": 0.01, "resolution": 1.0, **settings})


def test_the_first_batch_keeps_the_probes_resolution_in_a_small_field():
    small = EnergyMap(FieldOfView.centred(10.0), 0.01, resolution=1.27)
    first = small.suggest(32)
    apart = np.hypot(*(first[:, None] - first[None]).transpose(2, 0, 1)) + np.eye(len(first)) * 99
    assert len(first) == 32 and apart.min() >= 1.27
    assert 0 < len(EnergyMap(FieldOfView.centred(3.0), 0.01, resolution=1.27).suggest(32)) < 12


def test_a_design_with_room_is_the_sobol_sequence():
    plain, apart = (sobol_design(FIELD, 16, np.random.default_rng(0), spacing) for spacing in (0.0, 1.27))
    np.testing.assert_array_equal(plain, apart)


def test_a_design_needs_a_position():
    with pytest.raises(ValueError, match="1 position or more, got 0"):
        sobol_design(FIELD, 0, np.random.default_rng(0))


def test_suggest_needs_a_positive_number():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        new_map().suggest(0)


@pytest.mark.parametrize("row", [{"flagged": "the frame is empty"}, {"state": "failed"}])
def test_a_run_that_learnt_no_energy_never_reaches_its_target(row):
    energy_map = EnergyMap(FIELD, 0.05, resolution=1.3)
    rng = np.random.default_rng(0)
    described = {
        "exx": 0.0, "eyy": 0.0, "exy": 0.0, "exx_sd": 1e-3, "eyy_sd": 1e-3, "exy_sd": 1e-3, "cov_exx_eyy": 0.0,
        "cov_exx_exy": 0.0, "cov_eyy_exy": 0.0, "rotation": 0.0, "phase": "MoS2", "phase_probability": 1.0,
        "flagged": "", "energy": float("nan"),
    }  # fmt: skip
    for _ in range(3):
        energy_map.ingest([{**described, **row, "x": x, "y": y} for x, y in sobol_design(FIELD, 32, rng)])
        assert energy_map.should_stop() is None
