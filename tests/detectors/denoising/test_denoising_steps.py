"""Ways back from noise: what a perfect network gives, and which sampler eta makes."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from uadray.detectors.denoising.sampling import Predict, denoised, times_back
from uadray.detectors.denoising.schedule import noise_of, noised, posterior, signal_shares

pytestmark = pytest.mark.usefixtures("torch_alone")

SHARES = signal_shares("cosine", 1000)


def knows(x: Tensor) -> Predict:
    """A network that knows the noise, since it knows the image."""
    return lambda x_t, time: noise_of(x_t, x, SHARES[time : time + 1])


@pytest.mark.parametrize("level", [1, 7, 250, 1000])
@pytest.mark.parametrize("steps", [1, 5, 2000])
def test_times_go_from_the_level_to_the_image(level: int, steps: int) -> None:
    times = times_back(level, steps)
    assert (times[0], times[-1]) == (level, 0)
    assert len(times) == min(level, steps) + 1
    assert all(before > after for before, after in pairwise(times))


@pytest.mark.parametrize("steps", [1, 4, 300])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_with_the_true_noise_the_image_comes_back(steps: int, eta: float) -> None:
    x = torch.rand(3, 3, 4, 4).double() * 1.8 - 0.9
    x_t = noised(x, torch.randn(1, 3, 4, 4).double(), SHARES[300:301])
    back = denoised(
        knows(x), x_t, times_back(300, steps), SHARES, eta=eta, draw=lambda time: torch.randn(3, 4, 4).double()
    )
    torch.testing.assert_close(back, x)


def test_ddim_stays_on_the_line_from_noise_to_image() -> None:
    """Halfway, x_s has the same noise at the share of its time (eq. 12 with sigma 0)."""
    x, noise = torch.rand(2, 3, 4, 4).double() - 0.5, torch.randn(2, 3, 4, 4).double()
    seen = dict[int, Tensor]()

    def predict(x_t: Tensor, time: int) -> Tensor:
        seen[time] = x_t
        return noise

    denoised(predict, noised(x, noise, SHARES[400:401]), [400, 200, 0], SHARES)
    torch.testing.assert_close(seen[200], noised(x, noise, SHARES[200:201]))


def test_all_steps_with_eta_1_are_the_ancestral_sampler() -> None:
    """Mean and variance of one step are the posterior's, given the prediction of x_0."""
    x, x_t = torch.rand(1, 3, 4, 4).double() - 0.5, torch.randn(1, 3, 4, 4).double()
    reached = list[Tensor]()

    def predict(at: Tensor, time: int) -> Tensor:
        reached.append(at)
        return noise_of(at, x, SHARES[time : time + 1])

    drawn = torch.randn(3, 4, 4).double()
    denoised(predict, x_t, [500, 499, 0], SHARES, eta=1.0, draw=lambda time: drawn)
    mean, variance = posterior(x_t, x, SHARES[500:501], SHARES[499:500])
    torch.testing.assert_close(reached[1], mean + variance.sqrt() * drawn)


def test_eta_1_ends_in_the_distribution_of_the_data() -> None:
    """Of data N(0, 0.2^2) the best prediction is known: ancestral samples have that deviation, and so has DDIM."""
    shares, variance = signal_shares("cosine", 400), 0.04

    def predict(x_t: Tensor, time: int) -> Tensor:
        share = shares[time]
        x = share.sqrt() * variance / (share * variance + 1 - share) * x_t
        return noise_of(x_t, x, share[None])

    x_t = torch.randn(60, 3, 8, 8).double()
    for eta in (0.0, 1.0):
        samples = denoised(
            predict, x_t, times_back(400, 400), shares, eta=eta, draw=lambda time: torch.randn(60, 3, 8, 8).double()
        )
        assert float(samples.std()) == pytest.approx(0.2, rel=0.03)


def test_each_step_is_told() -> None:
    counted = list[None]()
    x = torch.zeros(1, 3, 4, 4)
    denoised(knows(x), x, times_back(50, 5), SHARES, after_step=lambda: counted.append(None))
    assert len(counted) == 5
