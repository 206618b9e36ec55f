"""A residual network for small tiles. https://arxiv.org/abs/1512.03385 .

He et al. 2016, "Deep Residual Learning for Image Recognition", table 1: the 18-layer network without its classifier.

What differs from the paper: the stem. That of the paper (7 x 7 convolution and maximum, each halving the side) leaves
2 x 2 positions of a tile of 64 px; here it is a 3 x 3 convolution that keeps the side (as Chen et al. 2020, appendix
B.9, for CIFAR-10) or halves it, unless the paper's is asked for.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Stem = Literal["full", "half", "quarter"]
"""By the side of its maps: that of the tile, half of it, or a quarter as in the paper."""

STAGES = ("stage1", "stage2", "stage3", "stage4")
BLOCKS = 2
"""Of a stage."""


class ResNet(nn.Module):
    """ResNet-18 up to the deepest stage wanted.

    Attributes:
        layers: the stages returned, in order.
        channels: channels of each.
    """

    def __init__(self, layers: tuple[str, ...], *, width: int, stem: Stem) -> None:
        """Start it as the paper's section 3.4 refers to (He et al. 2015, normal by the fan-out).

        Args:
            layers: names of `STAGES`.
            width: channels of the first stage (paper: 64); each further one has twice as many.
            stem: see `Stem`.

        Raises:
            ValueError: there is no such stage, or one is named twice.
        """
        super().__init__()
        if not layers or len(set(layers)) < len(layers) or not set(layers) <= set(STAGES):
            raise ValueError(f"layers {', '.join(layers)}: name one or several of {', '.join(STAGES)}, each once")
        numbers = [STAGES.index(layer) for layer in layers]
        self.layers, self.channels = layers, tuple(width * 2**number for number in numbers)
        self.stem = _stem(stem, width)
        channels = width
        for number, name in enumerate(STAGES[: max(numbers) + 1]):
            wider = width * 2**number
            first = BasicBlock(channels, wider, stride=1 if number == 0 else 2)
            self.add_module(name, nn.Sequential(first, *(BasicBlock(wider, wider) for _ in range(BLOCKS - 1))))
            channels = wider
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """Feature maps [N, C, h', w'], one for each of `layers`, of x in [-1, 1]."""
        x = self.stem(x)
        kept: dict[str, Tensor] = {}
        for name in STAGES[: max(STAGES.index(layer) for layer in self.layers) + 1]:
            x = self.get_submodule(name)(x)
            kept[name] = x
        return [kept[layer] for layer in self.layers]


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut (section 3.3; fig. 5, left); a 1 x 1 convolution on it where shapes change."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            convolution = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(channels_out))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """The block's output, its side divided by the stride."""
        return F.relu(self.residual(x) + self.shortcut(x))


def _stem(stem: Stem, width: int) -> nn.Sequential:
    side, stride = (7, 2) if stem == "quarter" else (3, 1 if stem == "full" else 2)
    convolution = nn.Conv2d(3, width, side, stride, side // 2, bias=False)
    layers: list[nn.Module] = [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *([nn.MaxPool2d(3, 2, 1)] if stem == "quarter" else []))
