"""Shapes of every network at several sizes (jaxtyping checks the annotations as well), and what each must not mix."""

import weakref

import pytest
import torch
from jaxtyping import TypeCheckError
from pydantic import ValidationError
from torch import Tensor, nn

from uadray.detectors.catalog import FIT_TILES, DpaConfig, FanoganConfig, PerceptualFeatures, build_networks
from uadray.detectors.dpa import Decoder, Encoder
from uadray.detectors.pixels import to_input, to_pixels
from uadray.networks.izi_encoder import IziEncoder
from uadray.networks.layers import PreActivationBlock, WganBlock
from uadray.networks.wgan_gp import Critic, Generator, Trunk, channel_plan

pytestmark = pytest.mark.usefixtures("torch_alone")


def _images(n: int, side_px: int) -> Tensor:
    return torch.rand(n, 3, side_px, side_px) * 2 - 1


def test_annotations_are_checked() -> None:
    """If this fails, `--jaxtyping-packages` is gone from pyproject's addopts, and no shape below is checked."""
    with pytest.raises(TypeCheckError):
        Critic(width=4, input_px=16)(torch.zeros(2, 1, 16, 16))


@pytest.mark.parametrize("side_px", [16, 32, 64])
@pytest.mark.parametrize("latent_dim", [2, 24])
def test_wgan_shapes(side_px: int, latent_dim: int) -> None:
    generator = Generator(width=4, input_px=side_px, latent_dim=latent_dim)
    critic = Critic(width=4, input_px=side_px)
    encoder = IziEncoder(width=4, input_px=side_px, latent_dim=latent_dim)
    images = generator(torch.randn(3, latent_dim))
    assert images.shape == (3, 3, side_px, side_px)
    assert images.abs().max() <= 1
    assert critic(images).shape == (3,)
    assert critic.features(images).shape == (3, channel_plan(4, side_px)[-1], 4, 4)
    assert encoder(images).shape == (3, latent_dim)


@pytest.mark.parametrize(
    ("width", "side_px", "plan"),
    [(4, 16, [4, 8, 16]), (16, 32, [16, 32, 64, 128]), (16, 128, [16, 32, 64, 128, 128, 128])],
)
def test_channel_plan(width: int, side_px: int, plan: list[int]) -> None:
    assert channel_plan(width, side_px) == plan


