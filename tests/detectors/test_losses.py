"""Losses by hand."""

import pytest
import torch

from uadray.detectors.losses import izi_f, relative_l1, relative_perceptual_l1


def test_relative_perceptual_l1_by_hand() -> None:
    """Layer 1: |f| mean 2, |difference| mean 1, a half. Layer 2: |f| mean 1, |difference| mean 1, one. Mean 0.75."""
    f1 = torch.tensor([2.0, -2.0]).view(1, 2, 1, 1)
    f2 = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 2, 2)
    hat1, hat2 = f1 + torch.tensor([2.0, 0.0]).view(1, 2, 1, 1), torch.zeros(1, 1, 2, 2)
    assert relative_perceptual_l1([f1, f2], [hat1, hat2]).tolist() == [0.75]


def test_relative_perceptual_l1_is_one_value_a_sample_and_zero_on_itself() -> None:
    f = [torch.randn(3, 4, 5, 5), torch.randn(3, 8, 2, 2)]
    assert relative_perceptual_l1(f, f).tolist() == [0, 0, 0]
    scaled = relative_perceptual_l1(f, [g * 1.5 for g in f])
    torch.testing.assert_close(scaled, torch.full((3,), 0.5))
    with pytest.raises(ValueError, match="zip"):
        relative_perceptual_l1(f, f[:1])


def test_relative_perceptual_l1_of_nothing_is_finite() -> None:
    assert relative_perceptual_l1([torch.zeros(1, 1, 2, 2)], [torch.ones(1, 1, 2, 2)]).isfinite().all()


def test_relative_l1_by_hand() -> None:
    """Each channel is -1 and 1 in halves: spread 1. Off by 0.25 everywhere: 0.25."""
    x = torch.cat([torch.full((1, 3, 2, 2), -1.0), torch.full((1, 3, 2, 2), 1.0)], dim=3)
    torch.testing.assert_close(relative_l1(x, x + 0.25), torch.tensor([0.25]))
    flat = torch.zeros(1, 3, 2, 2)
    torch.testing.assert_close(relative_l1(flat, flat + 0.01), torch.tensor([1.0]))  # the spread's floor is 0.01


def test_izi_f_by_hand() -> None:
    """Image off by 0.5 (0.25), features off by 2 (4): 0.25 + kappa * 4, each a mean over its own elements."""
    x, f = torch.zeros(2, 3, 4, 4), torch.zeros(2, 8, 2, 2)
    x_hat, f_hat = x.clone(), f.clone()
    x_hat[0], f_hat[0] = 0.5, -2.0
    for kappa, expected in ((0.0, 0.25), (1.0, 4.25), (0.1, 0.65)):
        torch.testing.assert_close(izi_f(x, x_hat, f, f_hat, kappa=kappa), torch.tensor([expected, 0.0]))
