"""Frozen ImageNet backbones, whose feature maps measure what pixels do not.

VGG: Simonyan and Zisserman 2014, https://arxiv.org/abs/1409.1556. AlexNet: Krizhevsky 2014,
https://arxiv.org/abs/1404.5997 (the torchvision variant). EfficientNet-Lite0: the mobile variant of Tan and Le 2019,
https://arxiv.org/abs/1905.11946.

What differs from the papers: the networks end at the deepest layer asked for; no ReLU is in place where a feature map
is kept; each network normalises its own input, images being in [-1,1] everywhere in uadray. EfficientNet-Lite0 has its
batch norms multiplied into its convolutions as it runs: on a CPU it takes 0.37 of the time, and its maps differ by
rounding alone.
"""

from typing import Any, Literal, TypeVar, assert_never, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.errors import InputError
from uadray.networks import weights
from uadray.networks.remembered import maps_of

BackboneName = Literal["vgg16", "vgg19", "alexnet", "efficientnet_lite0"]
Module = TypeVar("Module", bound=nn.Module)

# ImageNet mean and standard deviation, carried from [0,1] to [-1,1]: 2*0.485-1, ... and 2*0.229, ...
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)

VGG_BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
VGG_CHANNELS = (64, 128, 256, 512, 512)
ALEXNET_TAPS = (1, 4, 7, 9, 11)  # the ReLUs in torchvision's `features`
LITE0_BLOCKS = 16


def layer_names(name: str) -> tuple[str, ...]:
    """Every layer a backbone can give, in forward order.

    >>> layer_names("alexnet")
    ('relu1', 'relu2', 'relu3', 'relu4', 'relu5')

    Raises:
        InputError: there is no such backbone.
    """
    match _known_backbone(name):
        case "vgg16" | "vgg19" as vgg:
            return tuple(f"relu{b}_{i}" for b, n in enumerate(VGG_BLOCKS[vgg], 1) for i in range(1, n + 1))
        case "alexnet":
            return tuple(f"relu{i}" for i in range(1, len(ALEXNET_TAPS) + 1))
        case "efficientnet_lite0":
            return tuple(f"block{i}" for i in range(LITE0_BLOCKS))
        case _ as unreachable:
            assert_never(unreachable)


class ConvTrunk(nn.Module):
    """VGG or AlexNet up to the deepest layer wanted; parameters under torchvision's names (`features.0.weight`).

    Attributes:
        layers: the layers returned, in order.
        channels: channels of each.
        taps: where in the network they are.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, name: Literal["vgg16", "vgg19", "alexnet"], layers: tuple[str, ...]) -> None:
        super().__init__()
        features, taps = _alexnet() if name == "alexnet" else _vgg(VGG_BLOCKS[name])
        self.layers = layers
        self.taps = tuple(taps[layer_names(name).index(layer)] for layer in layers)
        self.features = features[: max(self.taps) + 1]
        self.channels = tuple(cast(nn.Conv2d, features[tap - 1]).out_channels for tap in self.taps)
        self.register_buffer("shift", torch.tensor(SHIFT, device="cpu").view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE, device="cpu").view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """Feature maps [N,C,h,w], one for each of `layers`, of x in [-1,1]."""
        return maps_of(self, x)

    def start(self, x: Tensor) -> Tensor:
        """Normalised as for ImageNet."""
        return (x - self.shift) / self.scale

    def advance(self, y: Tensor, position: int) -> Tensor:
        """Through one module of `features`."""
        after: Tensor = self.features[position](y)
        return after

    def weights_at(self, position: int) -> dict[str, Tensor]:
        """Of one module of `features`; the start has none of its own."""
        return self.features[position].state_dict() if position >= 0 else {}

    def train(self, mode: bool = True) -> "ConvTrunk":
        """Stay in evaluation: a frozen backbone has no training mode, whatever its parent is told."""
        return super().train(False)


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 up to the deepest block wanted; parameters under the published names.

    Paddings are those of a 224 px input, which are TensorFlow's SAME for any size that is a multiple of 32 px.

    Attributes:
        layers: the layers returned, in order.
        channels: channels of each.
        taps: where in the network they are.
    """

    def __init__(self, layers: tuple[str, ...]) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name("efficientnet-lite0")
        self.layers = layers
        self.taps = tuple(layer_names("efficientnet_lite0").index(layer) for layer in layers)
        self._conv_stem = network._conv_stem
        self._bn0 = network._bn0
        self._blocks = network._blocks[: max(self.taps) + 1]
        self.channels = tuple(int(self._blocks[tap]._bn2.num_features) for tap in self.taps)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """Feature maps [N,C,h,w], one for each of `layers`, of x in [-1,1]."""
        return maps_of(self, x)

    def start(self, x: Tensor) -> Tensor:
        """Through the stem."""
        x = (127.5 * x + 0.5) / 128  # (x_255 - 127) / 128, with x_255 = 127.5 * (x + 1)
        return F.relu6(_normalised(x, self._conv_stem, self._bn0), inplace=True)

    def advance(self, y: Tensor, position: int) -> Tensor:
        """Through one block."""
        return inverted_bottleneck(y, self._blocks[position])

    def weights_at(self, position: int) -> dict[str, Tensor]:
        """Of one block; at the start those of the stem."""
        if position >= 0:
            return dict(self._blocks[position].state_dict())
        return {**self._conv_stem.state_dict(prefix="conv."), **self._bn0.state_dict(prefix="norm.")}

    def train(self, mode: bool = True) -> "EfficientNetLite0":
        """Stay in evaluation: a frozen backbone has no training mode, whatever its parent is told."""
        return super().train(False)


