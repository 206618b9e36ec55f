"""Several bundles' scores of a slide as one p-value: against plain loops, and its rate in simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uadray.decisions.combined import By, CombinedCalibration, combined_calibration, combined_p_values, merged_p_values

BY = pytest.mark.parametrize("by", ["maximum", "mean"])


def _calibration(scores: np.ndarray, by: By, alpha: float = 0.1) -> CombinedCalibration:
    ids = tuple(f"b{i}" for i in range(scores.shape[1]))
    return combined_calibration(scores, bundle_ids=ids, calibration_ids=ids, by=by, alpha=alpha)


def _plain(slide: np.ndarray, normals: np.ndarray, by: By) -> float:
    together = np.vstack([normals, slide])
    z = (together - together.mean(0)) / together.std(0)
    c = z.max(1) if by == "maximum" else z.mean(1)
    return float((1 + (c[:-1] >= c[-1] - 1e-12).sum()) / len(c))


@BY
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 30), k=st.integers(2, 4))
def test_p_values_are_those_of_a_plain_loop(by: By, seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    normals, slides = rng.normal(5, 3, (n, k)), rng.normal(6, 4, (7, k))
    p, score, threshold = combined_p_values(slides, _calibration(normals, by))
    np.testing.assert_allclose(p, [_plain(slide, normals, by) for slide in slides])
    np.testing.assert_array_equal(score > threshold, p <= 0.1)


@BY
def test_scales_of_bundles_do_not_matter(by: By) -> None:
    rng = np.random.default_rng(0)
    normals, slides, scale = rng.normal(size=(40, 3)), rng.normal(size=(20, 3)), np.array([1e-6, 1.0, 1e6])
    p, *_ = combined_p_values(slides, _calibration(normals, by))
    moved, *_ = combined_p_values(slides * scale + 7, _calibration(normals * scale + 7, by))
    np.testing.assert_array_equal(p, moved)


@BY
def test_a_slide_without_a_score_of_each_has_none(by: By) -> None:
    rng = np.random.default_rng(0)
    for values in combined_p_values(np.array([[1.0, np.nan], [1.0, 2.0]]), _calibration(rng.normal(size=(9, 2)), by)):
        assert np.isnan(values).tolist() == [True, False]
    assert np.isnan(merged_p_values(np.array([[0.1, np.nan], [0.1, 0.2]]), by)).tolist() == [True, False]


def test_a_bundle_that_says_nothing_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    normals, slides = rng.normal(size=(30, 1)), rng.normal(size=(10, 1))
    alone = [(1 + (normals >= slide).sum()) / 31 for slide in slides]
    dead = combined_p_values(np.hstack([slides, np.ones((10, 1))]),
                             _calibration(np.hstack([normals, np.ones((30, 1))]), "mean"))[0]  # fmt: skip
    np.testing.assert_array_equal(dead, alone)


@BY
@pytest.mark.parametrize("rho", [-0.9, 0.0, 0.5, 0.99])
def test_normal_slides_are_called_as_often_as_stated(by: By, rho: float) -> None:
    """2,000 calibrations of 19 slides by bundles that depend on each other, of heavy tails; 20 new slides each."""
    rng, rates, merged = np.random.default_rng(2), [], []
    mix = np.linalg.cholesky(np.array([[1, rho], [rho, 1]]))
    for _ in range(2000):
        x = rng.standard_t(2, (39, 2)) @ mix.T * [1, 20]
        normals, slides = x[:19], x[19:]
        rates.append((combined_p_values(slides, _calibration(normals, by))[0] <= 0.1).mean())
        own = (1 + (normals[None] >= slides[:, None]).sum(1)) / 20
        merged.append((merged_p_values(own, by) <= 0.1).mean())
    error = np.std(rates) / np.sqrt(len(rates))
    assert abs(np.mean(rates) - 0.1) <= 4 * error
    assert np.mean(merged) <= 0.1 + 4 * np.std(merged) / np.sqrt(len(merged))


def test_products_of_p_values_would_not_hold() -> None:
    """What this file is for: of bundles that say the same, Fisher's product calls far too many."""
    from scipy import stats

    rng = np.random.default_rng(3)
    p = rng.uniform(size=20_000)
    both = np.stack([p, p], 1)
    product = stats.chi2.sf(-2 * np.log(both).sum(1), 4)
    assert (product <= 0.05).mean() > 0.08
    assert (merged_p_values(both, "maximum") <= 0.05).mean() <= 0.05
    assert (merged_p_values(both, "mean") <= 0.05).mean() <= 0.05


def test_an_alpha_that_no_slide_reaches_calls_none() -> None:
    rng = np.random.default_rng(0)
    p, _, threshold = combined_p_values(np.array([[99.0, 99.0]]), _calibration(rng.normal(size=(8, 2)), "mean"))
    assert p.tolist() == [1 / 9]
    assert threshold.tolist() == [np.inf]


def test_scores_of_another_number_of_bundles_are_refused() -> None:
    with pytest.raises(ValueError, match="each slide needs a score of each"):
        CombinedCalibration(id="c", bundle_ids=("a", "b"), calibration_ids=("a", "b"), alpha=0.1, scores=((1.0,),))
