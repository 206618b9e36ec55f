"""PGAN and StyleGAN in training: what a step moves, what growth changes, what pictures are drawn from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor

from uadray.detectors.trainee import alone
from uadray.errors import InputError
from uadray.generators import pgan, stylegan
from uadray.generators.averaging import follow_shown
from uadray.generators.catalog import outline_of
from uadray.training.checkpoint import load_state, save_state

pytestmark = pytest.mark.usefixtures("torch_alone")

SIZES: dict[str, Any] = {
    "input_px": 16, "latent_dim": 8, "channel_max": 8, "channel_base": 128, "stage_images": 64, "fade_images": 64,
}  # fmt: skip
FILES: list[tuple[Any, Any, str]] = [
    (pgan, pgan.Config(kind="pgan", half_life_images=64, **SIZES), "critic"),
    (stylegan, stylegan.Config(kind="stylegan", half_life_images=64, w_dim=8, **SIZES), "discriminator"),
]
both = pytest.mark.parametrize(("file", "config", "opponent"), FILES, ids=["pgan", "stylegan"])


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return smooth_pictures()


def _trainee(file: Any, config: Any, images: int = 10_000) -> Any:
    torch.manual_seed(0)
    trainee = file.Trainee(config, file.networks(config, pretrained=False), average=alone)
    trainee.counts["images_shown"] = images
    return trainee


def _follow(trainee: Any) -> None:
    """Move the average as a step does."""
    half_life = trainee.config.half_life_images
    follow_shown(trainee.networks["average"], trainee.generator, trainee.counts, half_life_images=half_life)


def _steps(trainee: Any, x: Tensor, n: int) -> list[dict[str, Tensor]]:
    """Steps as the loop makes them."""
    found = []
    for _ in range(n):
        found.append(trainee.step(x, 0.0))
        trainee.counts["images_shown"] += len(x)
    return found


@both
def test_each_step_moves_its_own_network(file: Any, config: Any, opponent: str, x: Tensor) -> None:
    trainee = _trainee(file, config)
    trainee.prepare(x)
    for step, name in ((getattr(trainee, f"{opponent}_step"), opponent), (trainee.generator_step, "generator")):
        before = state_of(trainee.networks)
        step([(x, 1.0)])
        assert moved(trainee.networks, before) == {name}
    assert all(p.requires_grad for p in trainee.networks[opponent].parameters())
    assert all(p.grad is None for p in trainee.networks["average"].parameters())


@both
def test_losses_are_tensors_that_nobody_has_waited_for(file: Any, config: Any, opponent: str, x: Tensor) -> None:
    (losses,) = _steps(_trainee(file, config), x, 1)
    names = {"critic": {"wasserstein", "gradient_penalty", "drift"}, "discriminator": {"discriminator", "r1"}}
    assert losses.keys() == names[opponent] | {"generator"}
    assert all(isinstance(value, Tensor) and not value.requires_grad and value.isfinite() for value in losses.values())


@both
def test_the_opponent_learns_to_tell(file: Any, config: Any, opponent: str, x: Tensor) -> None:
    trainee = _trainee(file, config.model_copy(update={"learning_rate": 3e-3}))
    trainee.prepare(x)
    name, sign = {"critic": ("wasserstein", 1), "discriminator": ("discriminator", -1)}[opponent]
    step = getattr(trainee, f"{opponent}_step")
    values = [sign * step([(x, 1.0)])[name].item() for _ in range(40)]
    assert sum(values[-5:]) / 5 > sum(values[:5]) / 5 + 0.1


@both
def test_a_training_goes_through_its_phases_and_ends_with_all_layers(
    file: Any, config: Any, opponent: str, x: Tensor
) -> None:
    trainee = _trainee(file, config, images=0)
    trainee.prepare(x)
    phases = []
    for _ in range(-(-config.growing_images // 32) + 1):
        phases.append(trainee.phase(0.0))
        _steps(trainee, x.repeat(4, 1, 1, 1), 1)
    assert tuple(dict.fromkeys(phases)) == trainee.phases
    for network in trainee.networks.values():
        assert (network.growth.side_px, network.growth.fading) == (16, False)
    assert trainee.reconstruct(x).shape == x.shape


@both
def test_parts_of_a_batch_make_the_step_of_the_whole(file: Any, config: Any, opponent: str, x: Tensor) -> None:
    """Where nothing is drawn within a step: the opponent's scores of real images, whose groups are the parts."""
    real = x.repeat_interleave(2, dim=0)[: 2 * len(x)]
    moves = []
    for parts in ([(real, 1.0)], [(real[0::2], 0.5), (real[1::2], 0.5)]):
        trainee = _trainee(file, config)
        network, optimizer = trainee.networks[opponent], torch.optim.SGD(trainee.networks[opponent].parameters(), lr=1)
        before = [p.detach().clone() for p in network.parameters()]
        told = file.update(network, optimizer, parts, lambda t, net=network: _mean_feature(net, t), average=alone)
        moves.append([p.detach() - b for p, b in zip(network.parameters(), before, strict=True)] + [told["feature"]])
    torch.testing.assert_close(moves[0], moves[1])