def inverted_bottleneck(x: Tensor, block: Any) -> Tensor:
    """A block of EfficientNet-Lite0: expanded, convolved by channel, projected, and added to x where shapes allow."""
    y = x
    if hasattr(block, "_expand_conv"):
        y = F.relu6(_normalised(y, block._expand_conv, block._bn0), inplace=True)
    y = F.relu6(_normalised(y, block._depthwise_conv, block._bn1), inplace=True)
    y = _normalised(y, block._project_conv, block._bn2)
    return y + x if block.id_skip and y.shape == x.shape else y


def _normalised(x: Tensor, conv: Any, norm: Any) -> Tensor:
    """A convolution and its batch norm in evaluation, as one convolution; padded as TensorFlow's SAME."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    weight = conv.weight * scale[:, None, None, None]
    before, after, *_ = getattr(conv.static_padding, "padding", (0, 0))
    if after > before:  # the same as padding one side more: a kernel with a row and a column of zeros in front
        weight = F.pad(weight, (after - before, 0, after - before, 0))
    return F.conv2d(x, weight, norm.bias - norm.running_mean * scale, conv.stride, after, groups=conv.groups)


Backbone = ConvTrunk | EfficientNetLite0


def build_backbone(
    name: str, layers: tuple[str, ...], *, state: dict[str, Tensor] | None = None, pretrained: bool = True
) -> Backbone:
    """A frozen backbone that returns the named feature maps of x [N,3,H,W] in [-1,1].

    Args:
        name: `vgg16`, `vgg19`, `alexnet` or `efficientnet_lite0`.
        layers: names from `layer_names(name)`, returned in this order.
        state: weights to use (a bundle carries its own); more layers than needed are ignored. None: the pinned ones.
        pretrained: False leaves NaN where a `load_state_dict` follows; forgotten, it shows in the first score.

    Raises:
        InputError: unknown backbone or layer, or a state that does not fit.
        WorkError: the pinned weights cannot be had.
    """
    known = _known_backbone(name)
    _check_layers(known, layers)
    with torch.device("meta"):  # no random start: the weights come next
        backbone = EfficientNetLite0(layers) if known == "efficientnet_lite0" else ConvTrunk(known, layers)
    if state is None:
        state = weights.load(known) if pretrained else _blank(backbone)
    return freeze(backbone, known, state)


def _vgg(blocks: tuple[int, ...]) -> tuple[nn.Sequential, list[int]]:
    """The `features` of torchvision without batch norm, and the positions of its ReLUs."""
    modules: list[nn.Module] = []
    taps: list[int] = []
    c_in = 3
    for n_convs, c_out in zip(blocks, VGG_CHANNELS, strict=True):
        for _ in range(n_convs):
            modules += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU()]
            taps.append(len(modules) - 1)
            c_in = c_out
        modules.append(nn.MaxPool2d(2))
    return nn.Sequential(*modules), taps


def _alexnet() -> tuple[nn.Sequential, list[int]]:
    """The `features` of torchvision, and the positions of its ReLUs."""
    modules: list[nn.Module] = [nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    modules += [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    for c_in, c_out in ((192, 384), (384, 256), (256, 256)):
        modules += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*modules), list(ALEXNET_TAPS)


def _blank(module: nn.Module) -> dict[str, Tensor]:
    """NaN for every weight, 0 for the counters of batch norm."""
    return {
        name: torch.full(tensor.shape, torch.nan if tensor.is_floating_point() else 0, dtype=tensor.dtype)
        for name, tensor in module.state_dict().items()
    }


def freeze(module: Module, name: str, state: dict[str, Tensor]) -> Module:
    """A module with its weights in it, in evaluation and without gradients.

    Args:
        module: to be filled; on `meta` it gets its memory here.
        name: what errors call it.
        state: its weights; more than it has are ignored.

    Raises:
        InputError: weights are missing, or do not fit.
    """
    wanted = module.state_dict().keys()
    missing = sorted(wanted - state.keys())
    if missing:
        raise InputError(f"{name}: the weights given lack {missing[0]} ({len(missing)} of {len(wanted)} are missing)")
    try:
        module.load_state_dict({key: state[key] for key in wanted}, assign=True)
    except RuntimeError as error:
        raise InputError(f"{name}: the weights given do not fit: {str(error).splitlines()[-1].strip()}") from error
    return module.requires_grad_(False).eval()


def _known_backbone(name: str) -> BackboneName:
    known: tuple[BackboneName, ...] = get_args(BackboneName)
    for candidate in known:
        if candidate == name:
            return candidate
    raise InputError(f"no backbone called {name!r}; did you mean {weights.nearest(name, known)!r}?")


def _check_layers(name: BackboneName, layers: tuple[str, ...]) -> None:
    known = layer_names(name)
    if not layers or len(set(layers)) < len(layers):
        raise InputError(f"{name}: name at least one layer, and each only once; known: {', '.join(known)}")
    for layer in layers:
        if layer not in known:
            raise InputError(f"{name} has no layer {layer!r}; did you mean {weights.nearest(layer, known)!r}?")
