"""The generator within a detector: its spaces, its critic tile by tile, its training, and where it comes from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from pydantic import Field, TypeAdapter, model_validator

from uadray import config as configuration
from uadray.detectors import fanogan
from uadray.detectors.inversion.critic_part import CriticPart
from uadray.detectors.inversion.generator_part import (
    GeneratorField,
    GeneratorTraining,
    architecture,
    generator_networks,
    steps_for_last,
    with_generator,
    with_generators_side,
)
from uadray.detectors.inversion.latent_space import LatentSpace, Space, spaces_of
from uadray.detectors.inversion.terms import TermConfig
from uadray.detectors.trainee import alone
from uadray.errors import InputError
from uadray.generators.bundle import write_generator
from uadray.generators.catalog import GeneratorConfig, file_of
from uadray.generators.pictures import BLOCK
from uadray.networks.outline import Networks
from uadray.tiles.spec import TileSpec

pytestmark = pytest.mark.usefixtures("torch_alone")

STYLED = {"latent_dim": 6, "w_dim": 8, "channel_max": 8, "channel_base": 64}
SMALL: list[dict[str, Any]] = [
    {"kind": "dcgan", "width": 4, "latent_dim": 6},
    {"kind": "wgan_gp", "width": 4, "latent_dim": 6},
    {"kind": "pgan", "latent_dim": 6, "channel_max": 8, "channel_base": 64, "stage_images": 4, "fade_images": 4},
    {"kind": "stylegan", "stage_images": 4, "fade_images": 4} | STYLED,
    {"kind": "stylegan2", "mapping_layers": 2} | STYLED,
]
CONFIGS: list[GeneratorConfig] = [
    TypeAdapter(GeneratorConfig).validate_python(values | {"input_px": 16}) for values in SMALL
]
BY_KIND = {config.kind: config for config in CONFIGS}
PAIRS = [(config.kind, space) for config in CONFIGS for space in spaces_of(config)]


class Mapped(configuration.Config):
    """A detector's configuration with the fields of a generator."""

    kind: Literal["mapped"] = "mapped"
    input_px: int = Field(default=64, ge=16, le=1024)
    generator: GeneratorField = BY_KIND["dcgan"]
    generator_bundle: str | None = None

    _side = model_validator(mode="before")(with_generators_side)


@pytest.fixture(scope="module")
def networks_of() -> Callable[[str], Networks]:
    """Gives a generator's networks as they would score, with weights that a training might have left."""
    made: dict[str, Networks] = {}

    def of(kind: str) -> Networks:
        if kind not in made:
            torch.manual_seed(0)
            made[kind] = file_of(BY_KIND[kind]).networks(BY_KIND[kind], pretrained=False)
            for network in made[kind].values():
                network.eval().requires_grad_(False)
                if "mean_w" in dict(network.named_buffers()):
                    network.get_buffer("mean_w").normal_()
        return made[kind]

    return of


