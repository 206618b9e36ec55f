"""NT-Xent and the terms of VICReg, each against the paper's sums written out."""

import math

import pytest
import torch
from torch import Tensor

from uadray.detectors.views.view_losses import covariance, invariance, nt_xent, variance

pytestmark = pytest.mark.usefixtures("torch_alone")


def _written_out(z: list[Tensor], partner: list[int], temperature: float) -> float:
    """Equation 1 of Chen et al. 2020, over all pairs."""
    total = 0.0
    for i, j in enumerate(partner):
        similar = [float(z[i] @ z[k] / (z[i].norm() * z[k].norm())) / temperature for k in range(len(z))]
        total -= math.log(math.exp(similar[j]) / sum(math.exp(s) for k, s in enumerate(similar) if k != i))
    return total / len(z)


def test_nt_xent_is_the_papers() -> None:
    z, z_other = torch.randn(5, 3), torch.randn(5, 3)
    expected = _written_out([*z, *z_other], [*range(5, 10), *range(5)], 0.3)
    assert nt_xent(z, z_other, temperature=0.3).item() == pytest.approx(expected, rel=1e-5)


def test_nt_xent_is_low_where_views_agree_and_tiles_do_not() -> None:
    z = torch.eye(4)
    assert nt_xent(z, z, temperature=0.1) < 0.001
    assert nt_xent(z, z.roll(1, 0), temperature=0.1) > 5
    assert nt_xent(torch.ones(4, 3), torch.ones(4, 3), temperature=0.1).item() == pytest.approx(math.log(7))


def test_the_terms_of_vicreg_are_the_papers() -> None:
    z, z_other = torch.randn(6, 3) * torch.tensor([0.1, 1.0, 3.0]), torch.randn(6, 3)
    n, d = z.shape
    expected_variance = expected_covariance = 0.0
    means = [sum(float(row[j]) for row in z) / n for j in range(d)]
    for j in range(d):
        spread = sum((float(row[j]) - means[j]) ** 2 for row in z) / (n - 1)
        expected_variance += max(0.0, 1 - math.sqrt(spread + 1e-4)) / d
        for k in set(range(d)) - {j}:
            c = sum((float(row[j]) - means[j]) * (float(row[k]) - means[k]) for row in z) / (n - 1)
            expected_covariance += c**2 / d
    assert variance(z).item() == pytest.approx(expected_variance, rel=1e-4)
    assert covariance(z).item() == pytest.approx(expected_covariance, rel=1e-4)
    squares = sum(float((a - b).square().sum()) for a, b in zip(z, z_other, strict=True))
    assert invariance(z, z_other).item() == pytest.approx(squares / n / d, rel=1e-5)


def test_losses_are_of_full_precision() -> None:
    z = torch.randn(4, 8, dtype=torch.bfloat16)
    for loss in (nt_xent(z, z, temperature=0.5), invariance(z, z), variance(z), covariance(z)):
        assert loss.dtype == torch.float32
