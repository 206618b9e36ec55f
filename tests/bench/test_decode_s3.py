"""`bench decode` and `bench s3` on slides far too small for their goals: that they run, and count what they say."""

import pytest

from uadray.bench import decode, s3


def test_decode() -> None:
    figures = decode.run(repeats=1, rounds=1, phantom_px=1024)
    assert figures["n_tiles"] == 16
    ratios = {name: value for name, value in figures.items() if name.startswith("fast_over_")}
    assert len(ratios) == 4
    assert all(value > 0 for value in ratios.values())
    met = all(
        value >= figures["goals"]["over_bare" if "bare" in name else "over_openslide"] for name, value in ratios.items()
    )
    assert figures["goals_met"] is met


@pytest.mark.s3
def test_s3() -> None:
    figures = s3.run(repeats=1, rounds=1, phantom_px=1024)
    assert (figures["tiles_5_percent"], figures["tiles_100_percent"]) == (1, 16)
    assert 1 <= figures["read_over_needed_100_percent"] < 1.5
    assert figures["thumbnail_bytes"] > 0
    assert figures["goals_met"] is all(figures[name] <= goal for name, goal in figures["goals"].items())
