"""Memory-augmented autoencoder: its loss against the paper's formula, what a step moves, and what it finds."""

import math

import pytest
import torch
from disc_pictures import discs, share_above, striped
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor, nn

from uadray.detectors import memory_autoencoder
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.memory_autoencoder import Trainee
from uadray.detectors.pixels import to_pixels

pytestmark = pytest.mark.usefixtures("torch_alone")

MEMORY = memory_autoencoder.Config(
    kind="memory_autoencoder", input_px=16, width=8, halvings=2, latent_channels=8, items=10, learning_rate=1e-2,
    entropy_weight=0.01,
)  # fmt: skip


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(7)
    return smooth_pictures()


def trainee_of(config: memory_autoencoder.Config) -> Trainee:
    torch.manual_seed(0)
    trainee = build_trainee(config, build_networks(config))
    assert isinstance(trainee, Trainee)
    return trainee


@pytest.mark.parametrize("values", [{"input_px": 36}, {"items": 1}, {"threshold": -1}, {"addressing": "none"}])
def test_configurations_that_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        memory_autoencoder.Config.model_validate({"kind": "memory_autoencoder"} | values)


def test_the_threshold_is_a_multiple_of_an_even_weight() -> None:
    memory = build_networks(MEMORY.model_copy(update={"threshold": 1.5}))["memory"]
    assert memory.threshold == pytest.approx(0.15)


def test_the_loss_is_the_papers(x: Tensor) -> None:
    """Both terms by loops over numbers, and the gradient of their weighted sum by a finite difference."""
    trainee = trainee_of(MEMORY)
    for network in trainee.networks.values():
        network.eval()
    trainee.optimizers["autoencoder"].step = lambda *_: None  # type: ignore[method-assign, assignment]

    def terms() -> tuple[float, float]:
        with torch.no_grad():
            weights = trainee.memory.addressing(trainee.encoder(x))
            x_hat = trainee.decoder(trainee.memory.recalled(weights))
        error = sum((a - b) ** 2 for a, b in zip(x.flatten().tolist(), x_hat.flatten().tolist(), strict=True))
        spread = sum(-w * math.log(w) for w in weights.flatten().tolist() if w > 0)
        return error / x.numel(), spread / (len(x) * 16)

    told = trainee.step(x, 0.0)
    error, spread = terms()
    assert float(told["error"]) == pytest.approx(error, rel=1e-5)
    assert float(told["entropy"]) == pytest.approx(spread, rel=1e-5)
    items = trainee.memory.items
    assert items.grad is not None
    direction = items.grad / items.grad.norm()
    sides = []
    for width in (1e-3, -1e-3):
        with torch.no_grad():
            items.add_(width * direction)
            at = terms()
            items.sub_(width * direction)
        sides.append(at[0] + 0.01 * at[1])
    assert float(items.grad.norm()) == pytest.approx((sides[0] - sides[1]) / 2e-3, rel=0.02)


def test_a_step_moves_all_three(x: Tensor) -> None:
    trainee = trainee_of(MEMORY)
    before = state_of(trainee.networks)
    trainee.step(x, 0.0)
    assert moved(trainee.networks, before) == {"encoder", "memory", "decoder"}


def test_the_entropy_term_makes_recalling_sparser(x: Tensor) -> None:
    spreads = []
    for weight in (0.0, 1.0):
        trainee = trainee_of(MEMORY.model_copy(update={"entropy_weight": weight, "threshold": 0.0}))
        spreads.append(float([trainee.step(x, 0.0) for _ in range(25)][-1]["entropy"]))
    assert spreads[1] < spreads[0] - 0.01


def test_the_score_is_the_mean_squared_error_and_the_map_its_pixels(x: Tensor) -> None:
    networks = trainee_of(MEMORY).networks
    detector = build_detector(MEMORY, networks)
    pixels = to_pixels(x)
    (seen,) = detector.inputs(pixels)
    with torch.no_grad():
        x_hat = networks["decoder"](networks["memory"](networks["encoder"](seen)))
    scored = detector(pixels)
    torch.testing.assert_close(torch.from_numpy(scored.score).float(), (seen - x_hat).square().mean((1, 2, 3)))
    torch.testing.assert_close(torch.from_numpy(scored.maps([2, 0])), (seen - x_hat).square().mean(1)[[2, 0]])


def test_what_is_not_in_the_memory_scores_higher() -> None:
    """After learning discs: discs with stripes."""
    trainee = trainee_of(MEMORY.model_copy(update={"width": 4}))
    torch.manual_seed(3)
    normals = discs(96)
    for step in range(60):
        trainee.step(normals[8 * (step % 8) :][:8], 0.0)
    score = build_detector(MEMORY, trainee.networks)(to_pixels(torch.cat([normals[64:], striped(normals[64:])]))).score
    assert share_above(score[32:], score[:32]) > 0.9


def test_a_score_depends_on_no_other_tile(x: Tensor) -> None:
    trainee = trainee_of(MEMORY)
    trainee.step(x, 0.0)
    detector = build_detector(MEMORY, trainee.networks)
    alone = [float(detector(to_pixels(x[i : i + 1])).score[0]) for i in range(4)]
    together = detector(to_pixels(x.flip(0))).score[::-1][:4]
    assert together.tolist() == pytest.approx(alone, rel=1e-5)


def test_other_networks_are_refused() -> None:
    with pytest.raises(TypeError, match="found Identity"):
        build_trainee(MEMORY, build_networks(MEMORY) | {"memory": nn.Identity()})
