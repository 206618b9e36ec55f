"""The bench of what weeks of following take, with a day of them."""

import pytest
from seaweed import SeaweedServer

from uadray.bench import follow, follow_weeks
from uadray.errors import InputError


@pytest.mark.s3
def test_weeks_are_counted_by_quarter(s3: SeaweedServer) -> None:
    figures = follow_weeks.measured(s3, arrivals=80)
    assert len(figures["quarters"]) == 4
    for quarter in figures["quarters"]:
        assert 5 <= quarter["requests_per_slide"] <= 14  # lease, decision, tiles, pictures, ...; and a look of twenty
        assert quarter["requests_of_a_look"] == 1
        assert 5 <= quarter["requests_of_a_renewal"] <= 120
        assert quarter["memory_mb"] > 100


def test_a_case_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="no case moths; there are: arrivals, weeks"):
        follow.run(only=["moths"])
