"""The memory: its weights against a loop over positions and items, what shrinkage leaves, and what gradients see."""

import math

import pytest
import torch
from torch import Tensor

from uadray.networks.memory import Memory, entropy, shrunk

pytestmark = pytest.mark.usefixtures("torch_alone")

ITEMS, CHANNELS = 7, 5


@pytest.fixture
def z() -> Tensor:
    return torch.randn(2, CHANNELS, 3, 4, generator=torch.Generator().manual_seed(1))


def memory_of(*, threshold: float = 0.0, is_cosine: bool = True) -> Memory:
    torch.manual_seed(0)
    return Memory(items=ITEMS, channels=CHANNELS, threshold=threshold, is_cosine=is_cosine)


@pytest.mark.parametrize("is_cosine", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.15])
def test_weights_and_what_is_recalled_are_those_of_a_loop(z: Tensor, threshold: float, is_cosine: bool) -> None:
    memory = memory_of(threshold=threshold, is_cosine=is_cosine)
    weights, recalled = memory.addressing(z).detach(), memory(z).detach()
    items = memory.items.detach()
    for n in range(2):
        for row in range(3):
            for column in range(4):
                query = z[n, :, row, column]
                scale = [float(query.norm() * item.norm()) if is_cosine else 1.0 for item in items]
                raised = [math.exp(float(query @ item) / s) for item, s in zip(items, scale, strict=True)]
                soft = [value / sum(raised) for value in raised]
                kept = [value if value > threshold else 0.0 for value in soft]
                expected = torch.tensor([value / sum(kept) for value in kept])
                torch.testing.assert_close(weights[n, row, column], expected, rtol=1e-4, atol=1e-6)
                total = torch.stack([w * item for w, item in zip(expected, items, strict=True)]).sum(0)
                torch.testing.assert_close(recalled[n, :, row, column], total, rtol=1e-4, atol=1e-6)


def test_weights_sum_to_one_and_shrinkage_makes_them_few(z: Tensor) -> None:
    dense, sparse = (memory_of(threshold=value).addressing(z) for value in (0.0, 1 / ITEMS))
    for weights in (dense, sparse):
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 4))
    assert (dense > 0).all()
    assert (sparse > 0).float().mean() < 0.7
    assert entropy(sparse).mean() < entropy(dense).mean()


def test_where_no_item_is_near_enough_nothing_is_recalled() -> None:
    """No softmax of seven cosines has a weight above e / (e + 6 / e) = 0.55, and none of these has one above 0.5."""
    memory = memory_of(threshold=0.5)
    query = memory.items.detach()[:1].view(1, CHANNELS, 1, 1)
    assert torch.equal(memory(query), torch.zeros(1, CHANNELS, 1, 1))


def test_shrinkage_is_the_papers_quotient_and_so_is_its_gradient() -> None:
    """max(w - t, 0) w / (|w - t| + eps), divided by its sum (eq. 6 and 7), in double precision."""
    threshold, toward = 0.18, torch.tensor([0.3, -1.0, 2.0, 0.5], dtype=torch.float64)

    def quotient(weights: Tensor) -> Tensor:
        kept = (weights - threshold).clamp_min(0) * weights / ((weights - threshold).abs() + 1e-12)
        return kept / kept.sum(-1, keepdim=True)

    found: list[Tensor] = []
    expected: list[Tensor] = []
    for function, results in ((lambda w: shrunk(w, threshold), found), (quotient, expected)):
        weights = torch.tensor([0.4, 0.1, 0.3, 0.2], dtype=torch.float64, requires_grad=True)
        value = function(weights)
        results += [value.detach(), torch.autograd.grad(value @ toward, weights)[0]]
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found[0], torch.tensor([4 / 9, 0, 3 / 9, 2 / 9], dtype=torch.float64))


def test_entropy_of_known_weights() -> None:
    weights = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    torch.testing.assert_close(entropy(weights), torch.tensor([0, math.log(2), math.log(4)]), rtol=1e-6, atol=1e-6)


def test_items_and_queries_both_learn(z: Tensor) -> None:
    memory = memory_of(threshold=0.1)
    query = z.requires_grad_()
    of_query, of_items = torch.autograd.grad(memory(query).square().sum(), (query, memory.items))
    assert of_query.abs().sum() > 0
    assert of_items.abs().sum() > 0


def test_weights_are_as_exact_under_autocast(z: Tensor) -> None:
    """A threshold within the rounding of bfloat16 would keep other items."""
    memory = memory_of(threshold=1 / ITEMS)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = memory.addressing(z)
    torch.testing.assert_close(lowered, memory.addressing(z), rtol=0, atol=0)