@pytest.mark.parametrize(("side_px", "halvings"), [(16, 1), (24, 3), (64, 3), (64, 6)])
def test_autoencoder_shapes(side_px: int, halvings: int) -> None:
    encoder = Encoder(width=4, halvings=halvings, latent_channels=2)
    decoder = Decoder(width=4, halvings=halvings, latent_channels=2)
    z = encoder(_images(2, side_px))
    assert z.shape == (2, 2, side_px // 2**halvings, side_px // 2**halvings)
    assert decoder(z).shape == (2, 3, side_px, side_px)


def test_the_autoencoder_is_not_bound_to_one_size() -> None:
    encoder = Encoder(width=4, halvings=2, latent_channels=2)
    assert encoder(torch.zeros(1, 3, 32, 48)).shape == (1, 2, 8, 12)


@pytest.mark.parametrize("kind", [Critic, Trunk])
def test_no_coupling_across_the_batch_where_the_gradient_penalty_looks(kind: type[nn.Module]) -> None:
    """In training mode too: one sample's output, and its gradient, know nothing of the others."""
    critic = kind(width=4, input_px=16).train()
    x = _images(6, 16).requires_grad_()
    together, alone = critic(x), torch.cat([critic(one) for one in x.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(together[2].sum(), x)
    assert gradient[2].abs().sum() > 0
    assert gradient[[0, 1, 3, 4, 5]].abs().sum() == 0


def test_the_generator_does_couple_its_batch_in_training_only() -> None:
    """Batch normalisation, as in the paper; so scoring must run in evaluation mode."""
    generator = Generator(width=4, input_px=16, latent_dim=4)
    z = torch.randn(4, 4)
    assert not torch.allclose(generator.train()(z)[:2], generator(z[:2]), atol=1e-4)
    generator.eval()
    torch.testing.assert_close(generator(z)[:2], generator(z[:2]))


@pytest.mark.parametrize(("resize", "side"), [("up", 16), ("down", 4), ("none", 8)])
@pytest.mark.parametrize("per_sample", [True, False])
def test_wgan_block_sizes(resize: str, side: int, per_sample: bool) -> None:
    block = WganBlock(4, 6, resize=resize, per_sample=per_sample)  # type: ignore[arg-type]
    assert block(torch.randn(2, 4, 8, 8)).shape == (2, 6, side, side)


def test_pre_activation_block_is_a_residual() -> None:
    """With its convolutions at zero it passes its input on unchanged, or only widened."""
    same, wider = PreActivationBlock(4, 4), PreActivationBlock(4, 6)
    for block in (same, wider):
        for parameter in block.residual[-1].parameters():
            nn.init.zeros_(parameter)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(same(x), x)
    assert torch.equal(wider(x), wider.shortcut(x))


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "dpa", "input_px": 60, "halvings": 3},
        {"kind": "dpa", "input_px": 15},
        {"kind": "dpa", "layers": []},
        {"kind": "dpa", "backbone": "resnet50"},
    ],
)
def test_dpa_configurations_that_cannot_be_built(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DpaConfig.model_validate(values)


@pytest.mark.parametrize("side_px", [15, 17, 48, 96, 8])
def test_fanogan_takes_powers_of_two(side_px: int) -> None:
    with pytest.raises(ValidationError):
        FanoganConfig(kind="fanogan", input_px=side_px)
    assert FanoganConfig(kind="fanogan", input_px=32).input_px == 32


def test_build_fanogan() -> None:
    networks = build_networks(FanoganConfig(kind="fanogan", input_px=16, width=4, latent_dim=3))
    assert list(networks) == ["generator", "critic", "encoder"]
    assert networks["generator"](networks["encoder"](_images(2, 16))).shape == (2, 3, 16, 16)


def test_build_dpa_freezes_the_backbone_and_nothing_else() -> None:
    config = DpaConfig(kind="dpa", input_px=32, width=4, layers=("block0", "block2"))
    networks = build_networks(config)
    assert list(networks) == ["encoder", "decoder", "features"]
    assert not any(p.requires_grad for p in networks["features"].parameters())
    assert all(p.requires_grad for name in ("encoder", "decoder") for p in networks[name].parameters())
    assert not networks["features"].train().backbone.training  # type: ignore[union-attr]


def test_features_are_normalised_by_channel() -> None:
    features = build_networks(DpaConfig(kind="dpa", input_px=32, width=4, layers=("block0", "block2")))["features"]
    assert isinstance(features, PerceptualFeatures)
    x = _images(70, 32)  # more than one batch of 64
    features.fit(x)
    for maps in features(x):
        assert maps.mean((0, 2, 3)).abs().max() < 1e-3
        deviation = maps.std((0, 2, 3))
        assert ((deviation - 1).abs() < 1e-2).float().mean() > 0.9, "but for channels that are constant"


class Watched(nn.Module):
    """A backbone that counts which of its maps are still held when it is asked for more."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[weakref.ref[Tensor]] = []
        self.most_tiles = 0

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [100 + x * x, x.roll(1, 1)[..., ::2, ::2]]
        self.given += [weakref.ref(f) for f in maps]
        self.most_tiles = max(self.most_tiles, sum(len(f) for ref in self.given if (f := ref()) is not None) // 2)
        return maps


def test_the_normalisation_is_exact_and_holds_few_maps() -> None:
    backbone = Watched()
    features = PerceptualFeatures(backbone, [3, 3])
    x = _images(150, 16) * torch.linspace(0.1, 2, 150).view(-1, 1, 1, 1)
    features.fit(x)
    assert backbone.most_tiles <= 2 * FIT_TILES
    for i, maps in enumerate(Watched()(x.double())):
        mean, deviation = (features.get_buffer(f"{name}{i}") for name in ("mean", "deviation"))
        torch.testing.assert_close(mean.double(), maps.mean((0, 2, 3), keepdim=True), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(deviation.double(), maps.std((0, 2, 3), keepdim=True), rtol=1e-5, atol=1e-6)


def test_pixels_round_trip() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).repeat(2, 1, 1, 3).numpy()
    x = to_input(pixels, 16)
    assert (x.min().item(), x.max().item()) == (-1, 1)
    assert x.shape == (2, 3, 16, 16)
    assert (to_pixels(x) == pixels).all()
    assert (to_pixels(x * 3) == to_pixels((x * 3).clamp(-1, 1))).all()


def test_input_is_the_centre_and_never_smaller_than_asked_for() -> None:
    pixels = torch.arange(10 * 10, dtype=torch.uint8).view(1, 10, 10, 1).repeat(1, 1, 1, 3).numpy()
    assert (to_pixels(to_input(pixels, 4)) == pixels[:, 3:7, 3:7]).all()
    with pytest.raises(ValueError, match="tiles of 10 x 10 px, the detector needs 16 px"):
        to_input(pixels, 16)
