"""`bench s3` on a slide far too small for its goals: that it runs, and counts what it says."""

import pytest

from uadray.bench import s3


@pytest.mark.s3
def test_s3() -> None:
    figures = s3.run(repeats=1, rounds=1, phantom_px=1024)
    assert (figures["tiles_5_percent"], figures["tiles_100_percent"]) == (1, 16)
    assert 1 <= figures["read_over_needed_100_percent"] < 1.5
    assert figures["thumbnail_bytes"] > 0
    assert figures["cases"]["0.4990"]["tiles_100_percent"] == 9  # 1,022 px at 0.5 um/px hold three tiles a side
    assert figures["cases"]["0.2525"]["tiles_100_percent"] == 4
    assert figures["goals_met"] is all(figures[name] <= goal for name, goal in figures["goals"].items())
