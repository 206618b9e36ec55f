"""What differs between a tile and its reconstructions from several noise levels, normalised on normal tiles.

Graham et al. 2023, https://arxiv.org/abs/2211.07740, section 3: of every noise level the mean squared error and LPIPS
between tile and reconstruction, each in deviations from the mean of normal images at that level, and their sum.

Different: the mean over levels and distances, not the sum of both distances' means, which is the same order; means and
deviations may be those of normal tiles of the tile's contrast (`uadray.detectors.inversion.normals`).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from uadray.detectors.inversion.normals import Normals, contrast
from uadray.detectors.inversion.picture_distance import PictureDistance
from uadray.detectors.latents import Latent
from uadray.detectors.scores import enlarged

ResidualKind = Literal["mse", "lpips"]


class LevelScore:
    """The mean over noise levels and distances of deviations from normal tiles, as a score.

    Args:
        normals: with one measure for each distance and level, levels first to last of one distance, then of the next.
        residuals: the distances.
        distance: LPIPS; None where it is not among them.
        by_contrast: normalise by normal tiles of the tile's contrast, in place of all normal tiles.
    """

    def __init__(
        self,
        normals: Normals,
        *,
        residuals: Sequence[ResidualKind],
        distance: PictureDistance | None,
        by_contrast: bool,
    ) -> None:
        self.normals, self.residuals, self.distance, self.by_contrast = normals, residuals, distance, by_contrast

    def __call__(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"] | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h w"]]:
        """The map is the mean of the distances by place, in the same deviations: of MSE its mean is the score."""
        values, maps = self.measured(x, z)
        mean, deviation = self._normal(x)
        score = ((values - mean) / deviation).mean(1)
        by_place = (maps - mean[:, :, None, None]) / deviation[:, :, None, None]
        return score, by_place.mean(1)

    def measured(self, x: Float[Tensor, "n 3 h w"], z: Latent) -> tuple[Tensor, Tensor]:
        """The distances [n, m] of tiles from their reconstructions z [n, levels, 3, h, w], and by place [n, m, h, w].

        Raises:
            TypeError: z is something else than reconstructions.
        """
        if not isinstance(z, Tensor):
            raise TypeError(f"reconstructions are a tensor [n, levels, 3, h, w], found {type(z).__name__}")
        x, z = x.float(), z.float()
        parts = [_squared(x, z) if kind == "mse" else self._perceptual(x, z) for kind in self.residuals]
        return torch.cat([values for values, _ in parts], 1), torch.cat([maps for _, maps in parts], 1)

    def _perceptual(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        if self.distance is None:
            raise TypeError("LPIPS is asked for, and its network is not there")
        features = self.distance.features(x)
        values, maps = list[Tensor](), list[Tensor]()
        for pictures in z.unbind(1):
            layers = self.distance.maps(features, self.distance.features(pictures))
            values.append(torch.stack([m.mean((1, 2, 3)) for m in layers]).sum(0))
            by_place = torch.stack(enlarged([*layers, x.new_zeros(len(x), 1, *x.shape[2:])])).sum(0)
            maps.append(by_place.squeeze(1))
        return torch.stack(values, 1), torch.stack(maps, 1)

    def _normal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation [n, m] of the distances on normal tiles."""
        if not self.by_contrast:
            return self.normals.mean[None], self.normals.deviation[None]
        contrasts = contrast(x)
        pairs = [self.normals.of(contrasts, number) for number in range(len(self.normals.mean))]
        return torch.stack([mean for mean, _ in pairs], 1), torch.stack([deviation for _, deviation in pairs], 1)


def _squared(x: Float[Tensor, "n 3 h w"], z: Float[Tensor, "n levels 3 h w"]) -> tuple[Tensor, Tensor]:
    """Mean squared errors [n, levels], and over colours alone [n, levels, h, w]."""
    maps = (x[:, None] - z).square().mean(2)
    return maps.mean((2, 3)), maps
