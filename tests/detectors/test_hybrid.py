"""The hybrid: what its encoder lowers, what stands still meanwhile, and where the search begins."""

from typing import Any

import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor

from uadray.detectors import hybrid
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.inversion.generator_part import frozen
from uadray.detectors.inversion.style_encoding import offset_spread
from uadray.errors import InputError
from uadray.generators import dcgan
from uadray.networks.outline import Networks

pytestmark = pytest.mark.usefixtures("torch_alone")

STYLES = {
    "kind": "stylegan2", "input_px": 16, "latent_dim": 4, "w_dim": 4, "mapping_layers": 1, "channel_max": 8,
    "channel_base": 64,
}  # fmt: skip


def config(**changes: Any) -> hybrid.Config:
    values = {"kind": "hybrid", "generator": STYLES, "width": 4, "channel_max": 8, "steps": 3, "lpips_px": 32}
    return hybrid.Config.model_validate(values | changes)


def networks_of(settings: hybrid.Config) -> Networks:
    """An encoder that has learned nothing, but does not give the mean for all; noise that is seen."""
    torch.manual_seed(0)
    networks = build_networks(settings)
    for name, parameter in networks["encoder"].named_parameters():
        if "outputs" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    for network in (networks["average"], networks["generator"]) if "average" in networks else ():
        for name, parameter in network.named_parameters():
            if name.endswith("strength"):
                parameter.data.fill_(0.2)
    frozen(networks)
    return networks


@pytest.fixture
def x() -> Tensor:
    return smooth_pictures(4)


def generated(settings: hybrid.Config, networks: Networks, n: int) -> Tensor:
    """Pictures of the generator: what it can draw, an encoder can find."""
    space = hybrid.space_of(settings, networks)
    return space.pictures(space.drawn(n, seed=3)).detach().clamp(-1, 1)


def lpips(settings: hybrid.Config, networks: Networks, x: Tensor, x_hat: Tensor) -> Tensor:
    distance = hybrid.distance_of(settings, networks)
    return distance(distance.features(x), distance.features(x_hat)).detach()


@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.5, 1.0, 0.3)])
def test_gradients_of_the_encoders_losses_are_those_of_finite_differences(
    weights: tuple[float, float, float], x: Tensor
) -> None:
    kappa, lpips_weight, offset_weight = weights
    settings = config(kappa=kappa, lpips_weight=lpips_weight, offset_weight=offset_weight)
    networks = {name: network.double() for name, network in networks_of(settings).items()}
    encoder = networks["encoder"]
    encoder.requires_grad_(True)
    trainee = hybrid.Trainee(settings, networks, average=lambda tensors: None)
    x = x[:2].double()

    def loss() -> Tensor:
        terms = trainee.encoding.losses(x, trainee.encoding.encoder.offsets(x))
        return torch.stack([weight * term.mean() for weight, term in terms.values()]).sum()

    loss().backward()
    chosen = [parameter for parameter in encoder.parameters() if parameter.grad is not None][::5]
    assert len(chosen) > 3
    step = 1e-6
    for parameter in chosen:
        direction = torch.randn_like(parameter)
        found = (parameter.grad * direction).sum().item() if parameter.grad is not None else 0.0
        with torch.no_grad():
            parameter += step * direction
            above = loss()
            parameter -= 2 * step * direction
            below = loss()
            parameter += step * direction
        assert found == pytest.approx(((above - below) / (2 * step)).item(), rel=1e-4, abs=1e-7)


def test_a_spread_of_offsets_by_hand() -> None:
    """Two layers at 1 and 3 are each 1 from their mean; layers that have one w have no spread."""
    offsets = torch.tensor([[[1.0, 5.0], [3.0, 5.0]], [[2.0, 7.0], [2.0, 7.0]]])
    assert offset_spread(offsets).tolist() == [0.5, 0.0]


def test_a_step_of_the_encoder_leaves_all_others_as_they_were(x: Tensor) -> None:
    networks = networks_of(config())
    settings = config(generator_bundle="elsewhere", offset_weight=0.1)
    trainee = hybrid.Trainee(settings, networks, average=lambda tensors: None)
    assert trainee.phases == ("encoder",)
    before = state_of(networks)
    for progress in (0.0, 0.5, 0.9):
        for network in networks.values():
            network.train()
        losses = trainee.step(x, progress)
        assert set(losses) == {"izi_f", "lpips", "offset_spread"}
        assert all(isinstance(value, Tensor) and not value.requires_grad for value in losses.values())
    assert moved(networks, before) == {"encoder", "axes"}


def test_an_encoder_learns_to_find_what_the_generator_has_drawn() -> None:
    settings = config(generator_bundle="elsewhere", encoder_learning_rate=1e-2)
    torch.manual_seed(0)
    networks = build_networks(config())
    frozen(networks)
    x = generated(settings, networks, 8)
    trainee = hybrid.Trainee(settings, networks, average=lambda tensors: None)
    before = trainee.reconstruct(x)
    for step in range(30):
        trainee.step(x, step / 30)
    after = trainee.reconstruct(x)
    found, start = (lpips(settings, networks, x, x_hat).mean() for x_hat in (after, before))
    assert found < 0.7 * start


