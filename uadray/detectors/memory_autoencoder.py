"""Memory-augmented autoencoder (MemAE). https://arxiv.org/abs/1904.02639 .

Gong et al. 2019, "Memorizing Normality to Detect Anomaly: Memory-augmented Deep Autoencoder for Unsupervised Anomaly
Detection".

As in the paper (section 3): between encoder and decoder stands a memory of vectors, learned with them. Each position of
the encoder's map is replaced by a weighted sum of memory items; weights are the softmax of cosine similarities, those
up to a threshold are set to zero and the others divided by their sum. The loss is the squared difference of tile and
reconstruction, and 0.0002 times the entropy of the weights, so that few items are recalled. The score is the squared
difference.

Different: encoder and decoder are residual ones, with means over 2 x 2 pixels. Squared differences are means over
pixels and colours, as in the authors' code (github.com/donggong1/memae-anomaly-detection), not sums: the weight of the
entropy stands beside a mean. That code takes inner products for similarities: `addressing: dot`. The shrinkage is
written as a comparison, which has the value and the gradient of the paper's quotient of rectified differences. The
paper's text could not be opened: sections and equations are from memory.

What it assumes: what is abnormal cannot be put together from a few of the parts that normal tiles consist of.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Literal

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from uadray import config as configuration
from uadray.detectors.detector import STAGES, Detector, Stage, assemble
from uadray.detectors.gradient_steps import new_adam, update
from uadray.detectors.latents import EncoderMap, Latent
from uadray.detectors.scores import PixelResidual
from uadray.detectors.trainee import Average, Losses
from uadray.networks.autoencoder import Decoder, Encoder, Layout
from uadray.networks.memory import Memory, entropy
from uadray.networks.outline import Networks


class Config(configuration.Config):
    """A memory-augmented autoencoder. The paper's for CIFAR-10: 500 items of 256 numbers, 3 halvings.

    Attributes:
        input_px: side of the network's input.
        width: channels at full resolution; they double with each halving up to 64.
        halvings: how often the side is halved down to the map whose positions recall.
        latent_channels: numbers at each position, and of each item.
        items: of the memory (paper: 100 of MNIST, 500 of CIFAR-10, 2000 of videos).
        threshold: of the shrinkage, as a multiple of 1 / `items` (paper: 1 to 3); 0 leaves all weights. Below 1 some
            item is always left, by cosines about half of them; at 1.5 a quarter of the positions of normal tiles
            recalled nothing (DECISIONS.md, 2026-11-27).
        addressing: `cosine` (paper), or `dot`: inner products.
        entropy_weight: of the entropy of the weights (paper: 0.0002).
        learning_rate: of Adam (paper: 1e-4).
    """

    kind: Literal["memory_autoencoder"]
    input_px: int = Field(default=64, ge=16, le=1024)
    width: int = Field(default=16, ge=2, le=256)
    halvings: int = Field(default=3, ge=1, le=6)
    latent_channels: int = Field(default=64, ge=2, le=1024)
    items: int = Field(default=500, ge=2, le=100_000)
    threshold: float = Field(default=1.0, ge=0, le=1000)
    addressing: Literal["cosine", "dot"] = "cosine"
    entropy_weight: float = Field(default=2e-4, ge=0, le=1e6)
    learning_rate: float = Field(default=1e-3, gt=0, le=10)

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.input_px % 2**self.halvings:
            raise ValueError(f"input_px {self.input_px} cannot be halved {self.halvings} times")
        return self


def squared_error(x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n h w"]:
    """R(x, x_hat) (section 3.4) at each pixel, a mean over colours."""
    return (x - x_hat).square().mean(1)


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """None."""
    return ()


def networks(config: Config, *, pretrained: bool) -> Networks:
    """Encoder, memory and decoder."""
    layout = Layout(width=config.width, halvings=config.halvings, latent_channels=config.latent_channels)
    return {
        "encoder": Encoder(layout),
        "memory": Memory(
            items=config.items, channels=config.latent_channels, threshold=config.threshold / config.items,
            is_cosine=config.addressing == "cosine",
        ),
        "decoder": Decoder(layout),
    }  # fmt: skip


def recalling(memory: nn.Module, decoder: nn.Module) -> Callable[[Latent], Tensor]:
    """The stage `reconstruct`: what the memory has of z, decoded."""

    def pictures(z: Latent) -> Tensor:
        x_hat: Tensor = decoder(memory(z))
        return x_hat

    return pictures


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Encoder, memory with decoder, squared difference."""
    return assemble(
        networks,
        mapping=lambda placed: EncoderMap(placed["encoder"]),
        reconstruct=lambda placed: recalling(placed["memory"], placed["decoder"]),
        score=lambda placed: PixelResidual("squared"),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


class Trainee:
    """An autoencoder and its memory, learned together."""

    phases: tuple[str, ...] = ("autoencoder",)

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        memory = networks["memory"]
        if not isinstance(memory, Memory):
            raise TypeError(f"memory: found {type(memory).__name__}")
        self.config, self.networks, self.average = config, networks, average
        self.encoder, self.memory, self.decoder = networks["encoder"], memory, networks["decoder"]
        self.parameters = [p for network in networks.values() for p in network.parameters()]
        self.optimizers: dict[str, Optimizer] = {"autoencoder": new_adam(self.parameters, config.learning_rate)}
        self.counts: dict[str, int] = {}

    def phase(self, progress: float) -> str:
        """There is one."""
        return self.phases[0]

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that all learn by."""
        return "learning_rate"

    def prepare(self, x: Tensor) -> None:
        """Nothing is measured before the first step."""

    def step(self, x: Tensor, progress: float) -> Losses:
        """One step on x [N, 3, h, w] in [-1, 1]: both terms of the loss (section 3.4), unweighted."""
        weights = self.memory.addressing(self.encoder(x))
        error = squared_error(x, self.decoder(self.memory.recalled(weights))).mean()
        spread = entropy(weights).mean()
        loss = error + self.config.entropy_weight * spread
        update(self.optimizers["autoencoder"], self.parameters, loss, self.average)
        return {"error": error.detach(), "entropy": spread.detach()}

    def finish(self) -> None:
        """Nothing is fitted after the last step."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """What is recalled of the tile."""
        x_hat: Tensor = self.decoder(self.memory(self.encoder(x)))
        return x_hat
