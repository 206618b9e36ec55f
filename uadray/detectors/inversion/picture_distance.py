"""LPIPS between an image and many pictures: what is looked at in the image is computed once.

Zhang et al. 2018, https://arxiv.org/abs/1801.03924; the distance itself is `uadray.networks.lpips`. Pictures are
brought to one side first: the trunks learned at 224 px, and of 32 px AlexNet's last three layers have one place. Karras
et al. 2020 (https://arxiv.org/abs/1912.04958, appendix D) bring 1024 px to 256.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from uadray.detectors.latents import Latent
from uadray.detectors.scores import enlarged, picture_of
from uadray.networks.lpips import Lpips

Residual = Literal["lpips", "pixels"]


class PictureDistance:
    """LPIPS at one side of the pictures.

    Args:
        lpips: frozen.
        side_px: to which pictures are brought, smoothly where they are smaller, by means over areas where larger.
    """

    def __init__(self, lpips: Lpips, *, side_px: int) -> None:
        self.lpips, self.side_px = lpips, side_px

    def features(self, x: Float[Tensor, "n 3 h w"]) -> tuple[Tensor, ...]:
        """Unit feature vectors [n, c, h', w'] of each layer, in float32 or more; x in [-1, 1]."""
        maps = self.lpips.trunk(resized(x, self.side_px))
        return tuple(F.normalize(f.to(torch.promote_types(f.dtype, torch.float32)), dim=1, eps=1e-10) for f in maps)

    def maps(self, features: Sequence[Tensor], features_hat: Sequence[Tensor]) -> list[Float[Tensor, "n 1 _ _"]]:
        """Distances by place, one map a layer: their means add up to LPIPS."""
        with torch.autocast(features[0].device.type, enabled=False):
            layers = zip(self.lpips.heads, features, features_hat, strict=True)
            return [head((f - f_hat).square()) for head, f, f_hat in layers]

    def __call__(self, features: Sequence[Tensor], features_hat: Sequence[Tensor]) -> Float[Tensor, " n"]:
        """LPIPS of each pair."""
        return torch.stack([m.mean((1, 2, 3)) for m in self.maps(features, features_hat)]).sum(0)


class LpipsScore:
    """LPIPS between a tile and its closest normal picture, as a score."""

    def __init__(self, distance: PictureDistance, *, residual: Residual) -> None:
        self.distance, self.residual = distance, residual

    def __call__(
        self, x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"] | None, z: Latent
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n h2 w2"]]:
        """The map is LPIPS by place, layers enlarged to the finest, or the mean absolute residual of the pixels."""
        x_hat = picture_of(x_hat)
        features, features_hat = self.distance.features(x), self.distance.features(x_hat)
        score = self.distance(features, features_hat)
        if self.residual == "pixels":
            return score, (x - x_hat).abs().mean(1)
        layers = enlarged(self.distance.maps(features, features_hat))
        return score, torch.stack(layers).sum(0).squeeze(1)


def resized(x: Float[Tensor, "n 3 h w"], side_px: int) -> Float[Tensor, "n 3 _ _"]:
    """Pictures at another side: bilinear to a larger one, means over areas to a smaller one."""
    if x.shape[-1] == side_px:
        return x
    if x.shape[-1] > side_px:
        return F.interpolate(x, size=(side_px, side_px), mode="area")
    return F.interpolate(x, size=(side_px, side_px), mode="bilinear", align_corners=False)
