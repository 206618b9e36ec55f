"""`bench decode` on a slide far too small for its goals: that it runs, and counts what it says."""

from uadray.bench import decode


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