def _mean_feature(network: Any, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    loss = network.features(x).square().mean()
    return loss, {"feature": loss}


@both
def test_small_sides_are_shown_at_full_size(file: Any, config: Any, opponent: str, x: Tensor) -> None:
    trainee = _trainee(file, config, images=0)
    trainee.prepare(x)
    shown = trainee.reconstruct(x)
    block = 16 // config.schedule.start_px
    assert torch.equal(shown[:, :, ::block, ::block].repeat_interleave(block, 2).repeat_interleave(block, 3), shown)


@both
def test_pictures_are_the_averages_and_each_its_own(file: Any, config: Any, opponent: str, x: Tensor) -> None:
    trainee = _trainee(file, config)
    _steps(trainee, x, 2)
    z = file.latents(config, 5, rng=torch.Generator().manual_seed(1))
    with torch.no_grad():
        styles = file.styles(config, trainee.networks, z)
        pictures = file.pictures(config, trainee.networks, styles)
        one = torch.cat([file.pictures(config, trainee.networks, each[None]) for each in styles])
        trainee.networks["generator"].requires_grad_(False).apply(
            lambda m: [p.zero_() for p in m.parameters(recurse=False)]
        )
        assert torch.equal(pictures, file.pictures(config, trainee.networks, styles))
    assert pictures.shape == (5, 3, 16, 16)
    assert pictures.abs().max() <= 1
    torch.testing.assert_close(pictures, one, rtol=1e-4, atol=1e-5)


@both
def test_a_picture_can_be_followed_back_to_its_latent(file: Any, config: Any, opponent: str) -> None:
    networks = file.networks(config, pretrained=False)
    z = file.latents(config, 2, rng=torch.Generator().manual_seed(1)).requires_grad_()
    file.pictures(config, networks, file.styles(config, networks, z)).square().sum().backward()
    assert z.grad is not None
    assert z.grad.abs().sum() > 0


@both
def test_the_average_has_half_of_itself_after_its_half_life(file: Any, config: Any, opponent: str, x: Tensor) -> None:
    """64 images in steps of 8: the generator stands still, so the distance to it halves."""
    trainee = _trainee(file, config)
    trainee.counts["averaged_at_images"] = trainee.counts["images_shown"]
    first, target = (next(trainee.networks[name].parameters()) for name in ("average", "generator"))
    target.data.add_(1.0)
    distance = (target - first).detach().clone()
    for _ in range(8):
        trainee.counts["images_shown"] += 8
        _follow(trainee)
    torch.testing.assert_close((target - first).detach(), distance / 2)


def test_a_pgan_has_no_w_to_truncate_in() -> None:
    config = FILES[0][1]
    with pytest.raises(InputError, match="truncation"):
        pgan.styles(config, pgan.networks(config, pretrained=False), torch.randn(1, 8), truncation=0.7)


def test_the_mean_w_is_that_of_the_mapping(x: Tensor) -> None:
    """After steps enough, the mean of w over the latents; pictures at truncation 0 are all of it."""
    file, config, _ = FILES[1]
    trainee = _trainee(file, config.model_copy(update={"learning_rate": 1e-9, "half_life_images": 0.0}))
    for _ in range(900):
        trainee._follow_mean_w(trainee.generator.mapping(torch.randn(32, 8)).detach())
    expected = trainee.generator.mapping(torch.randn(20_000, 8)).mean(dim=0)
    torch.testing.assert_close(trainee.generator.mean_w, expected, rtol=0, atol=0.2)  # of values of 1 to 4
    _follow(trainee)
    styles = file.styles(config, trainee.networks, torch.randn(3, 8), truncation=0.0)
    assert styles.shape == (3, 6, 8)
    torch.testing.assert_close(styles, trainee.generator.mean_w.expand(3, 6, 8))


def test_rates_may_depend_on_the_side(x: Tensor) -> None:
    file, config, _ = FILES[1]
    trainee = _trainee(file, config.model_copy(update={"stage_rates": {16: 3e-3}}), images=0)
    rates = []
    for images in (0, 128):
        trainee.counts["images_shown"] = images
        _steps(trainee, x, 1)
        rates.append({group["lr"] for o in trainee.optimizers.values() for group in o.param_groups})
    assert rates == [{config.learning_rate}, {3e-3}]


@both
def test_sides_and_sizes_that_cannot_be_are_refused(file: Any, config: Any, opponent: str) -> None:
    for wrong in ({"input_px": 48}, {"input_px": 4}, {"input_px": 2048}, {"channel_max": 4096}, {"accumulate": 0}):
        with pytest.raises(ValidationError):
            file.Config(kind=config.kind, **wrong)
    largest = file.Config(kind=config.kind, input_px=1024, channel_max=1024, channel_base=65536)
    assert outline_of(largest).keys() == {"generator", opponent, "average"}


@both
def test_a_training_goes_on_from_a_checkpoint_within_a_fade(
    file: Any, config: Any, opponent: str, x: Tensor, tmp_path: Path
) -> None:
    """The next steps are those that would have been made: growth, average and what has not yet run included."""
    first = _trainee(file, config, images=64)
    _steps(first, x, 3)
    save_state(tmp_path, first.networks, first.optimizers, {"counts": first.counts})
    second = _trainee(file, config, images=0)
    second.counts.update(load_state(tmp_path, second.networks, second.optimizers)["counts"])
    assert second.phase(0.0) == first.phase(0.0) == f"fade in {2 * config.schedule.start_px} px"
    assert second.networks["generator"].growth.fading
    for trainee in (first, second):
        torch.manual_seed(7)
        _steps(trainee, x, 6)  # into the stage that follows
    states = [state_of(trainee.networks) for trainee in (first, second)]
    for name, state in states[0].items():
        for key, t in state.items():
            assert torch.equal(t, states[1][name][key]), f"{name}.{key}"


@both
def test_a_step_in_bfloat16_tells_the_losses_of_one_in_float32(
    file: Any, config: Any, opponent: str, x: Tensor
) -> None:
    """Within a twentieth, the penalty on gradients included; weights stay float32."""
    told = []
    for is_lowered in (False, True):
        trainee = _trainee(file, config, images=96)  # PGAN: 8 px fades in; StyleGAN: 16 px
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_lowered):
            told.append(trainee.step(x, 0.0))
        assert {p.dtype for network in trainee.networks.values() for p in network.parameters()} == {torch.float32}
    for name, value in told[0].items():
        assert value.item() == pytest.approx(told[1][name].item(), rel=0.05, abs=0.05), name
