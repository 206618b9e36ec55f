"""`bench worklist` of a page far smaller than its goals are for: that it runs, and measures what it says."""

import pytest

from uadray.bench import worklist


@pytest.mark.browser
def test_worklist() -> None:
    if not worklist.CHROMIUM.exists():
        pytest.skip(f"NOT TESTED in a browser: {worklist.CHROMIUM} is absent (apt-get install chromium)")
    pytest.importorskip("playwright.sync_api", reason="NOT TESTED in a browser: playwright is absent")
    figures = worklist.run(slides=110, rounds=1, sheets=4, side=32, plain=100)
    assert figures["n_slides"] == 110
    assert 10 < figures["rows_on_page"] < 100
    assert min(figures[name] for name in ("opens_s", "frame_p95_s", "filter_s", "slide_s", "heap_mb", "write_s")) > 0
    assert figures["data_files"] == 1 + 2 + 2  # details, sheets of a hundred, and two indexes
    assert figures["goals_met"] is all(figures[name] <= goal for name, goal in figures["goals"].items())
