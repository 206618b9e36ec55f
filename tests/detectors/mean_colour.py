"""A toy detector: how far a tile's mean colour lies from that of normal tiles, in their standard deviations.

It has no gradients, no picture to show, and what it has fitted is in buffers: the least that a detector can be.
"""

from collections.abc import Collection, Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from uadray import config as configuration
from uadray.detectors.detector import STAGES, Detector, Stage, assemble, no_picture
from uadray.detectors.latents import EncoderMap, Latent
from uadray.detectors.trainee import Average
from uadray.networks.outline import Networks


class Config(configuration.Config):
    """Mean colour.

    Attributes:
        input_px: side of what is looked at.
    """

    kind: Literal["mean_colour"]
    input_px: int = Field(default=32, ge=8, le=1024)


class Normal(nn.Module):
    """Sums over normal tiles: their number, mean colours and squared mean colours."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(7, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """X [N, 3, h, w] -> how far each pixel's colour lies from the normal mean colour, [N, 3, h, w]."""
        n, mean, square = self.get_buffer("sums").split([1, 3, 3])
        mean, square = mean / n, square / n
        deviation = (square - mean**2).clamp_min(1e-6).sqrt()
        return ((x - mean.float().view(1, 3, 1, 1)) / deviation.float().view(1, 3, 1, 1)).abs()


class MeanColour(nn.Module):
    """X [N, 3, h, w] -> z [N, 3], the mean colour."""

    def forward(self, x: Tensor) -> Tensor:
        """Mean over the tile."""
        return x.mean((2, 3))


def networks(config: Config, *, pretrained: bool) -> Networks:
    """What is fitted; nothing is borrowed."""
    return {"colour": MeanColour(), "normal": Normal()}


def borrowed_weights(config: Config) -> tuple[str, ...]:
    """None."""
    return ()


class Score:
    """Mean distance of z from the normal mean colour; the map has that of every pixel."""

    def __init__(self, normal: nn.Module) -> None:
        self.normal = normal

    def __call__(self, x: Tensor, x_hat: Tensor | None, z: Latent) -> tuple[Tensor, Tensor]:
        """Of z alone; there is no x_hat."""
        assert isinstance(z, Tensor)
        return self.normal(z[:, :, None, None]).mean((1, 2, 3)), self.normal(x).mean(1)


def detector(
    config: Config, networks: Mapping[str, nn.Module], *, device: str, batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Mean colour, no picture, distance."""
    return assemble(
        networks, mapping=lambda placed: EncoderMap(placed["colour"]), reconstruct=no_picture,
        score=lambda placed: Score(placed["normal"]), input_px=config.input_px, device=device,
        batch_tiles=batch_tiles, stages=stages, has_cells=True,
    )  # fmt: skip


class Trainee:
    """Sees tiles once, without a gradient."""

    phases: tuple[str, ...] = ("see the tiles once",)

    def __init__(self, config: Config, networks: Networks, *, average: Average) -> None:
        self.networks, self.average = networks, average
        self.optimizers: dict[str, Optimizer] = {}
        self.counts: dict[str, int] = {}

    def phase(self, progress: float) -> str:
        """There is one."""
        return self.phases[0]

    def learning_rate(self, progress: float) -> str:
        """There is none."""
        return ""

    def prepare(self, x: Tensor) -> None:
        """Nothing to prepare."""

    def step(self, x: Tensor, progress: float) -> dict[str, float]:
        """Add the mean colours of x [N, 3, h, w] to the sums, those of all workers."""
        colours = x.mean((2, 3)).double()
        more = torch.cat([colours.new_full((1,), len(x)), colours.sum(0), colours.square().sum(0)])
        self.average([more])
        sums = self.networks["normal"].get_buffer("sums")
        sums += more
        return {"tiles": sums[0].item()}

    def finish(self) -> None:
        """Nothing is fitted after the last step."""

    def reconstruct(self, x: Tensor) -> None:
        """No picture."""
