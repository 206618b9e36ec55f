"""A method is chosen where one is clearly better, the default stays where none is, and the rate holds."""

import re

import numpy as np
import pytest
from normal_slides import normal_slide, with_lesion
from sklearn.metrics import roc_auc_score

from uadray.decisions.aggregation import METHODS, Method, new_aggregation, reference_of, score_of
from uadray.decisions.choosing import (
    FOLDS,
    MAX_ANOMALIES,
    MAX_NORMALS,
    MIN_ANOMALIES,
    MIN_NORMALS,
    MethodFigures,
    SlideSquares,
    check_counts,
    choose,
    choosers,
    chosen_of,
    standard_error,
)
from uadray.decisions.p_values import p_values
from uadray.errors import InputError

ALPHA = 0.1


def _slides(n: int, seed: int, *, lesion: int = 0, height: float = 2.2) -> list[SlideSquares]:
    """Slides of 300 squares; the lesion lies together."""
    rng = np.random.default_rng(seed)
    slides = [normal_slide(300, rng) for _ in range(n)]
    if lesion:
        slides = [with_lesion(each, lesion, rng, height=height) for each in slides]
    return [SlideSquares(each, each) for each in slides]


def test_what_finds_these_lesions_is_chosen() -> None:
    """Fifteen squares of 300 lie together: the mean of all that is highest drowns them, regions do not."""
    normals, anomalies = _slides(15, 0), _slides(12, 1, lesion=15)
    choice = choose(normals, anomalies, alpha=ALPHA, default=new_aggregation("top"))
    assert choice.method == choice.methods[0].method
    assert choice.method in ("region", "graph", "smooth", "grow")
    figures = {each.method: each for each in choice.methods}
    assert figures[choice.method].auroc > 0.9 > figures["top"].auroc
    assert figures["top"].ahead == figures["top"].ahead_se == 0
    assert figures[choice.method].called > figures["top"].called  # type: ignore[operator]
    assert set(figures) == set(METHODS)
    assert (choice.n_normals, choice.n_anomalous) == (15, 12)
    assert "more than the standard error" in choice.why


def test_auroc_is_that_of_scores_that_know_other_slides() -> None:
    """One method by hand: of each fifth of the normal slides, scored with what the others tell."""
    normals, anomalies = _slides(10, 2), _slides(5, 3, lesion=10)
    config = new_aggregation("fraction")
    choice = choose(normals, anomalies, alpha=ALPHA, default=new_aggregation())
    aurocs = []
    for k in range(FOLDS):
        known = [each.squares for i, each in enumerate(normals) if i % FOLDS != k]
        reference = reference_of(known, config)
        held = [score_of(normals[i].squares, config, reference=reference) for i in (k, k + FOLDS)]
        ill = [score_of(each.squares, config, reference=reference) for each in anomalies]
        aurocs.append(roc_auc_score([0] * 2 + [1] * 5, held + ill))
    found = next(each for each in choice.methods if each.method == "fraction")
    assert found.auroc == pytest.approx(np.mean(aurocs))
    assert found.called is None  # eight slides give no p-value of 0.1


def _figures(method: Method, auroc: float, ahead: float, error: float) -> MethodFigures:
    return MethodFigures(method=method, auroc=auroc, auroc_se=0.1, ahead=ahead, ahead_se=error, called=None,
                         false_alarms=None)  # fmt: skip


@pytest.mark.parametrize(
    ("ahead", "chosen", "why"),
    [(0.05, "grow", r"0.050 in AUROC, no more than .* 0.050: grow stays"), (0.051, "region", "more than .* 0.050$")],
)
def test_one_standard_error(ahead: float, chosen: str, why: str) -> None:
    figures = [_figures("region", 0.8 + ahead, ahead, 0.05), _figures("grow", 0.8, 0.0, 0.0)]
    method, reason = chosen_of(figures, "grow")
    assert method == chosen
    assert re.search(why, reason)


def test_the_standard_error_is_that_of_repeated_samples() -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(1, 1, (20, 1)) > rng.normal(0, 1, 30)).astype(float) for _ in range(800)]
    errors = [standard_error(each) for each in pairs]
    assert np.mean(errors) == pytest.approx(np.std([each.mean() for each in pairs]), rel=0.1)


@pytest.mark.parametrize(
    ("n_normals", "n_anomalous", "told"),
    [
        (30, MAX_ANOMALIES + 1, "20 anomalous slides at most, there are 21: .*fitted to anomalies that are known"),
        (30, MIN_ANOMALIES - 1, "at least 5 anomalous"),
        (MIN_NORMALS - 1, 10, "at least 10 normal slides, one a patient; there are 9"),
    ],
)
def test_counts_are_checked(n_normals: int, n_anomalous: int, told: str) -> None:
    check_counts(MIN_NORMALS, MAX_ANOMALIES)
    with pytest.raises(InputError, match=told):
        check_counts(n_normals, n_anomalous)


def test_too_few_that_can_be_scored() -> None:
    slides = _slides(6, 0)
    with pytest.raises(InputError, match="4 normal and 2 anomalous ones can be scored"):
        choose(slides[:4], slides[4:], alpha=ALPHA, default=new_aggregation())


def test_half_of_the_patients_choose_as_far_as_alpha_lets_them() -> None:
    patients = [("patient", str(i)) for i in range(200)]
    assert len(choosers(patients[:30], alpha=ALPHA)) == 15
    assert len(choosers(patients[:30], alpha=0.05)) == 11  # 19 are needed
    assert len(choosers(patients, alpha=ALPHA)) == MAX_NORMALS
    assert choosers(patients[:30], alpha=ALPHA) == choosers(patients[29::-1] + patients[:5], alpha=ALPHA)
    with pytest.raises(InputError, match=r"alpha 0.05 needs 19 others; of 28 patients there are 1 too few"):
        choosers(patients[:28], alpha=0.05)
    with pytest.raises(InputError, match=r"of 19 patients there are 1 too few"):
        choosers(patients[:19], alpha=0.5)


def test_slides_that_choose_must_not_calibrate() -> None:
    """Nine methods that have nothing in common: who calibrates with slides that chose, calls too many (0.097 allowed).

    Half the slides choose, and the others allow 0.0625.
    """
    rng, both, apart = np.random.default_rng(0), list[float](), list[float]()
    for _ in range(600):
        normals, anomalies, later = rng.normal(size=(9, 30)), rng.normal(1.5, 1, (9, 20)), rng.normal(size=300)
        for chosen_on, calibrated_on, rates in ((normals, normals, both), (normals[:, :15], normals[:, 15:], apart)):
            above = (anomalies[:, :, None] > chosen_on[:, None]).astype(float)
            figures = [_figures(method, a.mean(), (a - above[0]).mean(), standard_error(a - above[0]))
                       for method, a in zip(METHODS, above, strict=True)]  # fmt: skip
            method, _ = chosen_of(sorted(figures, key=lambda each: -each.auroc), METHODS[0])
            scores = calibrated_on[METHODS.index(method)]
            rates.append((p_values(later, scores) <= ALPHA).mean())
    assert np.mean(both) > 0.12
    assert np.mean(apart) == pytest.approx(1 / 16, abs=0.008)
