"""Painted squares: their number, size and place, and what lies beside them."""

import pytest
import torch

from uadray.detectors.likelihood.masking import masked

pytestmark = pytest.mark.usefixtures("torch_alone")


def test_one_square_is_a_square_of_one_grey_level_within_the_image() -> None:
    x = 3 * torch.ones(200, 3, 16, 16)  # a level that is not drawn
    found = masked(x, most_squares=1, largest_share=0.5)
    painted = found != 3
    assert torch.equal(painted[:, 0], painted[:, 1])
    rows, columns = painted[:, 0].any(2).sum(1), painted[:, 0].any(1).sum(1)
    assert torch.equal(rows, columns)
    assert torch.equal(painted[:, 0].sum((1, 2)), rows * columns)
    assert set(rows.tolist()) == set(range(1, 9))
    levels = torch.stack([image[mask].unique() for image, mask in zip(found, painted, strict=True)])
    assert levels.shape == (200, 1)
    assert levels.abs().max() <= 1
    assert levels.unique().numel() > 150
    assert painted[:, 0].any(0).any(0).all()  # every column, the outermost too
    assert painted[:, 0].any(0).any(1).all()


def test_there_are_one_to_so_many_squares_and_other_ones_in_each_image() -> None:
    torch.manual_seed(0)
    x = 3 * torch.ones(300, 3, 32, 32)
    found = masked(x, most_squares=3, largest_share=0.2)
    numbers = torch.tensor([image[image != 3].unique().numel() for image in found])
    assert set(numbers.tolist()) == {1, 2, 3}
    assert abs(float(numbers.float().mean()) - 2) < 0.25
    assert not torch.equal(found[0], found[1])


def test_what_is_given_stays_as_it_is() -> None:
    x = torch.rand(4, 3, 16, 16)
    before = x.clone()
    found = masked(x, most_squares=2, largest_share=0.3)
    assert torch.equal(x, before)
    assert (found == x).float().mean() > 0.5
