"""The deep perceptual autoencoder: its networks' shapes, its features' normalisation, and that it learns."""

import weakref

import pytest
import torch
from networks_watch import moved, smooth_pictures, state_of
from pydantic import ValidationError
from torch import Tensor, nn

from uadray.detectors import dpa
from uadray.detectors.building import build_networks, build_trainee
from uadray.detectors.features.perceptual import FIT_TILES, PerceptualFeatures
from uadray.detectors.trainee import alone
from uadray.networks.autoencoder import Decoder, Encoder, Layout

pytestmark = pytest.mark.usefixtures("torch_alone")

DPA = dpa.Config(kind="dpa", input_px=16, width=4, halvings=2, layers=("block0", "block2"), learning_rate=5e-3)


@pytest.fixture
def x() -> Tensor:
    return smooth_pictures()


def _images(n: int, side_px: int) -> Tensor:
    return torch.rand(n, 3, side_px, side_px) * 2 - 1


@pytest.mark.parametrize(("side_px", "halvings"), [(16, 1), (24, 3), (64, 3), (64, 6)])
def test_autoencoder_shapes(side_px: int, halvings: int) -> None:
    encoder = Encoder(Layout(width=4, halvings=halvings, latent_channels=2))
    decoder = Decoder(Layout(width=4, halvings=halvings, latent_channels=2))
    z = encoder(_images(2, side_px))
    assert z.shape == (2, 2, side_px // 2**halvings, side_px // 2**halvings)
    assert decoder(z).shape == (2, 3, side_px, side_px)


def test_the_autoencoder_is_not_bound_to_one_size() -> None:
    encoder = Encoder(Layout(width=4, halvings=2, latent_channels=2))
    assert encoder(torch.zeros(1, 3, 32, 48)).shape == (1, 2, 8, 12)


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
        dpa.Config.model_validate(values)


def test_build_dpa_freezes_the_backbone_and_nothing_else() -> None:
    config = dpa.Config(kind="dpa", input_px=32, width=4, layers=("block0", "block2"))
    networks = build_networks(config)
    assert list(networks) == ["encoder", "decoder", "features"]
    assert not any(p.requires_grad for p in networks["features"].parameters())
    assert all(p.requires_grad for name in ("encoder", "decoder") for p in networks[name].parameters())
    assert not networks["features"].train().backbone.training  # type: ignore[union-attr]


def test_features_are_normalised_by_channel() -> None:
    features = build_networks(dpa.Config(kind="dpa", input_px=32, width=4, layers=("block0", "block2")))["features"]
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


def test_dpa_learns(x: Tensor) -> None:
    trainee = build_trainee(DPA, build_networks(DPA))
    trainee.prepare(x)
    losses = [trainee.step(x, i / 30)["perceptual"] for i in range(30)]
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])
    assert trainee.reconstruct(x).shape == x.shape


def test_dpa_leaves_the_backbone_alone(x: Tensor) -> None:
    networks = build_networks(DPA)
    trainee = build_trainee(DPA, networks)
    trainee.prepare(x)
    before = state_of(networks)
    trainee.step(x, 0.0)
    assert moved(networks, before) == {"encoder", "decoder"}


def test_dpa_learning_rate_falls_along_a_half_cosine_to_2_percent(x: Tensor) -> None:
    trainee = build_trainee(DPA, build_networks(DPA))
    rates = []
    for progress in (0.0, 0.5, 1.0):
        trainee.step(x, progress)
        rates.append(trainee.optimizers["adam"].param_groups[0]["lr"] / DPA.learning_rate)
    assert rates == pytest.approx([1.0, 0.02 + 0.98 * 0.5, 0.02])


def test_pixel_weight_adds_the_pixel_loss(x: Tensor) -> None:
    trainee = build_trainee(DPA.model_copy(update={"pixel_weight": 0.5}), build_networks(DPA))
    result = trainee.step(x, 0.0)
    assert result["loss"] > result["perceptual"]
    plain = build_trainee(DPA, build_networks(DPA)).step(x, 0.0)
    assert plain["loss"] == plain["perceptual"]


def test_dpa_preparation_takes_real_features() -> None:
    networks = build_networks(DPA) | {"features": nn.Identity()}
    with pytest.raises(TypeError, match="expected PerceptualFeatures, found Identity"):
        dpa.Trainee(DPA, networks, average=alone).prepare(torch.zeros(2, 3, 16, 16))
