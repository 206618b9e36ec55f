"""The head on cells: against scikit-learn and by hand."""

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.naive_bayes import GaussianNB
from torch import Tensor

from uadray.detectors import cell_head
from uadray.detectors.cell_head import Head, sums_of

pytestmark = pytest.mark.usefixtures("torch_alone")


def _cells(n: int, seed: int, *, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    deviations = torch.linspace(0.5, 3, 6)
    return torch.randn(n, 6, generator=generator) * deviations + shift * deviations.sqrt()


def test_the_head_is_that_of_scikit_learn() -> None:
    """It is Gaussian naive Bayes with the variance of normal cells; a linear discriminant of independent channels."""
    normal, enlarged = _cells(20_000, 0), _cells(20_000, 1, shift=1.0)
    head = _head([normal], [enlarged])
    x, y = np.concatenate([normal, enlarged]), np.repeat([0, 1], 20_000)
    bayes = GaussianNB().fit(x, y)
    expected = (bayes.theta_[1] - bayes.theta_[0]) / bayes.var_[0]
    assert np.abs(head.weight.numpy() / expected - 1).max() < 1e-5
    discriminant = LinearDiscriminantAnalysis(solver="lsqr").fit(x, y).coef_[0]
    assert np.corrcoef(head.weight.numpy(), discriminant)[0, 1] > 0.999


def test_heads_are_averaged_and_empty_ones_left_out() -> None:
    normals, enlarged = [_cells(500, i) for i in (0, 1)], [_cells(500, i, shift=1.0) for i in (2, 3)]
    weights = [(e.mean(0) - n.mean(0)) / n.var(0, correction=0) for n, e in zip(normals, enlarged, strict=True)]
    assert torch.allclose(_head(normals, enlarged, heads=3).weight, (weights[0] + weights[1]) / 2, rtol=1e-4)


def test_projected_weights_do_not_respond_to_the_directions() -> None:
    """And no others that do not are nearer to the weights: they solve the constrained least-squares problem."""
    weight, variance = torch.randn(6, dtype=torch.float64), torch.rand(6, dtype=torch.float64) + 0.5
    directions = [torch.randn(6, dtype=torch.float64) for _ in range(2)]
    found = cell_head.projected(weight, variance, directions)
    d = torch.stack(directions, 1).numpy()
    assert np.abs(d.T @ found.numpy()).max() < 1e-10
    free = scipy.linalg.null_space(d.T)  # every allowed weight is free @ a
    root = np.sqrt(variance.numpy())[:, None]
    a, *_ = np.linalg.lstsq(root * free, root[:, 0] * weight.numpy(), rcond=None)
    assert np.abs(free @ a - found.numpy()).max() < 1e-10
    assert torch.equal(cell_head.projected(weight, variance, []), weight)


def _head(normals: list[Tensor], enlarged: list[Tensor], *, heads: int | None = None) -> Head:
    head = Head(6, heads or len(normals))
    for i, (normal, large) in enumerate(zip(normals, enlarged, strict=True)):
        head.normals[i], head.enlarged[i] = (sums_of(cells, torch.ones(len(cells))) for cells in (normal, large))
    head.fit()
    return head


def test_sums_count_only_what_has_weight() -> None:
    cells = torch.tensor([[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]])
    sums = sums_of(cells, torch.tensor([1.0, 1.0, 0.0]))
    assert sums.tolist() == [2.0, 4.0, 6.0, 10.0, 20.0]
    assert cell_head.mean_of(sums).tolist() == [2.0, 3.0]
    assert cell_head.variance_of(sums).tolist() == [1.0, 1.0]
