"""Each term by hand on toy networks; sums, maps, batches, precision, and the fit on normal tiles."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from uadray.detectors.inversion.compared import TermKind
from uadray.detectors.inversion.edges import edge_difference
from uadray.detectors.inversion.normals import Normals, contrast
from uadray.detectors.inversion.terms import NormalsFit, TermConfig, TermsScore, prepare_terms, term_networks
from uadray.detectors.inversion.terms import term_weights as weights_of
from uadray.detectors.losses import relative_perceptual_l1, relative_perceptual_l2
from uadray.detectors.precision import TOLERANCE, LoweredScore
from uadray.detectors.trainee import UnsuitableTilesError, alone
from uadray.errors import WorkError

KINDS: tuple[TermKind, ...] = get_args(TermKind)
SIDE = 32

Parts = tuple[tuple[TermConfig, ...], dict[str, nn.Module], "Toy"]
"""Terms, their networks fitted on simulated tiles, and a judge."""


class Toy(nn.Module):
    """A judge whose features are 2x2 means of red and of green, and whose word is ten times the mean red."""

    def __init__(self, *, is_logistic: bool) -> None:
        super().__init__()
        self.is_logistic = is_logistic

    def features(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x[:, :2], 2)

    def word(self, x: Tensor) -> Tensor:
        return 10 * x[:, 0].mean((1, 2))


def pairs(n: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tiles, and pictures near to them: the distance grows with the tile's contrast."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 8, 8, generator=rng) * (0.2 + 1.6 * torch.rand(n, 1, 1, 1, generator=rng)) - 0.9
    x = nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")
    flat = x.mean((2, 3), keepdim=True)
    part = 0.5 + 0.3 * torch.rand(n, 1, 1, 1, generator=rng)
    return x, flat + part * (x - flat) + 0.02 * torch.randn(x.shape, generator=rng)


@pytest.fixture(scope="module")
def all_terms() -> Parts:
    terms = tuple(TermConfig(kind=kind, weight=0.5, by_contrast=i % 2 == 0) for i, kind in enumerate(KINDS))
    networks, critic = term_networks(terms, input_px=SIDE, pretrained=True), Toy(is_logistic=True)
    x, x_hat = pairs(96, seed=9)
    prepare_terms(networks, x)
    fit = NormalsFit(terms, networks, critic)
    for start in (0, 32, 64):
        told = fit.see(x[start : start + 32], lambda _, start=start: x_hat[start : start + 32])
    assert next(iter(told)) == "0_pixel_l1"
    assert all(math.isfinite(value) for value in told.values())
    fit.finish(alone)
    return terms, networks, critic


def test_pixels_and_critic_by_hand() -> None:
    x, x_hat = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    x[0, 0, 0, 0] = 0.6  # red of one pixel
    x_hat[0, 0] = 0.1
    terms = tuple(TermConfig(kind=kind) for kind in ("pixel_l1", "pixel_l2", "critic", "critic_l2"))
    networks = term_networks(terms, input_px=4, pretrained=False)
    values, maps = TermsScore(terms, networks, Toy(is_logistic=False)).parts(x, x_hat)
    pixel_l1, pixel_l2 = (0.5 + 15 * 0.1) / 48, (0.25 + 15 * 0.01) / 48
    corner = (0.5 - 3 * 0.1) / 4  # the mean difference of the first two by two pixels
    critic, critic_l2 = (corner + 3 * 0.1) / 8, (corner**2 + 3 * 0.01) / 8
    assert values[0].tolist() == pytest.approx([pixel_l1, pixel_l2, critic, critic_l2], rel=1e-5)
    assert float(maps[0][0, 0, 0]) == pytest.approx(0.5 / 3)
    assert float(maps[3][0, 1, 1]) == pytest.approx(0.01 / 2)
    for value, residual in zip(values[0], maps, strict=True):
        assert float(residual.mean()) == pytest.approx(float(value))


def test_word_and_reference_by_hand() -> None:
    x, x_hat = torch.full((2, 3, 4, 4), 0.1), torch.full((2, 3, 4, 4), -0.2)
    x[1] = 0.0
    terms = (TermConfig(kind="word"), TermConfig(kind="reference"))
    networks = term_networks(terms, input_px=4, pretrained=False)
    values, maps = TermsScore(terms, networks, Toy(is_logistic=True)).parts(x, x_hat)
    real, real_hat = 1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(2.0))  # D of x and of x_hat: logits 1 and -2
    assert values[:, 0].tolist() == pytest.approx([1 - real, 0.5])
    assert values[:, 1].tolist() == pytest.approx([-math.log(real_hat)] * 2)
    assert [tuple(residual.shape) for residual in maps] == [(2, 4, 4)] * 2
    assert (maps[0] == values[:, 0].view(2, 1, 1)).all()
    values, _ = TermsScore(terms, networks, Toy(is_logistic=False)).parts(x, x_hat)
    assert values[0].tolist() == pytest.approx([-1.0, 2.0])


def test_features_and_edges_are_what_their_modules_say(all_terms: Parts) -> None:
    terms, networks, critic = all_terms
    x, x_hat = pairs(3)
    values, maps = TermsScore(terms, networks, critic).parts(x, x_hat)
    column = {term.kind: values[:, number] for number, term in enumerate(terms)}
    wide, wide_hat = (nn.functional.interpolate(t, size=(64, 64), mode="bilinear") for t in (x, x_hat))
    torch.testing.assert_close(column["lpips"], networks["lpips"](wide, wide_hat), atol=1e-6, rtol=1e-5)
    features, features_hat = networks["perceptual"](x), networks["perceptual"](x_hat)
    torch.testing.assert_close(column["perceptual_l1"], relative_perceptual_l1(features, features_hat))
    torch.testing.assert_close(column["perceptual_l2"], relative_perceptual_l2(features, features_hat))
    torch.testing.assert_close(column["edges"], edge_difference(x, x_hat).mean((1, 2)))
    for term, residual in zip(terms, maps, strict=True):  # a map says where: its mean is the value
        near = 0.15 if term.kind in ("lpips", "perceptual_l1", "perceptual_l2") else 1e-5
        assert residual.mean((1, 2)).tolist() == pytest.approx(column[term.kind].tolist(), rel=near)


def test_a_sum_is_the_weighted_sum_of_deviations(all_terms: Parts) -> None:
    terms, networks, critic = all_terms
    x, x_hat = pairs(5, seed=2)
    score, residual = TermsScore(terms, networks, critic)(x, x_hat, torch.zeros(5, 1))
    values, _ = TermsScore(terms, networks, critic).parts(x, x_hat)
    expected, normals = torch.zeros(5), networks["normals"]
    assert isinstance(normals, Normals)
    for number, term in enumerate(terms):
        mean, deviation = normals.mean[number], normals.deviation[number]
        if term.by_contrast:
            mean, deviation = normals.of(contrast(x), number)
        expected += 0.5 * (values[:, number] - mean) / deviation
    torch.testing.assert_close(score, expected)
    assert residual.shape == (5, SIDE, SIDE)
    assert score.dtype == residual.dtype == torch.float32


def test_each_tile_by_itself_is_the_same(all_terms: Parts) -> None:
    score = TermsScore(*all_terms)
    x, x_hat = pairs(6, seed=3)
    together, maps = score(x, x_hat, torch.zeros(6, 1))
    lying, lying_hat = (t.contiguous(memory_format=torch.channels_last) for t in (x, x_hat))
    torch.testing.assert_close(score(lying, lying_hat, torch.zeros(6, 1))[0], together, atol=1e-4, rtol=1e-5)
    for number in (0, 5):
        one, its_map = score(x[number : number + 1], x_hat[number : number + 1], torch.zeros(1, 1))
        torch.testing.assert_close(one[0], together[number], atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(its_map[0], maps[number], atol=1e-3, rtol=1e-4)
    assert torch.equal(score(x, x_hat, torch.zeros(6, 1))[0], together)


def test_bfloat16_lowers_the_networks_alone(all_terms: Parts) -> None:
    """Deviations magnify the rounding of features: whether that is allowed is decided by `lower_precision`."""
    terms, networks, critic = all_terms
    score = TermsScore(terms, networks, critic)
    x, x_hat = pairs(16, seed=4)
    full, _ = score(x, x_hat, torch.zeros(16, 1))
    lowered, residual = LoweredScore(score)(x, x_hat, torch.zeros(16, 1))
    assert lowered.dtype == residual.dtype == torch.float32
    assert float((lowered - full).abs().max()) <= 5 * TOLERANCE * float(full.abs().mean())
    assert residual.isfinite().all()
    plain = TermsScore((terms[0], terms[1]), {"normals": only_first(networks["normals"], 2)}, critic)
    assert torch.equal(LoweredScore(plain)(x, x_hat, x)[0], plain(x, x_hat, x)[0])


def only_first(normals: nn.Module, terms: int) -> Normals:
    """What was fitted of the first terms."""
    part = Normals(terms)
    part.load_state_dict({name: t if name == "count" else t[..., :terms] for name, t in normals.state_dict().items()})
    return part


def test_by_contrast_takes_the_contrast_out_of_a_score() -> None:
    x, x_hat = pairs(400, seed=5)
    of_contrast = {}
    for by_contrast in (False, True):
        terms = (TermConfig(kind="pixel_l1", by_contrast=by_contrast),)
        networks = term_networks(terms, input_px=SIDE, pretrained=False)
        fit = NormalsFit(terms, networks, None)
        fit.see(x[:200], lambda _: x_hat[:200])
        fit.finish(alone)
        score, _ = TermsScore(terms, networks, None)(x[200:], x_hat[200:], torch.zeros(200, 1))
        assert abs(float(score.mean())) < 0.25
        assert 0.75 < float(score.std()) < 1.3
        of_contrast[by_contrast] = abs(float(torch.corrcoef(torch.stack([score, contrast(x[200:])]))[0, 1]))
    assert of_contrast[True] < 0.2 < 0.6 < of_contrast[False]


def test_networks_are_those_that_terms_ask_for() -> None:
    pixel, lpips, perceptual = (TermConfig(kind=kind) for kind in ("pixel_l1", "lpips", "perceptual_l2"))
    assert list(term_networks((pixel,), input_px=32, pretrained=False)) == ["normals"]
    assert weights_of((pixel,)) == ()
    named = term_networks((pixel, lpips, perceptual), input_px=32, pretrained=False)
    assert list(named) == ["lpips", "perceptual", "normals"]
    assert weights_of((lpips, perceptual)) == ("alexnet", "lpips_alexnet", "efficientnet_lite0")
    assert all(weight.isnan().all() for weight in named["lpips"].state_dict().values())
    with torch.device("meta"):
        shapes = term_networks((pixel, lpips, perceptual), input_px=32, pretrained=False)
    for name, network in named.items():
        assert {key: t.shape for key, t in network.state_dict().items()} == {
            key: t.shape for key, t in shapes[name].state_dict().items()
        }


def test_what_cannot_be_scored_is_refused() -> None:
    terms = (TermConfig(kind="pixel_l1"),)
    networks = term_networks(terms, input_px=SIDE, pretrained=False)
    x, x_hat = pairs(4)
    with pytest.raises(WorkError, match="train it to its end"):
        TermsScore(terms, networks, None)(x, x_hat, torch.zeros(4, 1))
    with pytest.raises(ValueError, match="need a critic"):
        TermsScore((TermConfig(kind="word"),), networks, None)
    with pytest.raises(ValueError, match="at least one term"):
        TermsScore((), networks, None)
    with pytest.raises(ValueError, match="side_px is for lpips"):
        TermConfig(kind="edges", side_px=64)
    with pytest.raises(UnsuitableTilesError):
        NormalsFit(terms, networks, None).finish(alone)
