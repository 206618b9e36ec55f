"""The average of a generator against numpy."""

import numpy as np
import pytest
import torch
from torch import nn

from uadray.generators.averaging import decay_of, follow


def test_half_is_kept_after_a_half_life_whatever_the_batch() -> None:
    for batch in (1, 7, 64):
        kept = np.prod([decay_of(batch, half_life_images=448)] * (448 // batch))
        assert kept == pytest.approx(0.5)
    assert decay_of(0, half_life_images=10) == 1.0
    assert decay_of(5, half_life_images=0) == 0.0


def test_an_average_is_the_weighted_sum_of_what_it_followed() -> None:
    torch.manual_seed(0)
    average, source = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    expected = average.weight.detach().numpy().copy()
    for _ in range(5):
        nn.init.normal_(source.weight)
        source(torch.randn(4, 3))
        follow(average, source, decay=0.8)
        expected = 0.8 * expected + 0.2 * source.weight.detach().numpy()
    np.testing.assert_allclose(average.weight.detach().numpy(), expected, rtol=1e-5)
    assert torch.equal(average.running_mean, source.running_mean)  # type: ignore[arg-type]  # buffers are copied
    assert average.num_batches_tracked == 5


def test_an_averages_weights_stay_its_own() -> None:
    average, source = nn.Linear(2, 2), nn.Linear(2, 2)
    follow(average, source, decay=0.0)
    source.weight.data.add_(1.0)
    torch.testing.assert_close(average.weight + 1, source.weight)
