"""Deep structured energy-based model (DSEBM): the energy of a tile, or how steep it is there.

Zhai et al. 2016, https://arxiv.org/abs/1605.07717 .

As in the paper: a network gives an image one number, its energy E(x) = -log p(x) up to a constant. It learns by score
matching, in its denoising form: f(x) = x - grad E(x) has to take an image with Gaussian noise back to the image, min E
||x - f(x + noise)||^2 (section 3). Scores are the energy (DSEBM-e) or the squared reconstruction error ||x - f(x)||^2 =
||grad E(x)||^2 (DSEBM-r; section 4): near 0 where the energy has a least value.

Different: see `uadray.networks.energy`. Scores are over the number of a tile's numbers. The paper's text could not be
opened: it is followed from memory.

What it assumes: what is abnormal lies where normal tiles are rare, and the gradient of a density at one level of noise
tells where that is; a smooth tile is denoised more easily than a rich one, whatever it shows.
"""

from collections.abc import Collection, Mapping
from typing import Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from uadray import config as configuration
from uadray.detectors.detector import STAGES, Detector, Stage, assemble
from uadray.detectors.gradient_steps import update
from uadray.detectors.latents import Latent
from uadray.detectors.scores import picture_of
from uadray.detectors.trainee import Average, Losses
from uadray.generators.wgan_gp import check_side
from uadray.networks.energy import Energy
from uadray.networks.outline import Networks


class Config(configuration.Config):
    """DSEBM.

    Attributes:
        input_px: side of the network's input, a power of two from 16.
        width: channels at half the resolution.
        units: of the last layer.
        noise: deviation of the noise that is taken away, of images in [-1, 1]; as large as OCGAN's, not searched for.
        score: `energy` or `reconstruction`.
        learning_rate: of Adam.
    """

    kind: Literal["dsebm"]
    input_px: int = Field(default=64, ge=16, le=1024)
    width: int = Field(default=16, ge=4, le=256)
    units: int = Field(default=128, ge=1, le=4096)
    noise: float = Field(default=0.2, gt=0, le=10)
    score: Literal["energy", "reconstruction"] = "energy"
    learning_rate: float = Field(default=1e-3, gt=0, le=10)

    @model_validator(mode="after")
    def _power_of_two(self) -> "Config":
        check_side(self.input_px)
        return self


def energy_and_gradient(
    network: nn.Module, x: Float[Tensor, "n 3 h w"], *, is_learned: bool = False
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3 h w"]]:
    """E(x), and grad E(x) of each image by itself; in a block without gradients too, as a detector's stages run in.

    Args:
        network: image to energy, in which images do not see each other.
        x: images in [-1, 1].
        is_learned: both have gradients to the network's weights.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        energy: Tensor = network(x)
        (gradient,) = torch.autograd.grad(energy.sum(), x, create_graph=is_learned)
    return (energy if is_learned else energy.detach()), gradient


def score_matching(
    network: nn.Module, x: Float[Tensor, "n 3 h w"], noise: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, " n"]:
    """Mean squared x - f(x + noise) over an image's numbers, f(x) = x - grad E(x); one value a sample (section 3)."""
    noisy = x + noise
    gradient = energy_and_gradient(network, noisy, is_learned=True)[1]
    return (x - (noisy - gradient)).float().square().flatten(1).mean(1)


class EnergyMap:
    """x -> (f(x), E(x)): the stage `map`."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Latent:
        """[n, 3, h, w] and [n]; the energy over the number of a tile's numbers."""
        energy, gradient = energy_and_gradient(self.network, x)
        return x - gradient, energy / x[0].numel()


class EnergyScore:
    """The energy, or the squared reconstruction error, which is that of the energy's gradient. The stage `score`."""

    def __init__(self, *, is_energy: bool) -> None:
        self.is_energy = is_energy

    def __call__(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Tensor | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h w"]]:
        """The map is the squared reconstruction error, mean over colours, of both scores."""
        residual = (x - picture_of(x_hat)).square().mean(1)
        return (cast(tuple[Tensor, Tensor], z)[1] if self.is_energy else residual.flatten(1).mean(1)), residual


def denoised(z: Latent) -> Tensor:
    """The stage `reconstruct`: f(x), which the energy's gradient has given."""
    return cast(tuple[Tensor, Tensor], z)[0]


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """No pinned backbone is needed."""
    return ()


def networks(config: Config, *, pretrained: bool) -> Networks:
    """The energy."""
    return {"energy": Energy(width=config.width, input_px=config.input_px, units=config.units)}


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Energy and gradient in one pass forth and back, f(x), one of the two scores."""
    return assemble(
        networks,
        mapping=lambda placed: EnergyMap(placed["energy"]),
        reconstruct=lambda placed: denoised,
        score=lambda placed: EnergyScore(is_energy=config.score == "energy"),
        input_px=config.input_px, device=device, batch_tiles=batch_tiles, stages=stages,
    )  # fmt: skip


class Trainee:
    """Denoising score matching."""

    phases: tuple[str, ...] = ("score matching",)

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        self.config, self.networks, self.average = config, networks, average
        self.energy = networks["energy"]
        self.learning = list(self.energy.parameters())
        self.optimizers: dict[str, Optimizer] = {
            "adam": Adam(self.learning, lr=config.learning_rate, fused=self.learning[0].is_cuda or None)
        }
        self.counts: dict[str, int] = {}

    def phase(self, progress: float) -> str:
        """There is one."""
        return self.phases[0]

    def learning_rate(self, progress: float) -> str:
        """The field of the configuration that the energy learns by."""
        return "learning_rate"

    def prepare(self, x: Tensor) -> None:
        """Nothing is needed before the first step."""

    def step(self, x: Tensor, progress: float) -> Losses:
        """Take noise from tiles x [N, 3, h, w] in [-1, 1]."""
        loss = score_matching(self.energy, x, self.config.noise * torch.randn_like(x)).mean()
        update(self.optimizers["adam"], self.learning, loss, self.average)
        return {"squared_error": loss.detach()}

    def finish(self) -> None:
        """Nothing is fitted after the last step."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """f(x) = x - grad E(x)."""
        return x - energy_and_gradient(self.energy, x)[1]
