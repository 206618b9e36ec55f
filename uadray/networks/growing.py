"""Networks that grow while they learn: how far they have, and the discriminator that PGAN and StyleGAN share.

https://arxiv.org/abs/1710.10196 (Karras et al. 2018, section 2 and table 2). Levels count doublings from 4 x 4: level 0
has 4 px, level 4 has 64 px. All layers exist from the start, and only those of the level run.
"""

from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.errors import InputError
from uadray.networks.equalised import GROUP, Blur, Conv2d, Linear, minibatch_deviation

START_PX = 4
SLOPE = 0.2
"""Of all leaky ReLUs (Karras et al. 2018, appendix A.1)."""


def level_of(side_px: int) -> int:
    """Doublings from 4 x 4.

    >>> level_of(64)
    4
    """
    return (side_px // START_PX).bit_length() - 1


def channel_plan(input_px: int, *, channel_max: int, channel_base: int) -> list[int]:
    """Channels at 4, 8, ... `input_px`: at r px, the base over r, but no more than the maximum.

    >>> channel_plan(128, channel_max=512, channel_base=16384)
    [512, 512, 512, 512, 256, 128]
    """
    sides = [START_PX * 2**level for level in range(level_of(input_px) + 1)]
    return [max(1, min(channel_max, channel_base // side)) for side in sides]


class Growth(nn.Module):
    """How far a network has grown: a level, and the share `alpha` that its layers have; the rest is the level's before.

    Both are buffers, so that whoever opens a checkpoint or a bundle draws with the layers that have learned. What says
    which layers run are plain numbers beside them, for a GPU would have to be waited for.

    Args:
        full_level: of the whole network; where it stands until it is told otherwise.
    """

    def __init__(self, full_level: int) -> None:
        super().__init__()
        self.full_level, self.level, self.fading = full_level, full_level, False
        self.register_buffer("level_kept", torch.tensor(full_level))
        self.register_buffer("alpha", torch.tensor(1.0))
        self.level_kept: Tensor
        self.alpha: Tensor
        self.register_load_state_dict_post_hook(_stand_as_loaded)  # type: ignore[no-untyped-call]

    def move_to(self, level: int, alpha: float = 1.0) -> None:
        """Grow, or shrink, to a level."""
        self.level, self.fading = level, alpha < 1
        self.level_kept.fill_(level)
        self.alpha.fill_(alpha)

    def mix(self, before: Tensor, grown: Tensor) -> Tensor:
        """What fades in, of the tensor of the level before and of this level's."""
        return before + self.alpha * (grown - before)

    @property
    def side_px(self) -> int:
        """Side of the images at this level."""
        return START_PX << self.level


def _stand_as_loaded(growth: Growth, _: Any) -> None:
    """Make the plain numbers those of the buffers, which come from a file.

    Raises:
        InputError: they are no place that this network can stand at.
    """
    level, alpha = int(growth.level_kept.item()), float(growth.alpha.item())
    if not 0 <= level <= growth.full_level or not 0 <= alpha <= 1 or (level == 0 and alpha < 1):
        raise InputError(
            f"weights of a growing network: level {level}, alpha {alpha} (levels: 0 to {growth.full_level})"
        )
    growth.level, growth.fading = level, alpha < 1


class Discriminator(nn.Module):
    """Image to a real number (Karras et al. 2018, table 2, right).

    Args:
        input_px: side of the images at full size.
        channel_max: see `channel_plan`.
        channel_base: see `channel_plan`.
        is_blurred: halve through (1, 2, 1), as StyleGAN does; PGAN averages four values.
    """

    def __init__(self, *, input_px: int, channel_max: int, channel_base: int, is_blurred: bool) -> None:
        super().__init__()
        plan = channel_plan(input_px, channel_max=channel_max, channel_base=channel_base)
        self.growth = Growth(len(plan) - 1)
        self.from_rgb = nn.ModuleList(Conv2d(3, c, 1) for c in plan)
        self.blocks = nn.ModuleList(_Halving(c, below, is_blurred=is_blurred) for below, c in pairwise(plan))
        self.last = Conv2d(plan[0] + 1, plan[0], 3)
        self.dense = Conv2d(plan[0], plan[0], START_PX, padding=0)
        self.score = Linear(plan[0], 1, gain=1.0)

    def forward(self, x: Float[Tensor, "n 3 h w"], *, group: int = GROUP) -> Float[Tensor, " n"]:
        """Scores of x in [-1, 1], whose side is that of the level.

        The last layers, 4 px and less, always multiply in float32: small differences of scores are learned from.

        Args:
            x: images.
            group: images whose deviation is looked at together; 1 judges each as if alone.
        """
        maps = self.features(x)
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            maps = minibatch_deviation(maps.to(self.score.weight.dtype), group=group)
            maps = F.leaky_relu(self.dense(F.leaky_relu(self.last(maps), SLOPE)), SLOPE)
            value: Tensor = self.score(maps.flatten(1))
        return value.squeeze(1)

    def features(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c 4 4"]:
        """The last maps that know nothing of the batch's other images."""
        level = self.growth.level
        maps = F.leaky_relu(self.from_rgb[level](x), SLOPE)
        for number in range(level, 0, -1):
            maps = self.blocks[number - 1](maps)
            if number == level and self.growth.fading:
                before: Tensor = F.leaky_relu(self.from_rgb[level - 1](F.avg_pool2d(x, 2)), SLOPE)
                maps = self.growth.mix(before, maps)
        return maps


class _Halving(nn.Module):
    """Two convolutions and half the side."""

    def __init__(self, channels: int, channels_out: int, *, is_blurred: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv2d(channels, channels, 3), Conv2d(channels, channels_out, 3)
        self.blur = Blur((1, 3, 3, 1)) if is_blurred else None

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        x = F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x), SLOPE)), SLOPE)
        return F.avg_pool2d(x, 2) if self.blur is None else self.blur.down(x)
