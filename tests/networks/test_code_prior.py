"""The prior of codes: a density over grids by brute force, causality, draws, and one position at a time."""

from itertools import product

import pytest
import torch
from torch import Tensor

from uadray.networks.code_prior import CodePrior, drawn_code

pytestmark = pytest.mark.usefixtures("torch_alone")

GRIDS = torch.tensor(list(product(range(3), repeat=4)))
"""All 81 grids of 2 x 2 positions and 3 codes."""


@pytest.fixture
def prior() -> CodePrior:
    """Of weights so large that codes are far from equally probable."""
    prior = CodePrior(codes=3, positions=4, width=8, layers=2, heads=2)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return prior.eval()


@torch.no_grad()
def test_all_grids_together_have_probability_one(prior: CodePrior) -> None:
    p = (-prior.nll(GRIDS).double().sum(1)).exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-5)
    assert float(p.max() / p.min()) > 10, "far from equally probable"


@torch.no_grad()
def test_nll_is_that_of_conditionals_by_brute_force(prior: CodePrior) -> None:
    """-log p(code | codes before it) from sums over all grids, which know of no order of computation."""
    p = (-prior.nll(GRIDS).double().sum(1)).exp()
    for grid in GRIDS[::7]:
        found = prior.nll(grid[None])[0]
        for position in range(4):
            agrees = [(GRIDS[:, :upto] == grid[:upto]).all(1) for upto in (position, position + 1)]
            expected = p[agrees[0]].sum().log() - p[agrees[1]].sum().log()
            assert float(found[position]) == pytest.approx(float(expected), abs=1e-4)


@torch.no_grad()
def test_a_later_code_changes_no_earlier_nll(prior: CodePrior) -> None:
    grid = torch.tensor([[0, 2, 1, 0]])
    for position in range(4):
        others = grid.repeat(3, 1)
        others[:, position] = torch.arange(3)
        nll = prior.nll(others)
        assert torch.equal(nll[0, :position], nll[1, :position])
        assert torch.equal(nll[0, :position], nll[2, :position])
        if position < 3:
            assert nll[:, position + 1 :].std(0).min() > 0, "and what comes after depends on it"


@torch.no_grad()
def test_one_position_at_a_time_as_all_at_once(prior: CodePrior) -> None:
    seen, before = prior.empty(len(GRIDS)), torch.full((len(GRIDS),), 3)
    for position in range(4):
        logits = prior.next_logits(before, seen, position)
        torch.testing.assert_close(logits, prior(GRIDS)[:, position], rtol=1e-4, atol=1e-5)
        before = GRIDS[:, position]


@torch.no_grad()
def test_draws_have_the_priors_probabilities(prior: CodePrior) -> None:
    """All codes drawn anew: grids come as often as they are probable."""
    n = 20_000
    drawn = prior.restored(torch.zeros(n, 4, dtype=torch.int64), torch.rand(n, 4), threshold=-1.0)
    often = torch.bincount((drawn * torch.tensor([27, 9, 3, 1])).sum(1), minlength=81) / n
    p = (-prior.nll(GRIDS).sum(1)).exp()
    assert (often - p).abs().max() < 4 * (0.25 / n) ** 0.5


@torch.no_grad()
def test_only_improbable_codes_are_drawn_anew_given_what_came_before(prior: CodePrior) -> None:
    threshold, uniforms = 1.5, torch.rand(81, 4)
    restored = prior.restored(GRIDS, uniforms, threshold=threshold)
    for grid, found, uniform in zip(GRIDS, restored, uniforms, strict=True):
        expected = grid.clone()
        for position in range(4):
            p = prior(expected[None])[0, position].softmax(0)
            if -p[grid[position]].log() > threshold:
                expected[position] = int((p.cumsum(0) <= uniform[position]).sum())
        assert torch.equal(found, expected)
    is_probable = (prior.nll(GRIDS) <= threshold).all(1)
    assert torch.equal(restored[is_probable], GRIDS[is_probable])
    assert 0 < int(is_probable.sum()) < 81


def test_a_number_in_0_1_tells_the_code() -> None:
    log_p = torch.tensor([0.2, 0.0, 0.5, 0.3]).log().expand(5, 4)
    assert drawn_code(log_p, Tensor([0.0, 0.19, 0.21, 0.69, 0.99999999])).tolist() == [0, 0, 2, 2, 3]


def test_it_learns_a_rule() -> None:
    """Each code is the one before it plus one: after the first nothing is left to know."""
    prior = CodePrior(codes=3, positions=4, width=16, layers=1, heads=2)
    grids = (torch.arange(3)[:, None] + torch.arange(4)) % 3
    adam = torch.optim.Adam(prior.parameters(), lr=0.01)
    for _ in range(120):
        adam.zero_grad()
        prior.nll(grids).mean().backward()
        adam.step()
    nll = prior.nll(grids).mean(0).detach()
    assert float(nll[0]) == pytest.approx(1.0986, abs=0.05)
    assert nll[1:].max() < 0.05
