"""Total variation: its values, its derivative, and its subgradient where it has none."""

import torch
from torch import Tensor

from uadray.detectors.likelihood.total_variation import total_variation


def gradient(x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(total_variation(leaf).sum(), leaf)[0]


def test_by_hand() -> None:
    """Rows differ by 3 and 3, columns by 1 and 1 in a picture of 2 x 2; a bright pixel in the middle has four edges."""
    picture = torch.tensor([[0.0, 1.0], [3.0, 4.0]])
    pixel = torch.zeros(5, 5)
    pixel[2, 2] = 2.0
    assert total_variation(picture[None, None]).tolist() == [8.0]
    assert total_variation(pixel.expand(1, 3, 5, 5)).tolist() == [3 * 4 * 2.0]
    assert total_variation(torch.full((2, 3, 4, 5), 0.7)).tolist() == [0.0, 0.0]


def test_the_gradient_is_that_of_finite_differences() -> None:
    """Of random pictures, in which no neighbours are equal."""
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(total_variation, x.requires_grad_(), eps=1e-7)


def test_where_neighbours_are_equal_it_is_a_subgradient() -> None:
    """TV(b) >= TV(a) + <g(a), b - a>, for TV is convex; at a constant image g is zero, where TV has its minimum."""
    a = torch.randint(0, 3, (8, 3, 6, 6)).double()
    for b in (a + 0.1 * torch.randn_like(a), torch.randn_like(a), a.roll(1, 3)):
        line = total_variation(a) + (gradient(a) * (b - a)).flatten(1).sum(1)
        assert (total_variation(b) >= line - 1e-9).all()
    assert not gradient(torch.ones(1, 3, 4, 4)).any()
