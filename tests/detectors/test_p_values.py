"""p-values among normal scores: the share above, a tail that falls on, sums that workers can average; and the rules."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from uadray.detectors.p_values import RULES, NormalScores, Rule, z_of
from uadray.detectors.trainee import UnsuitableTilesError

RNG = np.random.default_rng(0)
NORMAL = torch.from_numpy(np.stack([RNG.normal(3, 2, 20_000), RNG.exponential(1e-3, 20_000)]))
"""Scores of two members, of other sizes and shapes."""


def _fitted(scores: Tensor, *, bins: int = 200) -> NormalScores:
    normal = NormalScores(len(scores), bins=bins)
    normal.place(scores[:, :256])
    for batch in scores.split(1000, dim=1):
        normal.add(normal.tally(batch))
    return normal


def test_p_is_the_share_of_normal_tiles_with_this_score_or_a_higher_one() -> None:
    """Within what lies between two edges, a half percent."""
    normal = _fitted(NORMAL)
    asked = torch.quantile(NORMAL, torch.linspace(0.06, 0.94, 50, dtype=torch.float64), dim=1).T
    expected = (NORMAL[:, None] >= asked[:, :, None]).double().mean(-1)
    assert (normal(asked).exp() - expected).abs().max() < 0.005
    at_edges = normal(normal.edges).exp()
    assert (at_edges - (NORMAL[:, None] >= normal.edges[:, :, None]).double().mean(-1)).abs().max() < 1e-4


def test_the_tail_of_an_exponential_is_found_far_beyond_what_was_seen() -> None:
    """Its log p is -score / length; the highest of 20,000 is about 10 lengths."""
    far = torch.tensor([[0.0], [0.03]])
    assert _fitted(NORMAL)(far)[1].item() == pytest.approx(-30, rel=0.1)


def test_order_is_kept_from_far_below_to_far_above() -> None:
    asked = torch.linspace(-20, 200, 5000, dtype=torch.float64).expand(2, -1) * torch.tensor([[1.0], [1e-3]])
    log_p = _fitted(NORMAL)(asked)
    assert (log_p.diff(dim=1) <= 0).all()
    assert (log_p[:, -1000:].diff(dim=1) < 0).all()
    assert (log_p <= 0).all()
    assert torch.isfinite(z_of(log_p)).all()


def test_means_of_two_workers_tallies_are_the_whole() -> None:
    whole, halves = _fitted(NORMAL), NormalScores(2, bins=200)
    halves.place(NORMAL[:, :256])
    tallies = [halves.tally(half) for half in NORMAL.chunk(2, dim=1)]
    halves.add(torch.stack(tallies).mean(0))
    asked = NORMAL[:, :500]
    torch.testing.assert_close(whole(asked), halves(asked), atol=1e-3, rtol=0)


def test_what_is_no_number_stays_none() -> None:
    assert _fitted(NORMAL)(torch.tensor([[torch.nan], [0.001]]))[0].isnan().all()


def test_a_member_that_says_nothing_is_refused() -> None:
    normal = NormalScores(2, bins=20)
    normal.place(torch.stack([NORMAL[0], torch.ones(20_000, dtype=torch.float64)]))
    with pytest.raises(UnsuitableTilesError, match="member 2 gives nearly all normal tiles the score 1"):
        normal.check_edges()


P = np.array([[0.5, 1e-3, 0.04, 0.9], [0.2, 0.3, 0.03, 0.95], [0.7, 0.6, 0.02, 0.99]])
"""Of three members (rows) for four tiles."""


@pytest.mark.parametrize(
    ("rule", "method", "expected"),
    [("fisher", "fisher", lambda value: value / 2), ("stouffer", "stouffer", lambda value: value)],
)
def test_the_rules_are_those_of_scipy(rule: Rule, method: str, expected: object) -> None:
    got = RULES[rule](torch.from_numpy(P).log(), torch.ones(3, dtype=torch.float64))
    statistics = [stats.combine_pvalues(column, method=method).statistic for column in P.T]
    np.testing.assert_allclose(got, [expected(value) for value in statistics], rtol=1e-9)  # type: ignore[operator]


def test_the_rules_with_weights() -> None:
    weights, log_p = torch.tensor([2.0, 0.5, 0.5], dtype=torch.float64), torch.from_numpy(P).log()
    lip = [stats.combine_pvalues(column, method="stouffer", weights=weights.numpy()).statistic for column in P.T]
    np.testing.assert_allclose(RULES["stouffer"](log_p, weights), lip, rtol=1e-9)
    np.testing.assert_allclose(RULES["fisher"](log_p, weights), -(np.log(P) * weights.numpy()[:, None]).sum(0))
    least = (P / weights.numpy()[:, None]).min(0)
    np.testing.assert_allclose(RULES["minimum"](log_p, weights), -np.log(3 * least))


@pytest.mark.parametrize("log_p", [-1e-14, -0.1, -1.0, -29.99, -30.01, -700.0, -1e5])
def test_z_has_this_tail_however_small_it_is(log_p: float) -> None:
    z = z_of(torch.tensor([log_p], dtype=torch.float64)).item()
    assert stats.norm.logsf(z) == pytest.approx(log_p, rel=1e-9)
