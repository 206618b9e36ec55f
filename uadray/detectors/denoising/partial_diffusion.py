"""The stage `map` of a detector by diffusion: a tile to several times, and back from each of them.

Wyatt et al. 2022, algorithm 2, once for each level. Noise is drawn from fixed seeds, on the CPU, and is the same for
every tile, so that a tile's reconstructions depend on no other tile and not on the device.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from uadray.detectors.denoising.sampling import denoised, time_of, times_back
from uadray.detectors.denoising.schedule import noised
from uadray.detectors.denoising.simplex_noise import octaves
from uadray.detectors.inversion.interruption import between_steps

NoiseKind = Literal["gaussian", "simplex"]

SEED = 20_220
"""Of the noise that tiles are diffused with."""


class PartialDiffusion:
    """x -> its reconstruction from each level.

    Args:
        denoiser: (x_t, t) -> the noise in x_t, t from 0 to 1000.
        alpha_bar: [T + 1], see `uadray.detectors.denoising.schedule`.
        levels: times, each at most T.
        steps: of the way back from each, at the most.
        eta: see `uadray.detectors.denoising.sampling`.
        noise: that tiles are diffused with, on the way back too.
    """

    def __init__(
        self, denoiser: nn.Module, alpha_bar: Float[Tensor, " times"], *, levels: Sequence[int], steps: int, eta: float,
        noise: NoiseKind,
    ) -> None:  # fmt: skip
        self.denoiser, self.alpha_bar, self.eta, self.noise = denoiser, alpha_bar, eta, noise
        self.times = [times_back(level, steps) for level in levels]
        self.passes = sum(len(times) - 1 for times in self.times)

    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n levels 3 h w"]:
        """X in [-1, 1]; so are the reconstructions."""
        x, alpha_bar = x.float(), self.alpha_bar.to(x.device, torch.float32)
        made = 0

        def after_step() -> None:
            nonlocal made
            made += 1
            between_steps(made / self.passes)

        pictures = list[Tensor]()
        for number, times in enumerate(self.times):
            start = self._drawn(x, number, times[0])
            x_t = noised(x, start, alpha_bar[times[0] : times[0] + 1])
            draw = lambda time, number=number: self._drawn(x, number, time)  # noqa: E731  # of this level
            pictures.append(
                denoised(self._predicted, x_t, times, alpha_bar, eta=self.eta, draw=draw, after_step=after_step)
            )
        return torch.stack(pictures, 1)

    def _predicted(self, x_t: Tensor, time: int) -> Tensor:
        """The noise, in float32 under autocast too."""
        t = torch.full((len(x_t),), time, device=x_t.device)
        predicted: Tensor = self.denoiser(x_t, time_of(t, len(self.alpha_bar) - 1))
        return predicted.float()

    def _drawn(self, x: Tensor, level: int, time: int) -> Tensor:
        return fixed_noise(self.noise, x.shape[-1], level, time).to(x.device)


@lru_cache(maxsize=256)
def fixed_noise(kind: NoiseKind, side_px: int, level: int, time: int) -> Float[Tensor, "1 3 side side"]:
    """The noise of a level and time, the same whenever it is asked for, on the CPU."""
    rng = torch.Generator().manual_seed(SEED + 100_000 * level + time)
    with torch.inference_mode(mode=False):  # it is kept, and a training may ask for it next
        if kind == "simplex":
            return octaves(3, side_px, rng=rng)[None]
        return torch.randn(1, 3, side_px, side_px, generator=rng)


def noise_like(x: Float[Tensor, "n 3 h w"], kind: NoiseKind) -> Float[Tensor, "n 3 h w"]:
    """Noise of a training step, other at each call, in float32."""
    if kind == "gaussian":
        return torch.randn_like(x, dtype=torch.float32)
    return octaves(3 * len(x), x.shape[-1], device=x.device).view(x.shape)
