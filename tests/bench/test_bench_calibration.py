"""`bench calibration`: its goals are of its figures, and a part that is not there is refused."""

import pytest

from uadray.bench.calibration import GOALS, mean_and_error, run
from uadray.errors import InputError


def test_goals_are_of_the_figures() -> None:
    """Ten archives: enough to see where each figure comes from."""
    told = run(only=["coverage"], archives=10)
    cases = [case for alpha in told["coverage"].values() for case in alpha["cases"].values()]
    assert told["reached"]["in_interval_least"] == min(case["in_interval"] for case in cases)
    assert told["reached"]["in_interval_most"] == max(case["in_interval"] for case in cases)
    inside = GOALS["in_interval_least"] <= told["reached"]["in_interval_least"]
    assert told["goals_met"] == (inside and all(told["reached"][name] <= GOALS[name] for name in (
        "in_interval_most", "rate_over_alpha",
    )))  # fmt: skip


def test_errors_are_of_the_mean() -> None:
    assert mean_and_error([1.0, 3.0]) == (2.0, pytest.approx(1 / 2**0.5, abs=1e-4))


def test_a_part_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="coverage, discoveries, broken"):
        run(only=["covered"])
