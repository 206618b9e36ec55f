"""What normal tiles have by contrast: few tiles are enough, and workers' sums make the same fit."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from uadray.detectors.inversion.normals import BINS, LEAST, MOST, Normals, contrast
from uadray.detectors.trainee import UnsuitableTilesError
from uadray.errors import WorkError


def simulated(n: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Contrasts, and measures of three kinds: growing with it, without it, negative and falling."""
    rng = torch.Generator().manual_seed(seed)
    contrasts = torch.exp(0.45 * torch.randn(n, generator=rng) - 3.5).clamp(0.003, 0.15)
    noise = torch.randn(n, 3, generator=rng)
    grown = 10 * contrasts**1.3 * (1 + 0.25 * noise[:, 0])
    return contrasts, torch.stack([grown, 5 + noise[:, 1], -40 * contrasts - (0.3 + 4 * contrasts) * noise[:, 2]], 1)


def fitted(n: int, *, seed: int) -> Normals:
    normals = Normals(3)
    normals.see(*simulated(n, seed=seed))
    normals.fit()
    return normals


@pytest.mark.parametrize(("tiles", "slack"), [(128, 0.45), (512, 0.22)])
def test_normalised_measures_of_held_out_normals_do_not_depend_on_contrast(tiles: int, slack: float) -> None:
    for seed in range(4):
        normals = fitted(tiles, seed=seed)
        contrasts, values = simulated(6000, seed=100)
        for number in range(3):
            mean, deviation = normals.of(contrasts, number)
            z = (values[:, number] - mean) / deviation
            assert abs(float(z.var()) - 1) < slack
            low, high = contrasts.quantile(torch.tensor([0.02, 0.98]))
            inside = (contrasts > low) & (contrasts < high)
            along = contrasts[inside].log()
            for power in (z[inside], z[inside].square()):
                assert abs(float(torch.corrcoef(torch.stack([along, power]))[0, 1])) < slack
    plain = (values[:, 0] - normals.mean[0]) / normals.deviation[0]
    assert float(torch.corrcoef(torch.stack([contrasts, plain]))[0, 1]) > 0.8


def test_beyond_the_contrasts_of_normals_nothing_changes() -> None:
    normals = fitted(256, seed=1)
    far = torch.tensor([0.0, LEAST, 0.002, 0.12, 0.2, MOST, 3.0])
    for number in range(3):
        mean, deviation = normals.of(far, number)
        assert (deviation > 0).all()
        assert mean[:3].std() < 1e-6
        assert mean[-3:].std() < 1e-6
    inner = torch.linspace(0.012, 0.09, 200)
    assert (normals.of(inner, 0)[0].diff() >= 0).all()
    assert (normals.of(inner, 0)[0].diff() < 0.02).all()


def test_workers_that_average_their_sums_fit_as_one_that_saw_all() -> None:
    contrasts, values = simulated(256, seed=3)
    alone = Normals(3)
    alone.see(contrasts, values)
    alone.fit()
    halves = [Normals(3), Normals(3)]
    sums = []
    for worker, part in zip(halves, (slice(0, None, 2), slice(1, None, 2)), strict=True):
        worker.see(contrasts[part], values[part], lambda tensors: sums.append([t.clone() for t in tensors]))

    def average(tensors: Iterable[Tensor]) -> None:
        for tensor, ours, theirs in zip(tensors, *sums, strict=True):
            tensor.copy_((ours + theirs) / 2)

    both = Normals(3)
    both.see(contrasts[::2], values[::2], average)
    assert float(both.count.sum()) == 128
    both.fit()
    torch.testing.assert_close(both.mean, alone.mean)
    torch.testing.assert_close(both.mean_at, alone.mean_at, rtol=0.05, atol=0.1)


def test_what_was_not_fitted_is_refused() -> None:
    normals = Normals(2)
    with pytest.raises(WorkError, match="train it to its end"):
        normals.check()
    normals.see(torch.full((4,), 0.03), torch.rand(4, 2))
    with pytest.raises(UnsuitableTilesError, match="4 normal tiles"):
        normals.fit()
    normals.see(torch.full((20,), 0.03), torch.ones(20, 2))
    normals.see(torch.full((20,), 0.03), torch.ones(20, 2) * torch.tensor([2.0, torch.nan]))
    with pytest.raises(UnsuitableTilesError, match="measure 1"):
        normals.fit()
    assert normals.mean_at.shape == (BINS, 2)


def test_tiles_of_one_contrast_are_enough() -> None:
    normals = Normals(1)
    values = 3 + torch.randn(64, 1, generator=torch.Generator().manual_seed(0))
    normals.see(torch.full((64,), 0.03), values)
    normals.fit()
    normals.check()
    mean, deviation = normals.of(torch.tensor([0.003, 0.03, 0.1]), 0)
    torch.testing.assert_close(mean, normals.mean.expand(3), atol=0.2, rtol=0)
    torch.testing.assert_close(deviation, normals.deviation.expand(3), atol=0.2, rtol=0)


def test_contrast_by_hand() -> None:
    x = torch.full((2, 3, 16, 16), -1.0)
    x[1, :, :, 8:] = 1.0
    assert contrast(x).tolist() == pytest.approx([0.0, 1 / 16], abs=1e-6)  # each row rises by 1 in 16 pixels
