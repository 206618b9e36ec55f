"""Improbable codes: scores by hand, quantiles, weights and pooling of residuals, and which tiles are restored."""

import pytest
import torch
from torch import Tensor

from uadray.detectors.likelihood import improbable_codes
from uadray.detectors.likelihood.improbable_codes import (
    BIN,
    KEPT,
    NllHistogram,
    Restoration,
    improbable_sum,
    smoothed,
    weighted_residual,
)
from uadray.networks.code_prior import CodePrior

pytestmark = pytest.mark.usefixtures("torch_alone")


def test_only_what_is_above_the_threshold_counts() -> None:
    nll = torch.tensor([[1.0, 8, 7, 7.5], [0, 0, 0, 0]])
    assert improbable_sum(nll, 7.0).tolist() == [15.5, 0]
    assert improbable_sum(nll, None).tolist() == [23.5, 0]


def test_a_quantile_of_what_was_seen() -> None:
    histogram = NllHistogram()
    nll = torch.distributions.Exponential(1.0).sample((64, 200))
    for part in nll.split(16):
        histogram.add(histogram.counted(part))
    for share in (0.1, 0.5, 0.98):
        expected = -torch.tensor(1 - share).log()
        assert float(histogram.quantile(share)) == pytest.approx(float(expected), abs=0.1)
    assert float(histogram.shares.sum()) == pytest.approx(1 - KEPT**4)


def test_what_is_beyond_the_histogram_counts_in_its_last_bin() -> None:
    histogram = NllHistogram()
    histogram.add(histogram.counted(torch.tensor([[1e9, 0.5 * BIN]])))
    assert float(histogram.quantile(0.4)) == pytest.approx(BIN)
    assert float(histogram.quantile(0.9)) == pytest.approx(len(histogram.shares) * BIN)


def test_the_closest_restoration_weighs_most() -> None:
    """Residuals of 0.1 and 0.2 everywhere: weights are the softmax of k / 0.1 and k / 0.2."""
    x = torch.zeros(1, 3, 4, 4)
    restored = torch.stack([x + 0.1, x - 0.2], 1)
    weights = torch.tensor([0.3 / 0.1, 0.3 / 0.2]).softmax(0)
    found = weighted_residual(x, restored, sharpness=0.3)
    torch.testing.assert_close(found, torch.full((1, 4, 4), float(weights @ torch.tensor([0.1, 0.2]))))
    assert weights[0] > weights[1]


def test_of_equal_restorations_the_residual_is_that_of_one() -> None:
    x, one = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    found = weighted_residual(x, one[:, None].expand(2, 5, 3, 4, 4), sharpness=3.0)
    torch.testing.assert_close(found, (x - one).abs().mean(1))


def test_lone_pixels_vanish_and_areas_stay() -> None:
    residual = torch.zeros(1, 12, 12)
    residual[0, 2, 2] = 1
    assert smoothed(residual, min_px=3, mean_px=3).max() == 0
    residual[0, 5:10, 5:10] = 1
    found = smoothed(residual, min_px=3, mean_px=3)
    assert found[0, 7, 7] == 1
    assert float(found[0, 5, 5]) == pytest.approx(1 / 9)
    torch.testing.assert_close(smoothed(torch.ones(1, 6, 6), min_px=3, mean_px=7), torch.ones(1, 6, 6))
    torch.testing.assert_close(smoothed(residual, min_px=1, mean_px=1), residual)


@pytest.fixture
def restoration() -> Restoration:
    prior = CodePrior(codes=3, positions=4, width=8, layers=1, heads=2).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return Restoration(prior, decoded, threshold=2.0, count=6, sharpness=3.0)


def decoded(codes: Tensor) -> Tensor:
    """Each code a grey of its own, in squares of 2 x 2 pixels."""
    grey = (codes.float() - 1).repeat_interleave(2, 1).repeat_interleave(2, 2)
    return grey[:, None].expand(-1, 3, -1, -1)


@torch.no_grad()
def test_tiles_are_restored_alike_alone_or_together(restoration: Restoration, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = torch.randint(3, (9, 2, 2))
    nll = restoration.prior.nll(codes.flatten(1))
    is_improbable = (nll > 2.0).any(1)
    assert 0 < int(is_improbable.sum()) < 9
    x_hat = decoded(codes)
    x = x_hat + 0.1
    together = restoration.residual(x, x_hat, codes, nll)
    alone = torch.cat([restoration.residual(*(t[i : i + 1] for t in (x, x_hat, codes, nll))) for i in range(9)])
    torch.testing.assert_close(together, alone)
    monkeypatch.setattr(improbable_codes, "IMAGES", 12)  # two tiles at once
    torch.testing.assert_close(restoration.residual(x, x_hat, codes, nll), together)
    torch.testing.assert_close(together[~is_improbable], torch.full_like(together[~is_improbable], 0.1))
    assert together[is_improbable].max() > 0.5, "an improbable code may be drawn again, but not in all tiles"


@torch.no_grad()
def test_restorations_of_a_tile_differ_and_are_more_probable(restoration: Restoration) -> None:
    codes = torch.cartesian_prod(*[torch.arange(3)] * 4).view(81, 2, 2)
    restored = restoration.codes(codes)
    assert restored.shape == (81, 6, 2, 2)
    before, after = (restoration.prior.nll(c.reshape(-1, 4)).sum(1) for c in (codes, restored))
    assert after.mean() < before.mean() - 0.5
    nll = restoration.prior.nll(codes.flatten(1))
    moved = (restored != codes[:, None]).flatten(1).any(1)
    assert not moved[(nll <= 2.0).all(1)].any()
    assert (restored.float().std(1).flatten(1).max(1).values > 0).any()