def test_phases_and_rates() -> None:
    settings = config(terms=({"kind": "pixel_l1"},), normals_fraction=0.1)
    trainee = build_trainee(settings, build_networks(settings))
    assert trainee.phases == ("gan", "encoder", "normals")
    phases = [trainee.phase(progress) for progress in (0.0, 0.69, 0.71, 0.89, 0.91)]
    assert phases == ["gan", "gan", "encoder", "encoder", "normals"]
    assert trainee.learning_rate(0.8) == "encoder_learning_rate"
    assert trainee.learning_rate(0.95) == ""


def test_the_encoders_last_steps_are_slow(x: Tensor) -> None:
    settings = config(generator_fraction=0.5)
    trainee = hybrid.Trainee(settings, networks_of(settings), average=lambda tensors: None)
    rates = []
    for progress in (0.5, 0.87, 0.88):
        trainee.step(x, progress)
        rates.append(trainee.optimizers["encoder"].param_groups[0]["lr"] / settings.encoder_learning_rate)
    assert rates == pytest.approx([1, 1, 0.1])


def test_terms_are_normalised_on_what_the_encoder_and_the_search_find(x: Tensor) -> None:
    settings = config(terms=({"kind": "pixel_l1"}, {"kind": "lpips", "weight": 2}), steps=1)
    networks = networks_of(settings)
    trainee = hybrid.Trainee(settings, networks, average=lambda tensors: None)
    tiles = smooth_pictures(16)
    trainee.step(tiles, 0.98)
    trainee.finish()
    pixels = ((tiles + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    score = build_detector(settings, networks)(pixels).score
    assert score.mean() == pytest.approx(0, abs=0.1)  # of deviations from these very tiles; rounded to bytes


def test_without_steps_the_picture_is_the_encoders(x: Tensor) -> None:
    settings = config(steps=0)
    networks = networks_of(settings)
    z = hybrid.mapping(settings, networks)(x)
    space = hybrid.space_of(settings, networks)
    assert isinstance(z, Tensor)
    torch.testing.assert_close(z, networks["encoder"](x))
    expected = space.pictures(networks["encoder"](x)).clamp(-1, 1)
    torch.testing.assert_close(hybrid.Pictures(space)(z), expected)


@pytest.mark.parametrize("optimise_noise", [True, False])
def test_the_search_starts_at_the_encoders_latent_and_comes_closer(optimise_noise: bool, x: Tensor) -> None:
    settings = config(steps=12, optimise_noise=optimise_noise)
    networks = networks_of(settings)
    pictures = hybrid.Pictures(hybrid.space_of(settings, networks))
    starts = [hybrid.mapping(settings, networks, steps=steps)(x) for steps in (0, 12)]
    start, found = (lpips(settings, networks, x, pictures(z)) for z in starts)
    assert (found < start).all()
    assert isinstance(starts[1], tuple) == optimise_noise


def test_a_batch_equals_its_tiles_one_by_one_and_in_another_order(x: Tensor) -> None:
    settings = config(steps=5)
    networks = networks_of(settings)
    pictures = hybrid.Pictures(hybrid.space_of(settings, networks))
    mapping = hybrid.mapping(settings, networks)
    together = pictures(mapping(x))
    torch.testing.assert_close(together, torch.cat([pictures(mapping(tile[None])) for tile in x]), rtol=0, atol=1e-4)
    torch.testing.assert_close(together, pictures(mapping(x.flip(0))).flip(0), rtol=0, atol=1e-4)


def test_the_map_is_the_residual_of_the_pixels(x: Tensor) -> None:
    settings = config()
    networks = networks_of(settings)
    score, residual = hybrid.score_of(settings, networks)(x, x.roll(1, 0), x)
    torch.testing.assert_close(residual, (x - x.roll(1, 0)).abs().mean(1))
    torch.testing.assert_close(score, lpips(settings, networks, x, x.roll(1, 0)))


def test_of_a_generator_without_w_the_encoder_finds_z(x: Tensor) -> None:
    given = dcgan.Config(kind="dcgan", input_px=16, width=4, latent_dim=6)
    settings = config(generator=given, steps=2)
    networks = networks_of(settings)
    assert networks["encoder"](x).shape == (4, 6)
    z = hybrid.mapping(settings, networks)(x)
    assert hybrid.Pictures(hybrid.space_of(settings, networks))(z).shape == x.shape


def test_a_space_that_the_generator_lacks_is_refused() -> None:
    with pytest.raises(ValidationError, match="has no space w"):
        config(generator=dcgan.Config(kind="dcgan", input_px=16, width=4), space="w+")


def test_steps_must_be_left_to_the_encoder() -> None:
    settings = config(generator_fraction=0.96, terms=({"kind": "pixel_l1"},))
    with pytest.raises(InputError, match="leaves no steps to the encoder"):
        build_trainee(settings, networks_of(settings))
