"""The threshold of residuals: against numpy's percentile, over workers, and what it refuses."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from uadray.detectors.likelihood.residual_threshold import BINS, MOST, ResidualThreshold
from uadray.detectors.trainee import UnsuitableTilesError, alone
from uadray.errors import WorkError


@pytest.mark.parametrize("percentile", [50.0, 98.0, 99.9])
def test_it_is_the_percentile_to_a_bin(percentile: float) -> None:
    torch.manual_seed(0)
    residuals = torch.randn(20, 30, 30).abs() * 0.2
    threshold = ResidualThreshold()
    for part in residuals.chunk(3):
        threshold.count(part, alone)
    threshold.fit(percentile)
    expected = np.percentile(residuals.numpy(), percentile, method="inverted_cdf")
    assert float(threshold.value) == pytest.approx(expected, abs=1.01 * MOST / BINS)
    assert float(threshold.value) >= expected
    above = threshold.share_above(residuals)
    assert float(above.mean()) == pytest.approx(1 - percentile / 100, abs=0.006)


def test_shares_by_hand() -> None:
    threshold = ResidualThreshold()
    threshold.value.fill_(0.5)
    residuals = torch.tensor([[[0.1, 0.6], [0.5, 0.7]], [[0.0, 0.0], [0.0, 0.0]]])
    assert threshold.share_above(residuals).tolist() == [0.5, 0]


def test_counts_are_those_of_all_workers() -> None:
    """The other worker has seen nothing: the mean of both is half."""

    def halve(tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            tensor.mul_(0.5)

    threshold = ResidualThreshold()
    threshold.count(torch.full((1, 2, 2), 5.0), halve)  # larger than any residual of images in [-1, 1]
    assert float(threshold.counts.sum()) == float(threshold.counts[-1]) == 2


def test_without_normal_tiles_there_is_none() -> None:
    threshold = ResidualThreshold()
    with pytest.raises(WorkError, match="was not fitted"):
        threshold.share_above(torch.zeros(1, 2, 2))
    with pytest.raises(UnsuitableTilesError, match="no residual"):
        threshold.fit(98.0)
