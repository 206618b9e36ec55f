"""`bench decode` on slides far too small for its goals: that it runs, and counts what it says."""

import pytest

from uadray.bench import decode
from uadray.errors import InputError


def test_decode() -> None:
    figures = decode.run(only=["exact", "0.2525"], rounds=1, repeats=1)
    assert figures["cases"].keys() == {"exact", "0.2525"}
    for name, case in figures["cases"].items():
        assert 10 < case["tiles"] < 64, "glass is not read"
        assert all(value > 0 for value in case.values())
        assert (case["bare_finer_ms"] > 1.5 * case["bare_ms"]) is (name == "0.2525"), "only there two levels differ"
    cases = figures["cases"]
    met = all(cases[name][ratio] >= least for name, goals in figures["goals"].items() for ratio, least in goals.items())
    assert figures["goals_met"] is met


def test_an_unknown_case() -> None:
    with pytest.raises(InputError, match=r"no case 'x'; there are: exact, 0\.4990, 0\.2525"):
        decode.run(only=["x"])
