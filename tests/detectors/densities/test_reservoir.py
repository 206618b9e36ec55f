"""A sample in which each row has the same chance, and a coreset from which no row is far."""

import pytest
import torch

from uadray.detectors.densities.reservoir import PROJECTED, Reservoir, coreset
from uadray.detectors.trainee import UnsuitableTilesError

pytestmark = pytest.mark.usefixtures("torch_alone")


def filled(capacity: int, n: int, *, batch: int) -> Reservoir:
    reservoir = Reservoir(capacity, 1)
    for rows in torch.arange(n, dtype=torch.float32)[:, None].split(batch):
        reservoir.add(rows)
    return reservoir


def test_as_long_as_there_is_room_every_row_is_kept() -> None:
    torch.manual_seed(0)
    reservoir = filled(10, 7, batch=3)
    assert sorted(reservoir.filled()[:, 0].tolist()) == [0, 1, 2, 3, 4, 5, 6]
    with pytest.raises(UnsuitableTilesError, match="7 vectors of features were seen, 8 are needed"):
        reservoir.at_least(8)


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_each_row_has_the_same_chance(batch: int) -> None:
    torch.manual_seed(0)
    counts = torch.zeros(40)
    for _ in range(300):
        kept = filled(10, 40, batch=batch).filled()[:, 0].long()
        assert len(kept.unique()) == 10
        counts[kept] += 1
    # 300 draws of 1/4: mean 75, deviation 7.5; of 40 the furthest lies within 4 deviations
    assert counts.min() > 45
    assert counts.max() < 105
    assert abs(float(counts[:10].mean() - counts[30:].mean())) < 12


def test_a_coreset_has_the_furthest_row_each_time() -> None:
    rows = torch.tensor([[0.0], [1.0], [10.0], [11.0], [5.5]])
    assert coreset(rows, 4).tolist() == [0, 3, 4, 1]


def test_a_coreset_covers_every_cluster() -> None:
    torch.manual_seed(0)
    centres = 50 * torch.randn(8, 2 * PROJECTED)
    rows = (centres[:, None] + torch.randn(8, 30, 2 * PROJECTED)).flatten(0, 1)
    rows = torch.cat([rows, centres[:1] + torch.randn(500, 2 * PROJECTED)])
    assert sorted((coreset(rows[:240], 8) // 30).tolist()) == list(range(8))
    assert (coreset(rows, 16) >= 240).sum() < 9, "500 rows of one cluster do not fill it"
