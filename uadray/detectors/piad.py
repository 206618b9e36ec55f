"""Perceptual Image Anomaly Detection (PIAD). https://arxiv.org/abs/1909.05904 .

Tuluptceva et al. 2019.

As in the paper: an encoder takes tiles to a standard normal latent and a generator takes it back, each kept to its
distribution by a Wasserstein critic of its own; the relative perceptual L1 (see `uadray.detectors.losses`) joins the
two and is the score. Its weight is not chosen: gradients of both losses are brought to one size (`Balance`). Four
networks of residual blocks without normalisation, of the sizes in the authors' configurations.

Different: gradients are measured in every step of encoder and generator, for they are there, and the median of their
ratios is over layers (theirs: every hundredth step, and over layers and measurements). Encoder and generator learn from
the last of the batches that the critics saw. Features are normalised by statistics of the normal tiles that are trained
on (theirs: of ImageNet).

What it assumes: what is abnormal has textures that a generator of normal tiles does not draw, whatever its latent.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, StringConstraints, model_validator
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from uadray import config as configuration
from uadray.detectors import losses
from uadray.detectors.detector import STAGES, Detector, Stage, assemble
from uadray.detectors.features.perceptual import PerceptualFeatures
from uadray.detectors.gradient_steps import update_along
from uadray.detectors.latents import EncoderMap
from uadray.detectors.scores import PerceptualScore
from uadray.detectors.trainee import Average, Losses
from uadray.generators import gan_losses
from uadray.generators.wgan_gp import check_side
from uadray.networks.backbones import build_backbone
from uadray.networks.outline import Networks
from uadray.networks.piad import Encoder, Generator, LatentCritic

LayerName = Annotated[str, StringConstraints(max_length=40)]

BETAS = (0.5, 0.99)
"""Of Adam, for all four networks (authors' configurations)."""

DRIFT = 1e-3
"""Weight of the critics' squared values, which keeps these near zero (authors' configurations)."""

SMOOTHING = 0.05
"""Of the norms of gradients: the share of the newest (authors' implementation)."""


class Config(configuration.Config):
    """PIAD. The paper's size for 64 px: `width` 32, `latent_dim` 256, 200,000 critic steps of 32 tiles.

    Attributes:
        input_px: side of the networks' input, a power of two from 16.
        backbone: the frozen network whose features compare image and reconstruction (paper: VGG19).
        layers: its layers, by the names of `uadray.networks.backbones` (paper: relu4_2).
        width: channels at full resolution, of encoder, generator and critic of images.
        latent_dim: length of z.
        latent_width: channels of the two hidden layers of the critic of latents (paper: 1024).
        critic_steps: critic steps for one of encoder and generator (paper: 2).
        penalty: weight of both gradient penalties (paper: 10).
        learning_rate: of encoder and generator.
        critic_learning_rate: of both critics.
    """

    kind: Literal["piad"]
    input_px: int = Field(default=64, ge=16, le=1024)
    backbone: Literal["efficientnet_lite0", "vgg16", "vgg19", "alexnet"] = "efficientnet_lite0"
    layers: tuple[LayerName, ...] = Field(default=("block4", "block7"), min_length=1, max_length=32)
    width: int = Field(default=16, ge=4, le=256)
    latent_dim: int = Field(default=128, ge=2, le=4096)
    latent_width: int = Field(default=256, ge=4, le=4096)
    critic_steps: int = Field(default=2, ge=1, le=1000)
    penalty: float = Field(default=10.0, ge=0, le=1e6)
    learning_rate: float = Field(default=2e-4, gt=0, le=10)
    critic_learning_rate: float = Field(default=5e-4, gt=0, le=10)

    @model_validator(mode="after")
    def _power_of_two(self) -> "Config":
        check_side(self.input_px)
        return self


class Balance(nn.Module):
    """The weight of the reconstruction in what encoder and generator each learn (paper: section on weight selection).

    Of each layer the norms of the gradients of both losses are smoothed exponentially; the weight is the median over
    layers of adversarial over reconstruction, so that both losses pull equally hard.
    """

    def __init__(self, layers: Mapping[str, int]) -> None:
        super().__init__()
        for name, count in layers.items():
            self.register_buffer(name, torch.zeros(2, count))

    @torch.no_grad()
    def update(self, name: str, norms: Float[Tensor, "2 layers"], *, is_first: bool) -> Float[Tensor, ""]:
        """The weight for the network of this name, after norms of the adversarial loss and of the reconstruction."""
        smoothed = self.get_buffer(name)
        smoothed.lerp_(norms, 1.0 if is_first else SMOOTHING)
        return (smoothed[0] / smoothed[1].clamp_min(1e-12)).median()


def layers_of(network: nn.Module) -> list[Tensor]:
    """The weights of a network whose gradients are compared: of convolutions and linear layers, without biases."""
    return [p for p in network.parameters() if p.ndim > 1]


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """The frozen backbone."""
    return (config.backbone,)


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Encoder, generator, two critics, the balance of their losses, and the frozen features.

    Raises:
        InputError: the backbone has no such layer.
    """
    sizes = {"width": config.width, "input_px": config.input_px}
    backbone = build_backbone(config.backbone, config.layers, pretrained=pretrained)
    pair: Networks = {
        "encoder": Encoder(**sizes, outputs=config.latent_dim),
        "generator": Generator(**sizes, latent_dim=config.latent_dim),
    }
    return {
        **pair,
        "critic": Encoder(**sizes, outputs=1),
        "latent_critic": LatentCritic(latent_dim=config.latent_dim, width=config.latent_width),
        "balance": Balance({name: len(layers_of(network)) for name, network in pair.items()}),
        "features": PerceptualFeatures(backbone, list(backbone.channels)),
    }


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Encoder, generator, relative perceptual L1."""
    return assemble(
        networks,
        mapping=lambda placed: EncoderMap(placed["encoder"]),
        reconstruct=lambda placed: placed["generator"],
        score=lambda placed: PerceptualScore(placed["features"], distance=losses.relative_perceptual_l1),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


class Trainee:
    """A step of both critics, and every `critic_steps` of them one of encoder and generator."""

    phases: tuple[str, ...] = ("adversarial",)

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        balance, features = networks["balance"], networks["features"]
        if not isinstance(balance, Balance) or not isinstance(features, PerceptualFeatures):
            raise TypeError(f"balance, features: found {type(balance).__name__}, {type(features).__name__}")
        self.config, self.networks, self.average = config, networks, average
        self.balance, self.features = balance, features
        self.encoder, self.generator = networks["encoder"], networks["generator"]
        self.critics = {"critic": networks["critic"], "latent_critic": networks["latent_critic"]}
        rates = {"pair": config.learning_rate, "critics": config.critic_learning_rate}
        self.parameters = {
            "pair": [*self.encoder.parameters(), *self.generator.parameters()],
            "critics": [p for critic in self.critics.values() for p in critic.parameters()],
        }
        self.optimizers: dict[str, Optimizer] = {
            name: Adam(self.parameters[name], lr=rate, betas=BETAS, fused=self.parameters[name][0].is_cuda or None)
            for name, rate in rates.items()
        }
        self.counts: dict[str, int] = {"critic_steps": 0}

    def phase(self, progress: float) -> str:
        """There is one."""
        return self.phases[0]

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that encoder and generator learn by."""
        return "learning_rate"

    def prepare(self, x: Tensor) -> None:
        """Fit the normalisation of the features."""
        self.features.fit(x)

    def step(self, x: Tensor, progress: float) -> Losses:
        """A step of the critics on x [N, 3, h, w] in [-1, 1], and in its turn one of encoder and generator."""
        result = self.critics_step(x)
        self.counts["critic_steps"] += 1
        if self.counts["critic_steps"] % self.config.critic_steps == 0:
            is_first = self.counts["critic_steps"] == self.config.critic_steps
            result |= self.pair_step(x, is_first=is_first)
        return result

    def critics_step(self, x: Tensor) -> dict[str, Tensor]:
        """Both Wasserstein critics with their gradient penalties, encoder and generator standing still."""
        drawn = self._latents(x)
        with torch.no_grad():
            seen = {"critic": (x, self.generator(drawn)), "latent_critic": (drawn, self.encoder(x))}
        terms = {name: self._critic_terms(self.critics[name], *pair) for name, pair in seen.items()}
        gradients = torch.autograd.grad(
            torch.stack([loss for loss, _ in terms.values()]).sum(), self.parameters["critics"]
        )
        self._update("critics", gradients)
        return {f"{name}_distance": distance for name, (_, distance) in terms.items()}

    def _critic_terms(self, critic: nn.Module, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """A critic's loss, and its estimate of the Wasserstein distance."""
        of_real, of_fake = critic(real).squeeze(1), critic(fake).squeeze(1)
        wasserstein = gan_losses.critic_loss(of_real, of_fake)
        penalty = gan_losses.gradient_penalty(critic, real, fake)
        return wasserstein + self.config.penalty * penalty + DRIFT * of_real.square().mean(), -wasserstein.detach()

    def pair_step(self, x: Tensor, *, is_first: bool) -> dict[str, Tensor]:
        """Encoder and generator: please both critics, and repeat x; each with the weight that `Balance` gives."""
        torch.clear_autocast_cache()  # it has the critics as they were before their step
        with torch.no_grad():
            features = self.features(x)
        code = self.encoder(x)
        perceptual = losses.relative_perceptual_l1(features, self.features(self.generator(code))).mean()
        image = gan_losses.generator_loss(self.critics["critic"](self.generator(self._latents(x))).squeeze(1))
        latent = gan_losses.generator_loss(self.critics["latent_critic"](code).squeeze(1))
        of_perceptual = torch.autograd.grad(perceptual, self.parameters["pair"], retain_graph=True)
        of_critics = torch.autograd.grad(image + latent, self.parameters["pair"])
        weights = self._weights(of_critics, of_perceptual, is_first=is_first)
        self._update("pair", [a + w * r for a, r, w in zip(of_critics, of_perceptual, weights, strict=True)])
        return {"perceptual": perceptual.detach(), "image": image.detach(), "latent": latent.detach()}

    def _weights(
        self, of_critics: Sequence[Tensor], of_perceptual: Sequence[Tensor], *, is_first: bool
    ) -> list[Tensor]:
        """The weight of the reconstruction for each parameter of encoder and generator."""
        counts = {name: len(list(self.networks[name].parameters())) for name in ("encoder", "generator")}
        begin, weights = 0, list[Tensor]()
        for name, count in counts.items():
            parts = [gradients[begin : begin + count] for gradients in (of_critics, of_perceptual)]
            norms = torch.stack([torch.stack([g.norm() for g in part if g.ndim > 1]) for part in parts])
            self.average([norms])
            weights += [self.balance.update(name, norms, is_first=is_first)] * count
            begin += count
        return weights

    def _latents(self, x: Tensor) -> Tensor:
        return torch.randn(len(x), self.config.latent_dim, device=x.device)

    def _update(self, name: str, gradients: Sequence[Tensor]) -> None:
        update_along(self.optimizers[name], self.parameters[name], gradients, self.average)

    def finish(self) -> None:
        """Nothing is fitted after the last step."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """Generate what was encoded."""
        x_hat: Tensor = self.generator(self.encoder(x))
        return x_hat
