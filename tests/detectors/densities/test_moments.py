"""Mean, covariance and shrinkage from sums, beside scikit-learn; the projections that are told from them."""

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from torch import Tensor

from uadray.detectors.densities.moments import Moments, Projection, complement, whitening
from uadray.detectors.trainee import UnsuitableTilesError

pytestmark = pytest.mark.usefixtures("torch_alone")


@pytest.fixture
def rows() -> Tensor:
    """[400, 12] Correlated and heavy-tailed, far from zero beside their spread."""
    rng = np.random.default_rng(0)
    mixed = rng.standard_t(5, (400, 12)) @ rng.normal(size=(12, 12))
    return torch.from_numpy(mixed + 1000).float()


def moments_of(rows: Tensor, *, parts: int = 1, origin: Tensor | None = None) -> Moments:
    moments = Moments(rows.shape[1])
    if origin is not None:
        moments.origin.copy_(origin)
    for part in rows.chunk(parts):
        moments.add(moments.tally(part))
    return moments


def test_they_are_those_of_scikit_learn(rows: Tensor) -> None:
    moments = moments_of(rows, parts=7, origin=rows[:20].double().mean(0))
    judge = LedoitWolf().fit(rows.double().numpy())
    assert judge.shrinkage_ > 0.005
    assert float(moments.shrinkage()) == pytest.approx(judge.shrinkage_, rel=1e-9)
    np.testing.assert_allclose(moments.mean().numpy(), judge.location_, rtol=1e-12)
    np.testing.assert_allclose(moments.shrunk_covariance().numpy(), judge.covariance_, rtol=1e-8, atol=1e-8)


def test_the_origin_does_not_matter(rows: Tensor) -> None:
    near, zero = moments_of(rows, origin=rows.double().mean(0)), moments_of(rows)
    np.testing.assert_allclose(near.covariance().numpy(), zero.covariance().numpy(), atol=1e-6)
    assert float(near.shrinkage()) == pytest.approx(float(zero.shrinkage()), rel=1e-3)


def test_means_over_workers_give_the_covariance_of_all_rows(rows: Tensor) -> None:
    together, averaged = moments_of(rows), Moments(12)
    tallies = [averaged.tally(part) for part in (rows[:150], rows[150:])]
    averaged.add([(one + other) / 2 for one, other in zip(*tallies, strict=True)])
    np.testing.assert_allclose(averaged.mean().numpy(), together.mean().numpy(), rtol=1e-12)
    np.testing.assert_allclose(averaged.covariance().numpy(), together.covariance().numpy(), rtol=1e-6)
    assert float(averaged.shrinkage()) == pytest.approx(2 * float(together.shrinkage()), rel=1e-3)


def test_rows_that_are_all_alike_have_no_shrinkage() -> None:
    assert float(moments_of(torch.ones(5, 3)).shrinkage()) == 0


def test_few_rows_are_shrunk_whole() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    np.testing.assert_allclose(moments_of(rows).shrunk_covariance().numpy(), np.eye(2) / 2)


def test_whitened_components_are_those_of_scikit_learn(rows: Tensor) -> None:
    moments = moments_of(rows, origin=rows.double().mean(0))
    projection = Projection(12, 5)
    projection.set(moments.mean(), whitening(moments.covariance(), 5))
    found = projection(rows[:, :, None, None])[:, :, 0, 0]
    judge = PCA(5, whiten=True).fit(rows.double().numpy()).transform(rows.double().numpy()) * (400 / 399) ** 0.5
    signs = np.sign((found.numpy() * judge).sum(0))
    np.testing.assert_allclose(found.numpy() * signs, judge, atol=2e-4)


def test_a_projection_that_was_not_fitted_shows() -> None:
    assert Projection(3, 2)(torch.zeros(1, 3, 1, 1)).isnan().all()


def test_directions_that_are_not_there_are_refused_in_words(rows: Tensor) -> None:
    flat = torch.cat([rows[:, :2], rows[:, :2]], 1)
    covariance = moments_of(flat, origin=flat.double().mean(0)).covariance()
    with pytest.raises(UnsuitableTilesError, match="vary in 2 directions; lower components"):
        whitening(covariance, 3)
    with pytest.raises(UnsuitableTilesError, match="do not vary outside 2 directions"):
        complement(covariance, 2)
