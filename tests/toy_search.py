"""A detector whose stage `map` is a search of many steps: it counts what is searched for, and can be slow."""

import time

import torch
from torch import Tensor

from uadray.detectors.detector import Detector, assemble
from uadray.detectors.inversion.interruption import between_steps
from uadray.detectors.latents import Latent


class CountedSearch:
    """Moves a colour towards the tile's mean one; its latent is that colour and how far it was at the start."""

    def __init__(self, *, steps: int = 4, step_s: float = 0.0) -> None:
        self.steps, self.step_s = steps, step_s
        self.passes, self.tiles = 0, 0

    def __call__(self, x: Tensor) -> Latent:
        """Of x [n, 3, h, w]: [n, 3] and [n]."""
        self.passes, self.tiles = self.passes + 1, self.tiles + len(x)
        target = x.mean((2, 3))
        colour = torch.zeros_like(target)
        for step in range(self.steps):
            colour = colour + 0.5 * (target - colour)
            time.sleep(self.step_s)
            between_steps((step + 1) / self.steps)
        return colour, target.abs().sum(1)


def searching(search: CountedSearch, *, batch_tiles: int | None = None) -> Detector:
    """Its picture is one colour, its score the distance to the tile, its map that distance by pixel."""

    def picture(z: Latent) -> Tensor:
        x_hat: Tensor = z[0][:, :, None, None].expand(-1, -1, 16, 16)
        return x_hat

    def score(x: Tensor, x_hat: Tensor | None, z: Latent) -> tuple[Tensor, Tensor]:
        assert x_hat is not None
        residual = (x - x_hat).abs().mean(1)
        return residual.mean((1, 2)) + z[1], residual

    return assemble(
        {}, mapping=lambda _: search, reconstruct=lambda _: picture, score=lambda _: score, input_px=16, device="cpu",
        batch_tiles=batch_tiles, searches=True,
    )  # fmt: skip
