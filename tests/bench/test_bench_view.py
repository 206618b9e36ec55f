"""`bench view` on slides far too small for its goals: that it runs, and measures what it says."""

import pytest

from uadray.bench import view


@pytest.mark.s3
def test_view() -> None:
    figures = view.run(rounds=1, repeats=2, phantom_px=1024, n_slides=50)
    assert 2 * view.ROUND_TRIP_S < figures["record_s"] < figures["first_tile_s"]
    assert min(figures[name] for name in ("pan_50_tiles_s", "heat_50_tiles_s", "page_of_10000_s")) > 0
    assert figures["goals_met"] is all(figures[name] <= goal for name, goal in figures["goals"].items())
