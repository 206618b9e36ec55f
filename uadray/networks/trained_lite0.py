"""EfficientNet-Lite0 as it is trained further. https://arxiv.org/abs/1905.11946 (its mobile variant).

`uadray.networks.backbones.EfficientNetLite0` stands still, its batch norms multiplied into its convolutions. Here they
normalise by the batch in training, and follow the new images by a tenth a step (the published network by a hundredth,
too slow for some hundred steps). There is no stochastic depth. In evaluation both give the same maps.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.networks import weights
from uadray.networks.backbones import layer_names

NAME = "efficientnet_lite0"
MOMENTUM = 0.1
"""Of the running statistics of batch norm: torch's own."""


class TrainedLite0(nn.Module):
    """EfficientNet-Lite0 up to the deepest block wanted; parameters under the published names.

    Attributes:
        layers: the layers returned, in order.
        channels: channels of each.
    """

    def __init__(self, layers: tuple[str, ...], *, pretrained: bool) -> None:
        """Take the weights of ImageNet, or random ones where others follow.

        Raises:
            ValueError: there is no such layer, or one is named twice.
            WorkError: the pinned weights cannot be had.
        """
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        known = layer_names(NAME)
        if not layers or len(set(layers)) < len(layers) or not set(layers) <= set(known):
            raise ValueError(f"layers {', '.join(layers)}: name one or several of {', '.join(known)}, each once")
        network = EfficientNet.from_name("efficientnet-lite0")
        self.layers = layers
        self._taps = tuple(known.index(layer) for layer in layers)
        self._conv_stem, self._bn0 = network._conv_stem, network._bn0
        self._blocks = network._blocks[: max(self._taps) + 1]
        self.channels = tuple(int(self._blocks[tap]._bn2.num_features) for tap in self._taps)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = MOMENTUM
        if pretrained:
            state = weights.load(NAME)
            self.load_state_dict({key: state[key] for key in self.state_dict()})

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """Feature maps [N, C, h', w'], one for each of `layers`, of x in [-1, 1]; sides are multiples of 32."""
        x = (127.5 * x + 0.5) / 128  # as ImageNet's images: (x_255 - 127) / 128
        x = F.relu6(_normalised(x, self._conv_stem, self._bn0))
        kept: dict[int, Tensor] = {}
        for position, block in enumerate(self._blocks):
            x = _inverted_bottleneck(x, block)
            kept[position] = x
        return [kept[tap] for tap in self._taps]


def _inverted_bottleneck(x: Tensor, block: Any) -> Tensor:
    """Expanded, convolved by channel, projected, and added to x where shapes allow."""
    y = x
    if hasattr(block, "_expand_conv"):
        y = F.relu6(_normalised(y, block._expand_conv, block._bn0))
    y = F.relu6(_normalised(y, block._depthwise_conv, block._bn1))
    y = _normalised(y, block._project_conv, block._bn2)
    return y + x if block.id_skip and y.shape == x.shape else y


def _normalised(x: Tensor, conv: Any, norm: Any) -> Tensor:
    """A convolution, padded as TensorFlow's SAME, and its batch norm: one convolution where the norm stands still."""
    if norm.training:
        return torch.as_tensor(norm(conv(x)))
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    weight = conv.weight * scale[:, None, None, None]
    x = conv.static_padding(x)
    return F.conv2d(x, weight, norm.bias - norm.running_mean * scale, conv.stride, 0, groups=conv.groups)
