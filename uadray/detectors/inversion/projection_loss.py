"""What StyleGAN2's projection lowers, and how its rate goes. https://arxiv.org/abs/1912.04958 (appendix D).

Karras et al. 2020: LPIPS between the image and the picture of the latent, to which noise is added that is annealed over
the first three quarters of the steps, and the penalty of `uadray.detectors.inversion.noise_maps`.

Different: the added noise is the same for every image, drawn once from a seed. So what becomes of a tile does not
depend on the tiles beside it.
"""

import math
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float
from torch import Tensor

from uadray.detectors.inversion import noise_maps
from uadray.detectors.inversion.latent_space import LatentSpace
from uadray.detectors.inversion.picture_distance import PictureDistance

SEED = 1912
"""Of the noise that is added to latents."""

QUIET_FROM = 0.75
"""Share of the steps after which no noise is added."""

RAMP_UP, RAMP_DOWN = 0.05, 0.25
"""First share of the steps, in which the rate rises, and last share, in which it falls: 50 and 250 of 1,000."""


class ProjectionLoss:
    """LPIPS, and the penalty on noise maps where they are searched for.

    Args:
        space: of the latents.
        distance: of pictures.
        steps: of the search.
        latent_noise: of the first step, in deviations of the latents (appendix D: 0.05).
        noise_penalty: weight (appendix D: 1e5).
        is_lowered: the generator's and LPIPS's convolutions multiply in bfloat16.
    """

    def __init__(
        self, space: LatentSpace, distance: PictureDistance, *, steps: int, latent_noise: float, noise_penalty: float,
        is_lowered: bool = False,
    ) -> None:  # fmt: skip
        self.space, self.distance, self.noise_penalty, self.is_lowered = space, distance, noise_penalty, is_lowered
        scale = latent_noise * space.deviation() if latent_noise else 0.0
        self._scales = [scale * noise_share(step / steps) for step in range(steps)]
        self._n_noisy = sum(each > 0 for each in self._scales)
        draws = torch.randn(self._n_noisy, 1, *space.shape, generator=torch.Generator().manual_seed(SEED))
        self._draws = draws.to(space.device)

    def targets(self, x: Float[Tensor, "n 3 h w"]) -> tuple[Tensor, ...]:
        """LPIPS's features of the images."""
        with self._lowered():
            return self.distance.features(x)

    def __call__(self, variables: tuple[Tensor, ...], targets: tuple[Tensor, ...], step: int) -> Float[Tensor, " n"]:
        """Losses of latents and noise maps."""
        latents, *maps = variables
        if step < self._n_noisy:
            latents = latents + self._scales[step] * self._draws[step].to(latents.dtype)
        with self._lowered():
            pictures = self.space.pictures(latents, maps or None)
            loss = self.distance(targets, self.distance.features(pictures))
        return loss + self.noise_penalty * noise_maps.penalty(maps) if maps else loss

    def _lowered(self) -> AbstractContextManager[object]:
        return torch.autocast(self.space.device.type, torch.bfloat16, enabled=self.is_lowered)


def noise_share(progress: float) -> float:
    """Of the noise that is added to latents: from 1 down to 0 at `QUIET_FROM`, as a square (appendix D).

    >>> [noise_share(progress) for progress in (0.0, 0.375, 0.75, 0.9)]
    [1.0, 0.25, 0.0, 0.0]
    """
    return max(0.0, 1 - progress / QUIET_FROM) ** 2


def rate_share(progress: float) -> float:
    """Of the learning rate: up along a line, then 1, and at last down along half a cosine (appendix D).

    >>> [round(rate_share(progress), 3) for progress in (0.0, 0.025, 0.05, 0.5, 0.75, 0.875, 1.0)]
    [0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0]
    """
    down = min(1.0, (1 - progress) / RAMP_DOWN)
    return (0.5 - 0.5 * math.cos(math.pi * down)) * min(1.0, progress / RAMP_UP)
