"""What is stated of false alarms, false discoveries and alarms is true: on simulated archives, with the real functions.

Patients have several slides, also at several sites. `uadray bench calibration` has the same on 1,000 archives.
"""

import math
from typing import Any

import numpy as np
import pytest

from uadray.bench.calibration import coverage, false_discoveries
from uadray.bench.calibration_alarms import reported_broken
from uadray.bench.simulated_archives import NAMES, SITES, calibrated, drawn, p_of, true_rate
from uadray.decisions.conformal import p_value
from uadray.decisions.groups import reference_of

ARCHIVES = 250
SLACK = 4 * math.sqrt(0.95 * 0.05 / ARCHIVES)


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    return coverage(ARCHIVES)


@pytest.mark.parametrize("alpha", ["0.05", "0.2"])
def test_the_rate_lies_in_its_interval_pooled_and_by_group(told: dict[str, Any], alpha: str) -> None:
    """In 95 of 100 archives; four standard errors of slack. Where every slide counts, in fewer."""
    cases = told[alpha]["cases"]
    assert {"pool", "pool_smoothed", "site=North", "site=South", "site=West"} <= set(cases)
    for name, case in cases.items():
        slack = 4 * math.sqrt(0.95 * 0.05 / case["archives"])
        assert 0.95 - slack <= case["in_interval"] <= min(1.0, 0.95 + slack), name
        for mean, error in (case["rate"], case["called"]):
            assert abs(mean - case["stated"]) <= 4 * error, name
        assert case["stated"] <= float(alpha) + 1e-12
    assert told[alpha]["all_slides_in_interval"] < 0.95 - SLACK / 2
    assert cases["pool_smoothed"]["stated"] == float(alpha) > cases["pool"]["stated"]


def test_the_pool_states_nothing_of_a_small_site_that_is_unlike_it(told: dict[str, Any]) -> None:
    """East has too few slides, which score higher than others: decisions say that the pool judged them."""
    archives, rate, error = told["0.05"]["by_the_pool"]["East"]
    assert archives > ARCHIVES / 2
    assert rate - 4 * error > 0.05


def test_lists_have_few_false_discoveries() -> None:
    for name, each in false_discoveries(40).items():
        mean, error = each["fdr"]
        assert mean - 4 * error <= each["q"], name
        assert each["missed"][0] < 0.9, "a list without slides has no false ones"


def test_a_shift_of_half_a_deviation_is_reported() -> None:
    """Of archives of 100 patients; where nothing has moved at most 5 % are, four standard errors of slack."""
    archives = 12
    told = reported_broken(archives, sizes=(100,))
    for alpha in ("0.05", "0.2"):
        assert told[f"alpha_{alpha}_moved_0.5"]["100"]["evaluate"] >= 0.6
        assert told[f"alpha_{alpha}_moved_0"]["100"]["evaluate"] <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / archives)


def test_simulated_slides_are_as_they_are_said_to_be() -> None:
    slides = drawn(np.random.default_rng(0), 4000, name="a")
    for i, (name, site) in enumerate(SITES.items()):
        score = slides.score[slides.site == i]
        assert len(score) / len(slides.score) == pytest.approx(site.share, abs=0.02)
        assert score.mean() == pytest.approx(site.mean, abs=5 * site.deviation / math.sqrt(len(score) / 2))
        assert (score > 1.0).mean() == pytest.approx(true_rate(1.0, (name,)), abs=0.06)
    assert (slides.score > 1.0).mean() == pytest.approx(true_rate(1.0), abs=0.02)
    first = np.flatnonzero(np.diff(slides.patient) == 0)
    assert np.corrcoef(slides.z[first], slides.z[first + 1])[0, 1] == pytest.approx(0.6, abs=0.05)
    calibration = calibrated(drawn(np.random.default_rng(1), 100, name="n"), 0.05)
    p = p_of(slides, calibration)
    for i in (0, 5, 17):
        scores = reference_of(calibration, {"site": NAMES[slides.site[i]]}).scores
        assert p[i] == pytest.approx(p_value(float(slides.score[i]), scores))
