"""Deep GEO: transformations undone, distributions against scipy, and that it learns an up where there is one."""

from collections.abc import Iterable

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import torch
from networks_watch import moved, state_of
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from uadray.detectors import deep_geo
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.deep_geo import (
    LEAST,
    DirichletScore,
    Trainee,
    TransformedOutputs,
    count_of,
    pixel_sources,
    transformed,
)
from uadray.detectors.densities.dirichlet import dirichlet_mle
from uadray.detectors.pixels import to_pixels
from uadray.detectors.trainee import UnsuitableTilesError
from uadray.networks.wide_resnet import WideResNet

pytestmark = pytest.mark.usefixtures("torch_alone")

GEO = deep_geo.Config(kind="deep_geo", input_px=16)
TURNS = deep_geo.Config(kind="deep_geo", input_px=16, transformations=("rotation",), learning_rate=1e-2)


def upright(n: int) -> Tensor:
    """Tiles that are bright above and dark below, with some noise."""
    slope = torch.linspace(0.8, -0.8, 16).view(1, 1, 16, 1).expand(n, 3, 16, 16)
    return (slope + 0.1 * torch.randn(n, 3, 16, 16)).clamp(-1, 1)


def trainee_of(config: deep_geo.Config) -> Trainee:
    torch.manual_seed(0)
    trainee = build_trainee(config, build_networks(config))
    assert isinstance(trainee, Trainee)
    return trainee


def test_seventy_two_transformations_invert() -> None:
    """Turned back, moved back, flipped back; what was moved out of the tile is gone, and nothing else."""
    x = torch.rand(1, 3, 16, 16)
    sources = pixel_sources(GEO)
    assert sources.shape == (72, 256)
    assert len({tuple(row.tolist()) for row in sources}) == 72
    number = 0
    for flip in (False, True):
        for down in (0, -4, 4):
            for right in (0, -4, 4):
                for turn in range(4):
                    found = torch.rot90(transformed(x, sources[number][None]), -turn, (2, 3)).roll(
                        (-down, -right), (2, 3)
                    )
                    found = found.flip(3) if flip else found
                    kept = torch.ones(16, 16).roll((0, 0), (0, 1))
                    kept[16 - down :], kept[: max(0, -down)] = 0, 0
                    columns = torch.ones(16)
                    columns[16 - right :], columns[: max(0, -right)] = 0, 0
                    kept = kept * (columns.flip(0) if flip else columns)
                    assert torch.equal(found * kept, x * kept), (flip, down, right, turn)
                    assert kept.sum() == (16 - abs(down)) * (16 - abs(right))
                    number += 1
    assert torch.equal(transformed(x, sources[:1]), x)


def test_what_enters_is_mirrored() -> None:
    x = torch.arange(16.0).view(1, 1, 1, 16).expand(1, 3, 16, 16)
    config = deep_geo.Config(kind="deep_geo", input_px=16, transformations=("translation",))
    right = transformed(x, pixel_sources(config)[2][None])
    assert right[0, 0, 0].tolist() == [3, 2, 1, 0, *range(12)]


@pytest.mark.parametrize(
    ("kinds", "count"),
    [(("flip",), 2), (("translation",), 9), (("rotation", "flip"), 8), (("flip", "translation"), 18)],
)
def test_kinds_are_put_together(kinds: tuple[str, ...], count: int) -> None:
    config = deep_geo.Config.model_validate({"kind": "deep_geo", "input_px": 16, "transformations": kinds})
    assert count_of(config) == len(pixel_sources(config)) == count


@pytest.mark.parametrize(
    "values", [{"depth": 12}, {"transformations": []}, {"transformations": ["flip", "flip"]}, {"input_px": 512}]
)
def test_configurations_that_cannot_be_built(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        deep_geo.Config.model_validate({"kind": "deep_geo"} | values)


def test_a_wide_network_has_the_papers_size() -> None:
    """WRN-10-4 counted by hand: convolutions, normalisations, the last layer."""
    network = WideResNet(depth=10, widen=4, classes=72)
    convolutions = 9 * 3 * 16 + 9 * 64 * (16 + 64) + 9 * 128 * (64 + 128) + 9 * 256 * (128 + 256)
    shortcuts = 16 * 64 + 64 * 128 + 128 * 256
    norms = 2 * (16 + 64 + 64 + 128 + 128 + 256 + 256)
    assert sum(p.numel() for p in network.parameters()) == convolutions + shortcuts + norms + 256 * 72 + 72
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 72)
    assert network.layers[:-2](torch.zeros(2, 3, 32, 32)).shape == (2, 256, 8, 8)


