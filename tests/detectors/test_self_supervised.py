"""The encoder learns from views, then stands still; the density is fitted to it as it will score."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor

from uadray.detectors import self_supervised
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.pixels import to_input
from uadray.detectors.self_supervised import Config, rate_share, spread
from uadray.networks.outline import Networks

pytestmark = pytest.mark.usefixtures("torch_alone")

SMALL: dict[str, Any] = {
    "kind": "self_supervised", "input_px": 16, "encoder": {"width": 4, "stem": "full"}, "views": {"view_px": 16},
    "projector_width": 16, "projected": 8, "components": 4, "density_share": 0.25,
}  # fmt: skip
PIXELS = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)


def _config(**fields: Any) -> Config:
    return Config.model_validate(SMALL | fields)


def _trained(config: Config, *, steps: int = 40, batch: int = 16) -> tuple[Networks, list[dict[str, float]]]:
    """Networks after some steps on 64 pictures, and the losses of each."""
    networks = build_networks(config)
    trainee = build_trainee(config, networks)
    x = smooth_pictures(n=64)
    losses = []
    for step in range(steps):
        for network in networks.values():
            network.train()
        given = trainee.step(x[torch.randperm(64)[:batch]], step / steps)
        losses.append({name: float(value) for name, value in given.items()})
    trainee.finish()
    return networks, losses


@pytest.mark.parametrize("objective", ["simclr", "vicreg"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_loss_falls(objective: str, optimizer: str) -> None:
    rate = {"adamw": 3e-3, "sgd": 3e-2}[optimizer] * (0.1 if (objective, optimizer) == ("vicreg", "sgd") else 1)
    _, losses = _trained(_config(objective=objective, optimizer=optimizer, learning_rate=rate), steps=60)
    values = [line["loss"] for line in losses if "loss" in line]
    assert len(values) == 45
    assert np.mean(values[-8:]) < {"simclr": 0.9, "vicreg": 0.95}[objective] * np.mean(values[:4])
    assert all(line["spread"] > 0.2 for line in losses if "loss" in line), "the views did not collapse into one point"


def test_losses_are_tensors_that_nobody_waited_for() -> None:
    trainee = build_trainee(_config(objective="vicreg"), build_networks(_config()))
    losses = trainee.step(smooth_pictures(), 0.1)
    assert all(isinstance(loss, Tensor) and not loss.requires_grad for loss in losses.values())
    assert set(losses) == {"loss", "invariance", "variance", "covariance", "spread"}
    weights = {"invariance": 25, "variance": 25, "covariance": 1}
    assert float(losses["loss"]) == pytest.approx(sum(w * float(losses[name]) for name, w in weights.items()), rel=1e-5)


def test_the_encoder_stands_still_in_the_phase_of_the_density() -> None:
    config = _config()
    networks = build_networks(config)
    trainee = build_trainee(config, networks)
    unfitted = {"projection"}  # it is NaN, which no comparison calls the same
    before = state_of(networks)
    trainee.step(smooth_pictures(), 0.5)
    assert moved(networks, before) - unfitted == {"features", "projector"}
    before = state_of(networks)
    for progress in (0.75, 0.9):
        for network in networks.values():
            network.train()
        trainee.step(smooth_pictures(), progress)
    trainee.finish()
    assert moved(networks, before) - unfitted == {"moments"}
    assert all(t.isfinite().all() for t in networks["projection"].state_dict().values())


def test_the_residual_is_the_length_outside_the_principal_subspace() -> None:
    """By hand, of the features of all tiles that the density has seen."""
    config = _config()
    networks = build_networks(config)
    trainee = build_trainee(config, networks)
    x = smooth_pictures(n=64)
    for step in range(8):
        trainee.step(x[8 * step : 8 * step + 8], 0.75 + step / 40)
    trainee.finish()
    found = build_detector(config, networks)(PIXELS).score
    with torch.no_grad():
        seen, asked = (networks["features"](t).flatten(1).double().numpy() for t in (x, to_input(PIXELS, 16)))
    centred = seen - seen.mean(0)
    outside = np.linalg.svd(centred)[2][4:].T
    lengths = [np.linalg.norm((rows - seen.mean(0)) @ outside, axis=1) for rows in (seen, asked)]
    np.testing.assert_allclose(found, lengths[1] / np.sqrt((lengths[0] ** 2).mean()), rtol=1e-3)


@pytest.mark.parametrize("density", ["mahalanobis", "mixture", "knn", "lof"])
def test_every_density_is_fitted_and_batches_change_nothing(density: str) -> None:
    config = _config(density=density, density_share=0.5, neighbours=3)
    networks, losses = _trained(config, steps=24)
    detector = build_detector(config, networks)
    together = detector(PIXELS).score
    assert np.isfinite(together).all()
    assert together.std() > 0
    alone = np.concatenate([detector(PIXELS[i : i + 1]).score for i in range(len(PIXELS))])
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-5)
    assert "loss" not in losses[-1]


def test_the_projector_is_not_asked_for() -> None:
    config = _config()
    networks, _ = _trained(config, steps=16)
    expected = build_detector(config, networks)(PIXELS).score
    kept = {name: network for name, network in networks.items() if name in ("features", "projection")}
    np.testing.assert_array_equal(build_detector(config, kept)(PIXELS).score, expected)


def test_cells_have_a_map() -> None:
    config = _config(pooling="cells", encoder={"width": 4, "stem": "full", "layers": ["stage2", "stage3"]})
    networks, _ = _trained(config, steps=16)
    scored = build_detector(config, networks)(PIXELS)
    maps = scored.maps(range(9))
    assert maps.shape == (9, 4, 4)
    np.testing.assert_allclose(scored.score, maps.mean((1, 2)), rtol=1e-5)


def test_an_encoder_may_start_from_imagenet() -> None:
    config = _config(
        input_px=32, encoder={"network": "efficientnet_lite0", "layers": ["block2"]}, views={"view_px": 32}
    )
    assert self_supervised.borrowed_weights(config) == ("efficientnet_lite0",)
    networks = build_networks(config)
    before = state_of(networks)
    build_trainee(config, networks).step(smooth_pictures(n=4, side_px=32), 0.1)
    assert {"features", "projector"} <= moved(networks, before) | {"features"}
    name = "encoder._bn0.running_mean"
    assert not torch.equal(networks["features"].state_dict()[name], before["features"][name])
    assert self_supervised.borrowed_weights(_config()) == ()


def test_bfloat16_does_not_reach_losses_or_the_density() -> None:
    config = _config()
    networks = build_networks(config)
    trainee = build_trainee(config, networks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert trainee.step(smooth_pictures(), 0.1)["loss"].dtype == torch.float32  # type: ignore[union-attr]
        before = networks["features"].state_dict()["encoder.stem.0.weight"].dtype
        trainee.step(smooth_pictures(), 0.8)
    with torch.no_grad():
        expected = networks["features"](smooth_pictures()).flatten(1).double().std(0)
    assert before == torch.float32
    assert expected.dtype == torch.float64


def test_workers_start_the_density_from_the_same_statistics() -> None:
    """Those of batch norm are each worker's own until then."""
    asked: list[int] = []

    def average(tensors: Iterable[Tensor]) -> None:
        asked.append(len(list(tensors)))

    config = _config()
    networks = build_networks(config)
    trainee = build_trainee(config, networks, average=average)
    trainee.step(smooth_pictures(), 0.8)
    norms = [m for m in networks["features"].modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert asked[0] == 2 * (len(norms) + 1), "and the projector's"
    trainee.step(smooth_pictures(), 0.9)
    assert asked.count(asked[0]) == 1


def test_the_rate_rises_then_falls() -> None:
    shares = [rate_share(p, warm_up=0.1) for p in np.linspace(0, 1, 101)]
    assert shares[0] == 0
    assert max(shares) == shares[10] == 1
    assert shares[-1] == pytest.approx(0)
    assert np.all(np.diff(shares[10:]) <= 0)
    assert rate_share(0.0, warm_up=0.0) == 1


def test_weights_decay_and_norms_do_not() -> None:
    optimizer = build_trainee(_config(weight_decay=0.1), build_networks(_config())).optimizers["encoder"]
    decayed = {p.dim() > 1: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decayed == {True: 0.1, False: 0.0}


def test_the_spread_tells_collapse() -> None:
    assert float(spread(torch.randn(2000, 32))) == pytest.approx(1, abs=0.02)
    assert float(spread(torch.ones(10, 32))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"views": {"view_px": 32}}, "view_px 32 is larger than input_px 16"),
        ({"encoder": {"network": "efficientnet_lite0"}}, "multiples of 32"),
        ({"encoder": {"layers": ["block1"]}}, "layers of resnet18"),
        ({"encoder": {"width": 4096}}, "less than or equal to 128"),
        ({"components": None}, "needs components"),
        ({"input_px": 1024, "encoder": {"enlarged": 4}}, "at most 2048"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _config(**fields)
    assert _config().least_steps == math.ceil(4 / 0.25)
