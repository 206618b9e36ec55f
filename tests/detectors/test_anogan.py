"""AnoGAN: its loss and its gradients, its scores by hand, and what its training does."""

from typing import Literal

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from uadray.detectors import anogan
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.inversion.critic_part import CriticPart
from uadray.detectors.inversion.latent_space import LatentSpace
from uadray.detectors.inversion.mapping_loss import MappingLoss
from uadray.detectors.inversion.mapping_scores import AnoganScore, DiscriminatorScore
from uadray.detectors.trainee import alone
from uadray.errors import InputError
from uadray.generators import dcgan, wgan_gp
from uadray.generators.catalog import GeneratorConfig, file_of

pytestmark = pytest.mark.usefixtures("torch_alone")

DCGAN = {"kind": "dcgan", "input_px": 16, "width": 4, "latent_dim": 8}
ANOGAN = anogan.Config.model_validate({"kind": "anogan", "generator": DCGAN, "descent": {"steps": 30}})


class Linear:
    """A discriminator of one weight: its maps are twice the picture, its word their mean."""

    def __init__(self, *, is_logistic: bool) -> None:
        self.is_logistic = is_logistic

    def features(self, x: Tensor) -> Tensor:
        return 2 * x

    def word(self, x: Tensor) -> Tensor:
        return self.features(x).mean((1, 2, 3))


class Grey:
    """A generator whose pictures are as grey as the latent says."""

    def drawn(self, n: int, *, seed: int) -> Tensor:
        return torch.zeros(n, 1)

    def pictures(self, latents: Tensor) -> Tensor:
        return latents[:, :, None, None].expand(-1, 3, 2, 2)


X = torch.tensor([0.5, -0.25])[:, None, None, None].expand(-1, 3, 2, 2)
Z = torch.tensor([[0.1], [0.0]])
"""So R is 0.4 and 0.25, D 0.8 and 0.5; the words of X are 1 and -0.5, those of the pictures 0.2 and 0."""


@pytest.mark.parametrize(
    ("is_logistic", "score", "expected"),
    [
        (True, "residual", [0.4, 0.25]),
        (True, "discrimination", [0.8, 0.5]),
        (True, "anomaly", [0.9 * 0.4 + 0.1 * 0.8, 0.9 * 0.25 + 0.1 * 0.5]),
        (True, "reference", [0.9 * 0.4 + 0.1 * 0.598139, 0.9 * 0.25 + 0.1 * 0.693147]),  # log(1 + e^-0.2), log 2
        (False, "reference", [0.9 * 0.4 - 0.1 * 0.2, 0.9 * 0.25]),
        (True, "discriminator", [0.268941, 0.622459]),  # 1 / (1 + e), 1 / (1 + e^-0.5)
        (False, "discriminator", [-1.0, 0.5]),
    ],
)
def test_scores_by_hand(is_logistic: bool, score: str, expected: list[float]) -> None:
    critic = Linear(is_logistic=is_logistic)
    loss = MappingLoss(Grey(), critic, discrimination="reference" if score == "reference" else "features")
    if score == "discriminator":
        found, residual = DiscriminatorScore(critic)(X, None, Z)
        torch.testing.assert_close(residual, found[:, None, None].expand(-1, 2, 2))
    else:
        found, residual = AnoganScore(loss, score)(X, Grey().pictures(Z), Z)  # type: ignore[arg-type]
        torch.testing.assert_close(residual, torch.tensor([0.4, 0.25])[:, None, None].expand(-1, 2, 2))
        if score in ("anomaly", "reference"):  # what was lowered
            torch.testing.assert_close(loss((Z,), loss.targets(X), 0), found)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("discrimination", ["features", "reference"])
@pytest.mark.parametrize(
    "config",
    [
        dcgan.Config(kind="dcgan", input_px=16, width=4, latent_dim=3),
        wgan_gp.Config(kind="wgan_gp", input_px=16, width=4, latent_dim=3),
    ],
    ids=lambda config: config.kind,
)
def test_the_gradient_of_the_loss(config: GeneratorConfig, discrimination: Literal["features", "reference"]) -> None:
    """Against finite differences, in float64."""
    torch.manual_seed(2)
    networks = file_of(config).networks(config, pretrained=False)
    for network in networks.values():
        network.double().eval().requires_grad_(False)
        for weight in network.parameters():
            weight.mul_(5 if config.kind == "dcgan" and weight.dim() > 1 else 1)  # its weights begin small
    space, critic = LatentSpace(config, networks, "z"), CriticPart(config, networks)
    loss = MappingLoss(space, critic, share=0.4, discrimination=discrimination)
    targets = loss.targets(torch.rand(2, 3, 16, 16, dtype=torch.float64) * 2 - 1)
    z = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: loss((z,), targets, 0), z, eps=1e-7, atol=1e-6, rtol=1e-4)
    (gradient,) = torch.autograd.grad(loss((z,), targets, 0).sum(), z)
    assert gradient.abs().max() > 1e-3


def test_a_detector_searches_in_its_batch_as_tile_by_tile() -> None:
    networks = _trained(ANOGAN)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 20, 20, 3), dtype=np.uint8)
    detector = build_detector(ANOGAN, networks)
    together = detector(pixels)
    alone = [detector(pixels[row : row + 1]).score[0] for row in range(5)]
    np.testing.assert_allclose(together.score, alone, rtol=1e-5)
    untouched = ANOGAN.model_copy(update={"descent": ANOGAN.descent.model_copy(update={"steps": 0})})
    assert (together.score < build_detector(untouched, networks)(pixels).score).all()
    seen, closest = together.pictures([3])
    assert closest is not None
    residual = np.abs(seen.astype(float) - closest).mean(-1) / 127.5
    np.testing.assert_allclose(together.maps([3]), residual, atol=0.5 / 127.5)  # of rounded pixels


