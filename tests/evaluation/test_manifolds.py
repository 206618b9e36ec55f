"""Nearest neighbours, precision and recall against loops over all pairs."""

import math

import pytest
import torch
from torch import Tensor

from uadray.evaluation import manifolds
from uadray.evaluation.manifolds import nearest, neighbour_distances, precision_and_recall


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, the last one not full."""
    monkeypatch.setattr(manifolds, "BLOCK_VALUES", 200)


@pytest.fixture
def sets() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(41, 3, generator=rng), 0.8 * torch.randn(30, 3, generator=rng) + 0.7


def _sorted_distances(a: Tensor, others: list[Tensor]) -> list[float]:
    return sorted(math.dist(a.tolist(), b.tolist()) for b in others)


def _share_inside(of: Tensor, centres: Tensor, k: int) -> float:
    """By loops over all pairs."""
    rows = list(centres)
    radii = [_sorted_distances(a, [b for b in rows if b is not a])[k - 1] for a in rows]
    inside = [any(math.dist(x.tolist(), c.tolist()) <= r for c, r in zip(rows, radii, strict=True)) for x in list(of)]
    return sum(inside) / len(inside)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_by_loops(sets: tuple[Tensor, Tensor], k: int) -> None:
    real, fake = sets
    expected = _share_inside(fake, real, k), _share_inside(real, fake, k)
    assert precision_and_recall(real, fake, k=k) == pytest.approx(expected)
    assert 0 < expected[0] < 1
    assert 0 < expected[1] < 1


def test_few_modes_have_precision_without_recall(sets: tuple[Tensor, Tensor]) -> None:
    real, _ = sets
    precision, recall = precision_and_recall(real, real[:5].repeat(6, 1) + 1e-4 * torch.randn(30, 3))
    assert precision == 1
    assert recall <= 5 / 41


def test_neighbours_by_loops(sets: tuple[Tensor, Tensor]) -> None:
    real, fake = sets
    which, distance = nearest(fake, real)
    for x, i, d in zip(fake, which, distance, strict=True):
        by_hand = [math.dist(x.tolist(), y.tolist()) for y in real]
        assert by_hand.index(min(by_hand)) == i
        assert float(d) == pytest.approx(min(by_hand), rel=1e-6)
    with pytest.raises(ValueError, match="3th"):
        neighbour_distances(real[:3], k=3)


def test_rows_that_do_not_count(sets: tuple[Tensor, Tensor]) -> None:
    """Leaving itself out, a row's nearest one is the first of `neighbour_distances`; far from 0, float32 would fail."""
    real = sets[0].double() + 1000
    itself = torch.arange(len(real))
    which, distance = nearest(real, real, leaving_out=itself)
    assert (which != itself).all()
    torch.testing.assert_close(distance, neighbour_distances(real, k=1))
    assert nearest(real, real)[0].tolist() == itself.tolist()
