import math

import pytest

from bluesky_edgestem.plans.budget import Budget


@pytest.mark.parametrize(
    ("budget", "positions", "seconds", "spent"),
    [
        (Budget(40, 60.0, None, 1e6), 39, 40.0, ""),
        (Budget(40, 60.0, None, 1e6), 40, 1.0, "the budget of 40 positions is spent"),
        (Budget(40, 60.0, None, 1e6), 1, 60.0, "the budget of 60 s is spent"),
        (Budget(40, 60.0, None, 1e6), 1, 39.0, ""),
        (
            Budget(40, 60.0, None, 1e6),
            1,
            41.0,
            "the budget of 60 s is spent: another batch would take about 20 s",
        ),
        (Budget(40, 60.0, 1e7, 1e6), 9, 1.0, ""),
        (Budget(40, 60.0, 1e7, 1e6), 10, 1.0, "the budget of 1e+07 electrons is spent: another position costs 1e+06"),
        (Budget(40, 60.0, 3e5, 1e5 * (1 + 1e-12)), 2, 1.0, ""),
    ],
)
def test_the_limit_that_is_reached_is_named(budget, positions, seconds, spent):
    assert budget.spent(positions, seconds, next_batch=20.0) == spent


def test_dose_limits_the_positions():
    assert Budget(40, 60.0, 1.05e7, 1e6).positions == 10
    assert Budget(5, 60.0, 1.05e7, 1e6).positions == 5


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((0, 60.0, 1e7, 1e6), "max_positions is 0 positions"),
        ((4, -1.0, 1e7, 1e6), "max_time is -1.0 s"),
        ((4, 60.0, math.nan, 1e6), "max_dose is nan electrons"),
        ((4, 60.0, 1e5, 1e6), "one position costs 1e\\+06 electrons, the whole run may cost 1e\\+05"),
    ],
)
def test_a_budget_for_nothing_is_refused(limits, message):
    with pytest.raises(ValueError, match=message):
        Budget(*limits)
