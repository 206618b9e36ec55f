"""Densely connected convolutional networks. https://arxiv.org/abs/1608.06993 (Huang et al. 2017).

As in the paper (section 3; table 1): each layer takes the maps of all layers before it within its block, through a
bottleneck of four times the growth rate (DenseNet-B); between blocks the channels and the sides are halved (DenseNet-C,
theta 0.5). DenseNet-121 has a growth rate of 32, blocks of 6, 12, 24 and 16 layers, and 64 maps after its stem.

Different: images come in [-1, 1] and are normalised as ImageNet's within. Parameters have torchvision's names, so that
its published weights fit.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.networks import weights
from uadray.networks.backbones import SCALE, SHIFT

NAME = "densenet121"
GROWTH, BLOCKS, STEM = 32, (6, 12, 24, 16), 64
"""Of DenseNet-121."""

BOTTLENECK = 4
"""Maps of a layer's bottleneck over the growth rate."""


class DenseNet(nn.Module):
    """Image to the logits of classes."""

    shift: Tensor
    scale: Tensor

    def __init__(self, *, growth: int, blocks: tuple[int, ...], stem: int, classes: int) -> None:
        """Start it as He et al. 2015 (section 4.1 refers to it).

        Args:
            growth: maps that each layer adds.
            blocks: layers of each block.
            stem: maps before the first block.
            classes: how many.
        """
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, stem, 7, 2, 3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(stem))
        self.features.add_module("relu0", nn.ReLU(inplace=True))
        self.features.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        channels = stem
        for number, layers in enumerate(blocks, 1):
            self.features.add_module(f"denseblock{number}", DenseBlock(channels, layers=layers, growth=growth))
            channels += layers * growth
            if number < len(blocks):
                self.features.add_module(f"transition{number}", Transition(channels))
                channels //= 2
        self.features.add_module(f"norm{len(blocks) + 1}", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.classifier.bias)
        self.register_buffer("shift", torch.tensor(SHIFT, device="cpu").view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE, device="cpu").view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        """Logits of x in [-1, 1]."""
        maps = F.relu(self.features((x - self.shift) / self.scale))
        logits: Tensor = self.classifier(maps.mean((2, 3)))
        return logits


class DenseBlock(nn.Module):
    """Layers `denselayer1`, ...: each adds `growth` maps to those that it is given."""

    def __init__(self, channels: int, *, layers: int, growth: int) -> None:
        super().__init__()
        for number in range(layers):
            self.add_module(f"denselayer{number + 1}", DenseLayer(channels + number * growth, growth=growth))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h w"]:
        """X and what the layers add to it."""
        for layer in self.children():
            x = torch.cat([x, layer(x)], 1)
        return x


class DenseLayer(nn.Module):
    """Normalisation, activation, convolution, twice: 1 x 1 to the bottleneck, then 3 x 3 (section 3, "Bottleneck")."""

    def __init__(self, channels: int, *, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, BOTTLENECK * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK * growth)
        self.conv2 = nn.Conv2d(BOTTLENECK * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n growth h w"]:
        """The new maps."""
        new: Tensor = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return new


class Transition(nn.Module):
    """Half the channels and half the sides (section 3, "Pooling layers" and "Compression")."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """The mean of each 2 x 2 positions."""
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


def load_published(network: DenseNet) -> None:
    """Fill a DenseNet-121 with the weights of ImageNet; its classifier keeps its own.

    Raises:
        WorkError: the pinned weights cannot be had.
    """
    state = weights.load(NAME)
    own = {key for key in network.state_dict() if key.startswith("features.") and not key.endswith("_tracked")}
    if own != state.keys():
        raise ValueError(f"the weights of {NAME} are of another network: {sorted(own ^ state.keys())[:3]}")
    network.load_state_dict(state, strict=False)


def least_px(blocks: int) -> int:
    """The smallest side of an image of which a network with so many blocks leaves a position.

    >>> least_px(1), least_px(4)
    (1, 29)
    """
    return 4 * (1 << (blocks - 1)) - 3