def test_for_the_discriminators_word_nothing_is_searched() -> None:
    config = ANOGAN.model_copy(update={"score": "discriminator"})
    networks = _trained(config)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    detector = build_detector(config, networks)
    scored = detector(pixels)
    assert not detector.has_picture
    assert scored.pictures([0])[1] is None
    x = next(detector.inputs(pixels))
    expected = torch.sigmoid(-networks["discriminator"](x)).detach().numpy()
    np.testing.assert_allclose(scored.score, expected, rtol=1e-5)


def test_a_search_follows_the_discrimination_of_its_score() -> None:
    networks = _trained(ANOGAN)
    for score, expected in (("anomaly", 2), ("residual", 2), ("reference", 1)):
        loss = anogan.loss_of(ANOGAN.model_copy(update={"score": score}), networks)
        assert len(loss.targets(torch.zeros(1, 3, 16, 16))) == expected  # the discriminator's maps, or not
    w = ANOGAN.model_validate({
        "kind": "anogan", "space": "w+",
        "generator": {"kind": "stylegan2", "input_px": 16, "latent_dim": 4, "w_dim": 4, "channel_max": 8},
    })  # fmt: skip
    assert anogan.space_of(w, build_networks(w)).shape == (6, 4)


def test_terms_are_normalised_on_as_many_tiles_as_said() -> None:
    config = anogan.Config.model_validate(
        ANOGAN.model_dump() | {"generator_fraction": 0.5, "terms": [{"kind": "pixel_l1"}], "normal_tiles": 12}
    )
    networks = build_networks(config)
    trainee = build_trainee(config, networks)
    x = torch.rand(8, 3, 16, 16) * 2 - 1
    x *= torch.linspace(0.2, 1, 8)[:, None, None, None]
    assert [trainee.phase(progress) for progress in (0, 0.4, 0.6)] == ["gan", "gan", "normals"]
    assert "generator" in trainee.step(x, 0.4)
    before = {name: weight.clone() for name, weight in networks["generator"].state_dict().items()}
    assert list(trainee.step(x, 0.6)) == list(trainee.step(x, 0.8)) == ["0_pixel_l1"]
    assert trainee.step(x, 0.9) == {}
    trainee.finish()
    assert trainee.counts["normal_tiles"] == networks["normals"].get_buffer("count").sum() == 12
    assert all(torch.equal(weight, before[name]) for name, weight in networks["generator"].state_dict().items())
    scored = build_detector(config, networks)((x.permute(0, 2, 3, 1).numpy() * 127 + 128).astype(np.uint8))
    assert abs(scored.score.mean()) < 1  # deviations from these tiles


def test_of_a_given_generator_nothing_is_learned() -> None:
    config = ANOGAN.model_copy(update={"generator_bundle": "somewhere"})
    networks = build_networks(ANOGAN)
    before = {name: weight.clone() for name, weight in networks["generator"].state_dict().items()}
    trainee = build_trainee(config, networks)
    assert trainee.phases == ("start",)
    losses = [trainee.step(torch.full((2, 3, 16, 16), shade), 0.5)["loss_at_start"] for shade in (0.0, 0.9)]
    assert 0 < losses[0] < losses[1]
    trainee.finish()
    assert all(torch.equal(weight, before[name]) for name, weight in networks["generator"].state_dict().items())


def test_people_see_the_closest_pictures() -> None:
    networks = _trained(ANOGAN)
    trainee = build_trainee(ANOGAN, networks)
    for network in networks.values():
        network.eval()
    x = anogan.space_of(ANOGAN, networks).pictures(torch.ones(2, 8)).detach()
    x_hat = trainee.reconstruct(x)
    assert x_hat is not None
    start = anogan.Pictures(anogan.space_of(ANOGAN, networks))(anogan.mapping(ANOGAN, networks, steps=0)(x))
    assert (x - x_hat).abs().mean() < (x - start).abs().mean()


def test_steps_must_be_left_to_normalise_terms_unless_the_generator_is_given() -> None:
    config = anogan.Config.model_validate(ANOGAN.model_dump() | {"terms": [{"kind": "pixel_l1"}]})
    networks = anogan.networks(config, pretrained=False)
    with pytest.raises(InputError, match="leaves no steps to normalise the terms"):
        anogan.Trainee(config, networks, average=alone)
    assert anogan.Trainee(config.model_copy(update={"generator_bundle": "g"}), networks, average=alone).phases == (
        "normals",
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"terms": [{"kind": "lpips"}], "generator_fraction": 0.9, "score": "residual"}, "leave out score residual"),
        ({"space": "w"}, "a dcgan has no space w; it has z"),
        ({"input_px": 32}, "is not that of the generator, 16"),
    ],
)
def test_what_does_not_fit_is_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        anogan.Config.model_validate({"kind": "anogan", "generator": DCGAN} | values)


def _trained(config: anogan.Config) -> dict[str, torch.nn.Module]:
    """Networks whose pictures differ."""
    torch.manual_seed(0)
    networks = build_networks(config)
    trainee = build_trainee(config, networks)
    for step in range(6):
        trainee.step(torch.rand(8, 3, 16, 16) * 2 - 1, step / 6)
    for weight in networks["generator"].parameters():
        weight.data.mul_(3 if weight.dim() > 1 else 1)
    return networks
