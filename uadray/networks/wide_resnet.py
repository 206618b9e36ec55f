"""Wide residual networks. https://arxiv.org/abs/1605.07146 (Zagoruyko and Komodakis 2016).

As in the paper: three groups of pre-activation blocks of 16, 32 and 64 channels times the widening, the second and
third of which halve the side. Different: the last maps are averaged over all positions, whatever the input's side.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = (16, 32, 64)


class WideBlock(nn.Module):
    """Normalisation, activation, convolution, twice; where the shape changes, the shortcut begins after the first."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels_in), nn.BatchNorm2d(channels_out)
        self.conv1 = _convolution(channels_in, channels_out, 3, stride=stride)
        self.conv2 = _convolution(channels_out, channels_out, 3)
        same = channels_in == channels_out and stride == 1
        self.shortcut = None if same else _convolution(channels_in, channels_out, 1, stride=stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """The block's output, its side divided by the stride."""
        active = F.relu(self.norm1(x))
        residual: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return residual + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """WRN-`depth`-`widen`: image to the logits of classes."""

    def __init__(self, *, depth: int, widen: int, classes: int) -> None:
        super().__init__()
        channels = GROUPS[0]
        layers: list[nn.Module] = [_convolution(3, channels, 3)]
        for group, width in enumerate(GROUPS):
            for number in range((depth - 4) // 6):
                layers.append(WideBlock(channels, width * widen, stride=2 if group and not number else 1))
                channels = width * widen
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU())
        self.to_classes = nn.Linear(channels, classes)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        """X in [-1, 1]; sides of at least 4 px."""
        logits: Tensor = self.to_classes(self.layers(x).mean((2, 3)))
        return logits


def check_depth(depth: int) -> None:
    """Refuse a depth that three groups of equally many blocks cannot have.

    Raises:
        ValueError: it is not 6 n + 4.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth {depth} is not 10, 16, 22, ...: three groups of blocks of two layers, and four more")


def _convolution(channels_in: int, channels_out: int, side: int, *, stride: int = 1) -> nn.Conv2d:
    convolution = nn.Conv2d(channels_in, channels_out, side, stride=stride, padding=side // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight)
    return convolution
