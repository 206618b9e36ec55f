"""Frechet and kernel distances against scipy, loops and closed forms."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from uadray.evaluation import frechet
from uadray.evaluation.frechet import Moments, frechet_distance, kernel_distance, kernel_distances, moments


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def _by_sqrtm(x: Moments, y: Moments) -> float:
    """The formula as it is written, with a root of the product."""
    root = sqrtm(x.covariance @ y.covariance).real
    return float(((x.mean - y.mean) ** 2).sum() + np.trace(x.covariance + y.covariance - 2 * root))


def test_moments_are_numpys(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet, "ROWS_AT_ONCE", 7)
    features = (rng.normal(size=(50, 6)) * [1, 2, 3, 4, 5, 1e-3] + 100).astype(np.float32)
    measured = moments(features)
    np.testing.assert_allclose(measured.mean, features.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(measured.covariance, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-9)


def test_distance_is_that_of_a_matrix_root(rng: np.random.Generator) -> None:
    mixing = rng.normal(size=(24, 24))
    x, y = moments(rng.normal(size=(200, 24)) @ mixing), moments(rng.exponential(size=(150, 24)) + 0.5)
    assert frechet_distance(x, y) == pytest.approx(_by_sqrtm(x, y), rel=1e-9)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-12)


def test_distance_of_known_gaussians(rng: np.random.Generator) -> None:
    """With covariances that commute it is |m - n|^2 + sum (sqrt(a) - sqrt(b))^2 over their common eigenvectors."""
    basis = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    a, b = rng.uniform(0.1, 9, size=8), rng.uniform(0.1, 9, size=8)
    mean_x, mean_y = rng.normal(size=8), rng.normal(size=8)
    x, y = Moments(mean_x, basis @ np.diag(a) @ basis.T), Moments(mean_y, basis @ np.diag(b) @ basis.T)
    expected = ((mean_x - mean_y) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-10)


def test_fewer_features_than_dimensions(rng: np.random.Generator) -> None:
    """Where a root of the product is not unique: sets in subspaces that are at right angles have no common part."""
    x, y = np.zeros((10, 40)), np.zeros((12, 40))
    x[:, :20], y[:, 20:] = rng.normal(size=(10, 20)), rng.normal(size=(12, 20))
    of_x, of_y = moments(x), moments(y)
    apart = ((of_x.mean - of_y.mean) ** 2).sum() + np.trace(of_x.covariance) + np.trace(of_y.covariance)
    assert frechet_distance(of_x, of_y) == pytest.approx(apart, rel=1e-12)
    assert frechet_distance(of_x, of_x) == pytest.approx(0, abs=1e-10)


def test_moments_refuse_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="finite"):
        moments(np.array([[1.0, 2.0], [np.nan, 1.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="two rows"):
        moments(np.ones((1, 4)))


def test_kernel_distance_by_loops(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(7, 5)), rng.normal(size=(9, 5)) + 0.5

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((sum(p * q for p, q in zip(a, b, strict=True)) / 5 + 1) ** 3)

    in_x = sum(kernel(x[i], x[j]) for i in range(7) for j in range(7) if i != j) / (7 * 6)
    in_y = sum(kernel(y[i], y[j]) for i in range(9) for j in range(9) if i != j) / (9 * 8)
    across = sum(kernel(a, b) for a in x for b in y) / (7 * 9)
    assert kernel_distance(x, y) == pytest.approx(in_x + in_y - 2 * across, rel=1e-12)


def test_kernel_distance_has_no_bias(rng: np.random.Generator) -> None:
    """Small sets of one distribution are at 0 on average; the Frechet distance of such sets is far from it."""
    sets = [(rng.normal(size=(20, 4)), rng.normal(size=(20, 4))) for _ in range(400)]
    values = np.array([kernel_distance(x, y) for x, y in sets])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    distances = np.array([frechet_distance(moments(x), moments(y)) for x, y in sets])
    assert distances.mean() > 10 * distances.std() / np.sqrt(len(distances))


def test_subsets_spread_about_the_whole(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(300, 4)), rng.normal(size=(300, 4)) + 0.4
    values = kernel_distances(x, y, rng=np.random.default_rng(0), subsets=60, rows=50)
    whole = kernel_distance(x, y)
    assert values.shape == (60,)
    assert abs(values.mean() - whole) < 4 * values.std() / np.sqrt(60)
    assert kernel_distances(x, y, rng=np.random.default_rng(0), subsets=3, rows=5000).std() > 0
