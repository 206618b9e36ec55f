"""f-AnoGAN. https://doi.org/10.1016/j.media.2019.01.010 .

Schlegl et al. 2019, "f-AnoGAN: Fast unsupervised anomaly detection with generative adversarial networks".

As in the paper: a WGAN-GP learns normal tiles, then an encoder learns image -> z -> image against the frozen pair
(izi_f), and the score is izi_f's loss. The encoder is the critic's architecture with a latent vector for output. The
generator's latents are standard normal, so that output is linear; the paper bounds it by tanh, which could not reach
half of such a latent's mass.
"""

from collections.abc import Collection, Mapping
from typing import Literal

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from uadray import config as configuration
from uadray.detectors import losses
from uadray.detectors.detector import STAGES, Detector, Stage, assemble
from uadray.detectors.latents import EncoderMap
from uadray.detectors.scores import IziScore
from uadray.detectors.trainee import Average
from uadray.errors import InputError
from uadray.generators import wgan_gp
from uadray.generators.bundle import load_generator, read_generator
from uadray.networks.outline import Networks
from uadray.networks.wgan_gp import Trunk


class Config(configuration.Config):
    """f-AnoGAN: a WGAN-GP, then the izi_f encoder.

    Attributes:
        input_px: side of the network's input, a power of two from 16.
        width: channels at full resolution, of generator, critic and encoder.
        latent_dim: length of z.
        critic_steps: critic steps per generator step (paper: 5).
        penalty: weight of the gradient penalty (paper: 10).
        kappa: weight of the critic-feature residual (paper: 1).
        encoder_fraction: last share of the steps, which trains the encoder.
        gan_learning_rate: of Adam with betas 0 and 0.9 (Gulrajani et al. 2017).
        encoder_learning_rate: of Adam.
        generator: URI of a trained generator (`uadray train configs/train/wgan_gp.yaml`) of the same `input_px`,
            `width` and `latent_dim`: its networks are taken and stand still, and all steps train the encoder. None
            trains a generator first.
    """

    kind: Literal["fanogan"]
    input_px: int = Field(default=64, ge=16, le=1024)
    width: int = Field(default=16, ge=4, le=256)
    latent_dim: int = Field(default=128, ge=2, le=4096)
    critic_steps: int = Field(default=5, ge=1, le=1000)
    penalty: float = Field(default=10.0, ge=0, le=1e6)
    kappa: float = Field(default=1.0, ge=0, le=1e6)
    encoder_fraction: float = Field(default=0.4, gt=0, lt=1)
    gan_learning_rate: float = Field(default=1e-4, gt=0, le=10)
    encoder_learning_rate: float = Field(default=1e-4, gt=0, le=10)
    generator: str | None = Field(default=None, min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _power_of_two(self) -> "Config":
        wgan_gp.check_side(self.input_px)
        return self


class IziEncoder(nn.Module):
    """Image to latent vector, to be trained image -> z -> image against frozen generator and critic."""

    def __init__(self, *, width: int, input_px: int, latent_dim: int) -> None:
        super().__init__()
        self.trunk = Trunk(width=width, input_px=input_px)
        self.to_latent = nn.Linear(self.trunk.features, latent_dim)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n latent"]:
        """X in [-1, 1]."""
        z: Tensor = self.to_latent(self.trunk(x).flatten(1))
        return z


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """No pinned backbone is needed."""
    return ()


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Generator and critic, of `config.generator` where it is given and `pretrained`, and an untrained encoder.

    Raises:
        InputError: that generator cannot be opened, or has other sizes.
    """
    if pretrained and config.generator:
        pair = borrowed_pair(config, config.generator)
    else:
        pair = wgan_gp.networks(gan_config(config), pretrained=pretrained)
    encoder = IziEncoder(width=config.width, input_px=config.input_px, latent_dim=config.latent_dim)
    return {**pair, "encoder": encoder}


def gan_config(config: Config) -> wgan_gp.Config:
    """The generator's part of the configuration, whose values were checked with it."""
    return wgan_gp.Config.model_construct(
        kind="wgan_gp", input_px=config.input_px, width=config.width, latent_dim=config.latent_dim,
        critic_steps=config.critic_steps, penalty=config.penalty, learning_rate=config.gan_learning_rate,
    )  # fmt: skip


def borrowed_pair(config: Config, uri: str) -> Networks:
    """Generator and critic of a generator's bundle.

    Raises:
        InputError: it is none, is damaged, or has other sizes than the configuration says.
    """
    bundle = read_generator(uri)
    for name in ("input_px", "width", "latent_dim"):
        asked, trained = getattr(config, name), getattr(bundle.generator, name)
        if asked != trained:
            raise InputError(f"generator {uri} has {name} {trained}; set detector.{name} to it (it is {asked})")
    return load_generator(uri, bundle)


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Encoder, generator, izi_f."""
    return assemble(
        networks,
        mapping=lambda placed: EncoderMap(placed["encoder"]),
        reconstruct=lambda placed: placed["generator"],
        score=lambda placed: IziScore(placed["critic"], kappa=config.kappa),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


class Trainee:
    """A WGAN-GP for the first part of the training, then the izi_f encoder; of a given generator the encoder alone."""

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.generator, self.critic, self.encoder = (networks[n] for n in ("generator", "critic", "encoder"))
        self.gan = wgan_gp.Trainee(gan_config(config), networks, average=average)
        self.optimizers: dict[str, Optimizer] = {
            **({} if config.generator else self.gan.optimizers),
            "encoder": Adam(self.encoder.parameters(), lr=config.encoder_learning_rate),
        }
        self.counts = self.gan.counts
        self.phases: tuple[str, ...] = ("encoder",) if config.generator else (*self.gan.phases, "encoder")

    def phase(self, progress: float) -> str:
        """`encoder` for the last `encoder_fraction` of the training."""
        return "encoder" if progress >= 1 - self.config.encoder_fraction else self.phases[0]

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that the networks of this phase learn by."""
        return f"{self.phase(progress)}_learning_rate"

    def prepare(self, x: Tensor) -> None:
        """Nothing to prepare."""

    def step(self, x: Tensor, progress: float) -> dict[str, float]:
        """A critic step (and every `critic_steps` a generator step), or an encoder step; the losses."""
        if self.phase(progress) == "encoder":
            return self.encoder_step(x)
        return self.gan.step(x, progress)

    def encoder_step(self, x: Tensor) -> dict[str, float]:
        """izi_f (Schlegl et al. 2019, eq. 4) with generator and critic frozen, as they will score."""
        self.generator.eval().requires_grad_(False)
        self.critic.eval().requires_grad_(False)
        x_hat = self.generator(self.encoder(x))
        f, f_hat = (self.critic.get_submodule("trunk")(t) for t in (x, x_hat))
        loss = losses.izi_f(x, x_hat, f, f_hat, kappa=self.config.kappa).mean()
        optimizer = self.optimizers["encoder"]
        optimizer.zero_grad()
        loss.backward()
        self.average([p.grad for p in self.encoder.parameters() if p.grad is not None])
        optimizer.step()
        return {"izi_f": loss.item()}

    def reconstruct(self, x: Tensor) -> Tensor:
        """G(E(x)), or G(z) of random z while there is no encoder yet: both are worth a look."""
        x_hat: Tensor = self.generator(self.encoder(x))
        return x_hat
