"""Lambda: that of the least change, of the tiles of all workers."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from uadray.detectors.likelihood.chosen_weight import ChosenWeight
from uadray.detectors.trainee import UnsuitableTilesError, alone


def test_lambda_is_that_of_the_least_change() -> None:
    chosen = ChosenWeight((0.1, 0.2, 0.4), None)
    chosen.see(torch.tensor([[0.3, 0.1, 0.2], [0.3, 0.3, 0.1]]), alone)
    chosen.see(torch.tensor([[0.1, 0.1, 0.3]]), alone)
    chosen.choose()
    assert float(chosen.weight) == pytest.approx(0.2)
    assert chosen.count == 3


def test_workers_choose_together() -> None:
    """One whose own tiles say otherwise takes what all say."""

    def with_another(tensors: Iterable[Tensor]) -> None:
        changes, count = tensors
        changes.add_(torch.tensor([4.0, 0.0])).div_(2)
        count.add_(2).div_(2)

    chosen = ChosenWeight((0.1, 0.2), None)
    chosen.see(torch.tensor([[0.1, 0.5], [0.2, 0.6]]), with_another)
    chosen.choose()
    assert float(chosen.weight) == pytest.approx(0.2)


def test_changes_that_are_not_finite_are_refused() -> None:
    chosen = ChosenWeight((0.1, 0.2), None)
    chosen.see(torch.tensor([[0.1, torch.inf]]), alone)
    with pytest.raises(UnsuitableTilesError, match="lower step_size"):
        chosen.choose()
    assert not chosen.weight.isfinite()