@pytest.mark.parametrize(("kind", "space"), PAIRS)
def test_pictures_follow_from_their_latent_alone_and_have_gradients(
    networks_of: Callable[[str], Networks], kind: str, space: Space
) -> None:
    latents = LatentSpace(BY_KIND[kind], networks_of(kind), space)
    drawn = latents.drawn(5, seed=3)
    assert drawn.shape == (5, *latents.shape)
    assert torch.equal(latents.drawn(2, seed=3), drawn[:2]), "a seed's first ones are the same"
    assert latents.mean().shape == latents.shape
    x = latents.pictures(drawn)
    assert x.shape == (5, 3, 16, 16)
    assert (latents.pictures(drawn[3:4]) - x[3:4]).abs().max() < 1e-4
    z = drawn[:1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(latents.pictures(z).square().sum(), z)
    assert gradient.abs().max() > 0
    assert latents.deviation() > 0


@pytest.mark.parametrize("kind", list(BY_KIND))
def test_pictures_are_those_of_the_generator(networks_of: Callable[[str], Networks], kind: str) -> None:
    config, networks = BY_KIND[kind], networks_of(kind)
    z = file_of(config).latents(config, BLOCK, rng=torch.Generator().manual_seed(3))[:3]
    with torch.no_grad():
        expected = file_of(config).pictures(config, networks, file_of(config).styles(config, networks, z))
        for space in spaces_of(config):
            latents = LatentSpace(config, networks, space)
            assert (latents.pictures(latents.drawn(3, seed=3)).clamp(-1, 1) - expected).abs().max() < 1e-4, space


@pytest.mark.parametrize("kind", ["stylegan", "stylegan2"])
def test_other_noise_gives_other_pictures(networks_of: Callable[[str], Networks], kind: str) -> None:
    networks = {name: network for name, network in networks_of(kind).items() if name == "average"}
    for name, weight in networks["average"].named_parameters():
        if name.endswith(("strength", "noise_scale")):
            weight.fill_(0.5)
    latents = LatentSpace(BY_KIND[kind], networks, "w+")
    w, fixed = latents.drawn(2, seed=0), latents.fixed_noise()
    assert torch.equal(latents.pictures(w, fixed), latents.pictures(w))
    maps = [torch.randn(2, 1, *each.shape[-2:]) for each in fixed]
    assert (latents.pictures(w, maps) - latents.pictures(w)).abs().max() > 1e-3
    alone_ = latents.pictures(w[1:], [each[1:] for each in maps])
    assert (alone_ - latents.pictures(w, maps)[1:]).abs().max() < 1e-4


def test_a_space_that_is_not_there_is_named(networks_of: Callable[[str], Networks]) -> None:
    with pytest.raises(InputError, match=r"a dcgan has no latent space w\+; it has z"):
        LatentSpace(BY_KIND["dcgan"], networks_of("dcgan"), "w+")


@pytest.mark.parametrize("kind", list(BY_KIND))
def test_a_critic_judges_each_tile_as_if_alone(networks_of: Callable[[str], Networks], kind: str) -> None:
    critic = CriticPart(BY_KIND[kind], networks_of(kind))
    x = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    words, features = critic.word(x), critic.features(x)
    assert words.shape == (6,)
    assert words.std() > 0
    assert features.ndim == 4
    assert (critic.word(x[4:5]) - words[4:5]).abs().max() < 1e-4
    assert (critic.features(x[4:5]) - features[4:5]).abs().max() < 1e-4


def test_the_side_is_that_of_the_generator() -> None:
    assert Mapped().input_px == 64, "nothing was said"
    assert Mapped(generator=BY_KIND["pgan"]).input_px == 16
    assert Mapped.model_validate({"generator": SMALL[0] | {"input_px": 32}}).input_px == 32
    with pytest.raises(ValueError, match="input_px 64 is not that of the generator, 16"):
        Mapped(generator=BY_KIND["pgan"], input_px=64)


def test_a_bundles_generator_is_taken(networks_of: Callable[[str], Networks], tmp_path: Path) -> None:
    uri, given = str(tmp_path / "g"), networks_of("pgan")
    write_generator(uri, given, name="g", generator=BY_KIND["pgan"], tiles=TileSpec(mpp=1, tile_px=32))
    asked = Mapped(generator=uri)
    with pytest.raises(InputError, match="its architecture is not known"):
        architecture(asked)
    config = Mapped.model_validate(with_generator(asked, uri))
    assert (config.input_px, config.generator, config.generator_bundle) == (16, BY_KIND["pgan"], uri)
    networks = generator_networks(config, pretrained=True)
    weights = given["average"].state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in networks["average"].state_dict().items())
    with pytest.raises(InputError, match=r"draws 16 px; leave out detector\.input_px"):
        with_generator(Mapped(generator=uri, input_px=64), uri)
    other = config.model_copy(update={"generator": BY_KIND["dcgan"]})
    with pytest.raises(InputError, match="is another than when this training began"):
        generator_networks(other, pretrained=True)
    training = GeneratorTraining(config, networks, average=alone, fraction=0.5)
    assert (training.is_given, training.phases, training.optimizers) == (True, (), {})
    assert not training.is_training(0.0)


def test_the_generator_is_trained_in_its_share_of_the_steps() -> None:
    config = Mapped(generator=BY_KIND["pgan"])
    networks = generator_networks(config, pretrained=True)
    training = GeneratorTraining(config, networks, average=alone, fraction=0.5)
    assert [training.is_training(progress) for progress in (0, 0.49, 0.5, 1)] == [True, True, False, False]
    before = {name: tensor.clone() for name, tensor in networks["generator"].state_dict().items()}
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    training.prepare(x)
    for step in range(8):
        training.counts["images_shown"] = 4 * step
        losses = training.step(x, 0.06 * step)
    training.finish()
    assert all(torch.isfinite(torch.as_tensor(value)) for value in losses.values())
    moved = [
        name for name, tensor in networks["generator"].state_dict().items() if not torch.equal(tensor, before[name])
    ]
    assert moved
    assert training.learning_rate(0.1).startswith("generator.")


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 0.9])
def test_the_last_share_of_a_training_has_a_step(share: float) -> None:
    n = steps_for_last(share)
    assert (n - 1) / n >= 1 - share
    assert [terms_of(n_terms).least_steps > 1 for n_terms in (0, 1)] == [False, True]


def terms_of(n: int) -> fanogan.Config:
    """F-AnoGAN with terms, or with its own score."""
    terms = (TermConfig(kind="pixel_l1"),) * n or None
    return fanogan.Config(kind="fanogan", terms=terms)
