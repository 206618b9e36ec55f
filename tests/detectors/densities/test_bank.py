"""Nearest rows and local densities, beside scikit-learn in float64."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from torch import Tensor

from uadray.detectors.densities import bank as bank_file
from uadray.detectors.densities.bank import Bank, nearest, outlier_factor
from uadray.detectors.trainee import UnsuitableTilesError
from uadray.errors import InputError

pytestmark = pytest.mark.usefixtures("torch_alone")


@pytest.fixture(params=[16_000_000, 5_000], ids=["at once", "in parts"])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(bank_file, "AT_ONCE", request.param)
    return request.param  # type: ignore[no-any-return]


def cloud(n: int, d: int, *, seed: int, offset: float = 0.0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n, d)) * rng.uniform(0.5, 2, (n, 1)) + offset).float()


def bank_of(rows: Tensor, *, neighbours: int, size: int | None = None) -> Bank:
    bank = Bank(len(rows) + 5, rows.shape[1])
    bank.reservoir.add(rows)
    bank.fit(size=size or len(rows), neighbours=neighbours)
    return bank


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.usefixtures("at_once")
def test_distances_are_those_of_scikit_learn(offset: float) -> None:
    rows, queries = cloud(300, 6, seed=0, offset=offset), cloud(70, 6, seed=1, offset=offset)
    queries[:5] = rows[:5] + 1e-3  # what is near beside how far the clouds lie
    distances, indices = nearest(queries, rows, 4)
    judge = NearestNeighbors(n_neighbors=4).fit(rows.double().numpy())
    expected, numbers = judge.kneighbors(queries.double().numpy())
    np.testing.assert_allclose(distances.numpy(), expected, rtol=1e-5)
    np.testing.assert_array_equal(indices.numpy(), numbers)


def test_none_is_its_own_neighbour_even_where_rows_are_equal() -> None:
    rows = torch.tensor([[0.0], [0.0], [3.0]])
    distances, indices = nearest(rows, rows, 1, is_same=True)
    assert distances[:, 0].tolist() == [0, 0, 3]
    assert indices[:2, 0].tolist() == [1, 0]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_the_local_outlier_factor_is_that_of_scikit_learn(offset: float) -> None:
    rows, queries = cloud(200, 5, seed=0, offset=offset), cloud(50, 5, seed=1, offset=offset)
    bank = bank_of(rows, neighbours=10)
    distances, indices = nearest(queries, bank.rows(11), 10)
    found = outlier_factor(distances, bank.reach[indices], bank.density[indices])
    judge = LocalOutlierFactor(n_neighbors=10, novelty=True).fit(rows.double().numpy())
    np.testing.assert_allclose(found.numpy(), -judge.score_samples(queries.double().numpy()), rtol=2e-5)


def test_a_bank_of_equal_rows_has_finite_densities() -> None:
    bank = bank_of(torch.zeros(6, 2), neighbours=2)
    assert bank.density[:6].isfinite().all()


def test_a_coreset_takes_the_place_of_the_candidates() -> None:
    rows = torch.cat([cloud(60, 2, seed=0), torch.tensor([[40.0, 40.0]])])
    bank = bank_of(rows, neighbours=1, size=5)
    kept = bank.rows(2)
    assert len(kept) == 5
    assert (kept == torch.tensor([40.0, 40.0])).all(1).any()
    assert not bank.reservoir.rows[5:].any()
    assert len(bank.reservoir.filled()) == 5


def test_a_bank_that_was_not_fitted_or_is_too_small_gives_no_score() -> None:
    with pytest.raises(InputError, match="a bank of 0 rows; at least 2"):
        Bank(5, 2).rows(2)
    lying = bank_of(cloud(5, 2, seed=0), neighbours=1)
    lying.count.fill_(10**9)
    with pytest.raises(InputError, match="a bank of 1000000000 rows"):
        lying.rows(2)
    with pytest.raises(UnsuitableTilesError, match="3 vectors of features were seen, 4 are needed"):
        bank_of(cloud(3, 2, seed=0), neighbours=3)
