"""P-values of normal slides against the uniform: by hand, and how wide the band has to be."""

import numpy as np
import pytest
from judged_slides import decision

from uadray.decisions.conformal import p_value
from uadray.evaluation.uniform import uniformity


def test_the_curve_by_hand() -> None:
    found = uniformity([decision(f"s{i}", 1.0, p) for i, p in enumerate([0.5, 0.05, 0.5, 0.75, None])])
    assert found["curve"] == [[0.05, 0.25], [0.5, 0.75], [0.75, 1.0]]
    assert (found["n"], found["called"], found["alpha"], found["n_calibration"]) == (4, 1, 0.1, None)
    assert uniformity([decision("s", 1.0, None)]) is None


def test_the_band_holds_the_curve_of_a_calibration_that_holds() -> None:
    """40 normal slides judged by 30: at each p-value the share is within the band 95 times in 100."""
    rng, n, outside = np.random.default_rng(0), 400, 0
    for _ in range(n):
        scores, calibration = rng.normal(size=40), tuple(np.sort(rng.normal(size=30)))
        decisions = [decision("s", 1.0, p_value(s, calibration), calibration_group_slides=30) for s in scores]
        found = uniformity(decisions)
        at = found["band"][len(found["band"]) // 4]
        share = np.mean([d["p_value"] <= at[0] + 1e-5 for d in decisions])
        outside += not at[1] - 1e-5 <= share <= at[2] + 1e-5
    assert outside <= 0.08 * n
    assert outside >= 0.005 * n, "a band that always holds is too wide"
    alone = uniformity([{**d, "calibration_group_slides": None} for d in decisions])["band"]
    middle = len(alone) // 2
    assert (
        alone[middle][2] - alone[middle][1]
        < found["band"][len(found["band"]) // 2][2] - found["band"][len(found["band"]) // 2][1]
    )


def test_false_alarms_have_their_exact_interval() -> None:
    found = uniformity([decision(f"s{i}", 1.0, 0.05 if i < 2 else 0.6) for i in range(20)])
    assert found["called_ci95"] == pytest.approx([0.0123, 0.317], abs=1e-3)
