"""Layers that more than one paper's network uses, and nothing else."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Resize = Literal["up", "down", "none"]


GROUPS = 8
"""Of channels that are normalised together (Wu and He 2018 and Ho et al. 2020 take 32, of wider layers)."""


def group_norm(channels: int) -> nn.GroupNorm:
    """Normalises each image by itself, in `GROUPS` of channels, or all together where these do not divide them."""
    return nn.GroupNorm(GROUPS if channels % GROUPS == 0 else 1, channels)


class PreActivationBlock(nn.Module):
    """Pre-activation residual block (He et al. 2016, "Identity Mappings in Deep Residual Networks", fig. 1b).

    Normalisation (or none), activation, convolution, twice; a 1x1 convolution on the shortcut where the width changes.
    """

    def __init__(self, channels_in: int, channels_out: int, *, batch_norm: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before in (channels_in, channels_out):
            layers += [nn.BatchNorm2d(before)] if batch_norm else []
            layers += [nn.LeakyReLU(0.2), nn.Conv2d(before, channels_out, 3, padding=1)]
        self.residual = nn.Sequential(*layers)
        self.shortcut = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h w"]:
        """The block's output; height and width stay."""
        total: Tensor = self.shortcut(x) + self.residual(x)
        return total


class WganBlock(nn.Module):
    """Residual block of the WGAN-GP networks (Gulrajani et al. 2017, appendix C), halving or doubling the side.

    The generator normalises by batch. The critic must not, since its gradient penalty is per sample: it normalises by
    layer, which `nn.GroupNorm` with one group is.
    """

    def __init__(self, channels_in: int, channels_out: int, *, resize: Resize, per_sample: bool) -> None:
        super().__init__()
        self.resize = resize
        self.norm1 = _norm(channels_in, per_sample=per_sample)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = _norm(channels_out, per_sample=per_sample)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """The block's output, its side doubled, halved or kept as `resize` says."""
        residual = F.relu(self.norm1(x))
        if self.resize == "up":
            x, residual = (F.interpolate(t, scale_factor=2, mode="nearest") for t in (x, residual))
        residual = self.conv2(F.relu(self.norm2(self.conv1(residual))))
        total: Tensor = self.shortcut(x) + residual
        return F.avg_pool2d(total, 2) if self.resize == "down" else total


def _norm(channels: int, *, per_sample: bool) -> nn.Module:
    return nn.GroupNorm(1, channels) if per_sample else nn.BatchNorm2d(channels)
