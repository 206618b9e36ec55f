"""The codebook: nearest vectors, straight-through gradients, exponential averages, restarts, several workers."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from uadray.networks.codebook import LEAST_USE, Codebook, Uses, commitment_loss, positions, straight_through

pytestmark = pytest.mark.usefixtures("torch_alone")


def mean_of(uses: Sequence[Uses]) -> Uses:
    return Uses(*(torch.stack(parts).mean(0) for parts in zip(*uses, strict=True)))


def test_each_position_takes_the_nearest_vector() -> None:
    codebook, h = Codebook(5, 3), torch.randn(2, 3, 4, 4)
    codes = codebook(h)
    distances = (h.permute(0, 2, 3, 1)[..., None, :] - codebook.vectors).square().sum(-1)
    assert torch.equal(codes, distances.argmin(-1))
    assert len(codes.unique()) > 1
    q = codebook.lookup(codes)
    assert torch.equal(q[1, :, 2, 3], codebook.vectors[codes[1, 2, 3]])


def test_the_gradient_goes_straight_through() -> None:
    """That of the loss by the encoder's output is that by the quantised, whatever lies between."""
    codebook, h = Codebook(5, 3), torch.randn(2, 3, 4, 4, requires_grad=True)
    q = codebook.lookup(codebook(h)).requires_grad_()
    weight = torch.randn_like(q)
    through = straight_through(h, q)
    torch.testing.assert_close(through, q)
    (by_h,) = torch.autograd.grad((through.square() * weight).sum(), h)
    (by_q,) = torch.autograd.grad((q.square() * weight).sum(), q)
    torch.testing.assert_close(by_h, by_q)


def test_commitment_pulls_the_encoder_alone() -> None:
    h, q = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 4, 4, requires_grad=True)
    commitment_loss(h, q).backward()
    torch.testing.assert_close(h.grad, 2 * (h - q).detach() / h.numel())
    assert q.grad is None


def test_averages_against_a_naive_computation() -> None:
    """Eq. 6 to 8 of the paper's appendix, code by code; counts in positions, not in shares of them."""
    codebook, decay = Codebook(4, 3), 0.8
    counts = [float(n) * 32 for n in codebook.shares]
    sums = [m * 32 for m in codebook.sums.clone()]
    for _ in range(5):
        h = torch.randn(2, 3, 4, 4)
        codes = codebook(h)
        codebook.follow(codebook.uses(h, codes), decay=decay, restarts=False)
        for k in range(4):
            taken = [h[n, :, i, j] for n, i, j in (codes == k).nonzero().tolist()]
            counts[k] = decay * counts[k] + (1 - decay) * len(taken)
            sums[k] = decay * sums[k] + (1 - decay) * sum(taken, torch.zeros(3))
            torch.testing.assert_close(codebook.vectors[k], sums[k] / counts[k], rtol=1e-3, atol=1e-4)
    assert min(counts) > 0.5


def test_codes_end_at_the_centres_of_clusters() -> None:
    centres = torch.tensor([[4.0, 0], [0, 4], [-4, -4]])
    numbers = torch.randint(3, (8, 4, 4))
    h = centres[numbers].permute(0, 3, 1, 2) + 0.05 * torch.randn(8, 2, 4, 4)
    codebook = Codebook(6, 2)
    codebook.start(h)
    for _ in range(60):
        codebook.follow(codebook.uses(h, codebook(h)), decay=0.8, restarts=True)
    distance = (codebook.lookup(codebook(h)) - h).norm(dim=1).max()
    assert distance < 0.5


def test_only_unused_codes_start_again_and_at_vectors_of_the_batch() -> None:
    codebook, h = Codebook(6, 3), torch.randn(2, 3, 4, 4)
    codebook.vectors[2:] += 100  # so far away that nothing takes them
    before, decay = codebook.vectors.clone(), 0.5 * LEAST_USE
    uses = codebook.uses(h, codebook(h))
    codebook.follow(uses, decay=decay, restarts=True)
    rows = positions(h)
    for k in range(6):
        nearest = (rows - codebook.vectors[k]).norm(dim=1).min()
        assert (nearest < 1e-4) == (k >= 2), k
    assert (codebook.vectors[2:] - before[2:]).norm(dim=1).min() > 10
    torch.testing.assert_close(codebook.shares[2:], torch.full((4,), 1 / 6))
    torch.testing.assert_close(codebook.sums[2:], codebook.vectors[2:] / 6)
    assert len(codebook.vectors.unique(dim=0)) > 3, "each at a vector of its own"


def test_two_workers_have_the_codebook_of_one_with_all_tiles() -> None:
    one, two = Codebook(6, 3), Codebook(6, 3)
    two.load_state_dict(one.state_dict())
    for _ in range(4):
        h = torch.randn(4, 3, 4, 4)
        one.follow(one.uses(h, one(h)), decay=0.7, restarts=False)
        two.follow(mean_of([two.uses(part, two(part)) for part in h.split(2)]), decay=0.7, restarts=False)
        torch.testing.assert_close(two.vectors, one.vectors)
        torch.testing.assert_close(two.shares, one.shares)


def test_two_workers_start_a_code_again_at_a_vector_of_one_of_them() -> None:
    """Not at a mean of both: weights differ by orders. Most of 128 codes lie at a vector of either's batch."""
    codebook, h = Codebook(128, 3), torch.randn(8, 3, 4, 4) * 5
    codebook.vectors += 1000
    codebook.follow(mean_of([codebook.uses(p, codebook(p)) for p in h.split(4)]), decay=0.0, restarts=True)
    distances = torch.cdist(codebook.vectors, positions(h)).min(1).values
    assert (distances < 0.1).float().mean() > 0.75
    halves = [torch.cdist(codebook.vectors, positions(p)).min(1).values < 0.1 for p in h.split(4)]
    assert min(int(half.sum()) for half in halves) > 32, "either is asked"


def test_perplexity_is_the_number_of_codes_where_all_are_used_alike() -> None:
    codebook = Codebook(8, 2)
    assert float(codebook.perplexity()) == pytest.approx(8)
    codebook.shares.copy_(Tensor([0.5, 0.5, 0, 0, 0, 0, 0, 0]))
    assert float(codebook.perplexity()) == pytest.approx(2)