def test_the_distributions_are_the_likeliest() -> None:
    """Found again from draws, and no worse than what scipy finds."""
    true = np.array([[0.3, 2.0, 5.0], [40.0, 1.0, 9.0]])
    rng = np.random.default_rng(0)
    draws = np.stack([rng.dirichlet(row, 4000) for row in true])
    mean_p, mean_log_p = draws.mean(1), np.log(draws).mean(1)
    found = dirichlet_mle(torch.from_numpy(mean_p), torch.from_numpy(mean_log_p)).numpy()
    np.testing.assert_allclose(found, true, rtol=0.1)

    def loss(log_alpha: np.ndarray, row: int) -> float:  # type: ignore[type-arg]
        alpha = np.exp(log_alpha)
        norm = scipy.special.gammaln(alpha.sum()) - scipy.special.gammaln(alpha).sum()
        return float(-norm - ((alpha - 1) * mean_log_p[row]).sum())

    for row in range(2):
        best = scipy.optimize.minimize(loss, np.zeros(3), args=(row,), method="BFGS")
        assert loss(np.log(found[row]), row) <= best.fun + 1e-6
        np.testing.assert_allclose(found[row], np.exp(best.x), rtol=1e-3)


def test_the_score_is_the_papers() -> None:
    alpha = torch.rand(3, 3) * 4 + 0.5
    p = torch.rand(2, 3, 3).softmax(2)
    score, maps = DirichletScore(alpha, is_simple=False)(p, None, p)
    expected = torch.zeros(2)
    for n in range(2):
        for t in range(3):
            expected[n] -= sum((alpha[t, k] - 1) * torch.log(p[n, t, k] + LEAST) for k in range(3)) / 3
    torch.testing.assert_close(score * (alpha - 1).abs().sum(1).mean(), expected)
    assert torch.equal(maps, score.view(2, 1, 1))
    simple, _ = DirichletScore(alpha, is_simple=True)(p, None, p)
    torch.testing.assert_close(simple, -torch.stack([p[:, t, t] for t in range(3)]).mean(0))


def test_outputs_are_those_of_each_transformation() -> None:
    networks = build_networks(TURNS)
    classifier = networks["classifier"].eval()
    x = upright(3)
    with torch.no_grad():
        p = TransformedOutputs(TURNS, classifier)(x)
        for turn in range(4):
            expected = classifier(torch.rot90(x, turn, (2, 3))).softmax(1)
            torch.testing.assert_close(p[:, turn], expected, rtol=1e-4, atol=1e-6)


def test_every_step_moves_what_it_may() -> None:
    trainee = trainee_of(GEO)
    x = upright(8)
    before = state_of(trainee.networks)
    line = trainee.step(x, 0.0)
    assert moved(trainee.networks, before) == {"classifier"}
    assert 0 < float(line["cross_entropy"]) < 3 * np.log(72)
    before = state_of(trainee.networks)
    trainee.step(x, 0.95)
    assert moved(trainee.networks, before) == {"outputs"}
    assert float(trainee.outputs.count) == 2
    torch.testing.assert_close(trainee.outputs.p.sum(1), torch.full((72,), 2.0).double(), rtol=1e-5, atol=1e-5)
    trainee.finish()
    assert bool(trainee.outputs.alpha.isfinite().all())


def test_workers_average_gradients_and_outputs() -> None:
    """Another worker's zeros halve both; the count is of what one of them saw, as the sums are."""
    given: list[list[Tensor]] = []

    def halve(tensors: Iterable[Tensor]) -> None:
        given.append(list(tensors))
        for tensor in given[-1]:
            tensor.mul_(0.5)

    trainee = build_trainee(TURNS, build_networks(TURNS), average=halve)
    trainee.step(upright(16), 0.0)
    parameters = list(trainee.networks["classifier"].parameters())
    assert [id(t) for t in given[0]] == [id(p.grad) for p in parameters]
    trainee.step(upright(16), 0.95)
    outputs = trainee.networks["outputs"]
    assert float(outputs.get_buffer("count")) == 1
    torch.testing.assert_close(outputs.get_buffer("p").sum(1), torch.ones(4).double(), rtol=1e-5, atol=1e-5)


def test_a_training_without_distributions_is_none() -> None:
    with pytest.raises(UnsuitableTilesError, match="give it more steps"):
        trainee_of(GEO).finish()


def test_it_learns_an_up_and_finds_what_has_another() -> None:
    trainee = trainee_of(TURNS)
    losses = [float(trainee.step(upright(32), i / 40)["cross_entropy"]) for i in range(30)]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    for _ in range(5):
        trainee.step(upright(32), 0.95)
    trainee.finish()
    normal, abnormal = to_pixels(upright(20)), to_pixels(torch.rot90(upright(20), 1, (2, 3)))
    for score in ("dirichlet", "softmax"):
        detector = build_detector(TURNS.model_copy(update={"score": score}), trainee.networks)
        assert detector(normal).score.max() < detector(abnormal).score.min(), score


def test_cross_entropy_is_of_what_was_done() -> None:
    trainee = trainee_of(TURNS)
    x = upright(8)
    torch.manual_seed(5)
    line = trainee.step(x, 0.0)
    again = trainee_of(TURNS)
    torch.manual_seed(5)
    done = torch.randint(4, (8,))
    turned = torch.stack([torch.rot90(tile, int(turn), (1, 2)) for tile, turn in zip(x, done, strict=True)])
    logits = again.classifier.train()(turned)
    torch.testing.assert_close(line["cross_entropy"], F.cross_entropy(logits, done), rtol=1e-4, atol=1e-5)
