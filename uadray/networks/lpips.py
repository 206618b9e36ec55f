"""The LPIPS distance. Zhang et al. 2018, https://arxiv.org/abs/1801.03924.

As in the authors' code, version 0.1: distances between unit feature vectors of a frozen trunk, weighed by learned
heads. Its trunks are those of `uadray.networks.backbones`.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from uadray.errors import InputError
from uadray.networks import weights
from uadray.networks.backbones import ConvTrunk, freeze

LpipsNet = Literal["alexnet", "vgg16"]

LPIPS_LAYERS: dict[LpipsNet, tuple[str, ...]] = {
    "alexnet": ("relu1", "relu2", "relu3", "relu4", "relu5"),
    "vgg16": ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"),
}


class Lpips(nn.Module):
    """LPIPS v0.1: distances between unit feature vectors, weighed by learned heads and averaged over the image."""

    def __init__(self, trunk: ConvTrunk) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(nn.Conv2d(c, 1, 1, bias=False) for c in trunk.channels)

    def forward(self, x: Float[Tensor, "n 3 h w"], y: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """Distance [N] between images in [-1,1]; 0 for equal ones, about 0.7 for a strong distortion."""
        total = x.new_zeros(len(x))
        for distances in self.maps(x, y):
            total = total + distances.mean(dim=(1, 2, 3))
        return total

    def maps(self, x: Float[Tensor, "n 3 h w"], y: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n 1 _ _"]]:
        """Distances by place, one map a layer: their means over places add up to the distance.

        Under autocast the trunk alone is lowered.
        """
        features = list(zip(self.trunk(x), self.trunk(y), strict=True))
        with torch.autocast(x.device.type, enabled=False):
            pairs = zip(self.heads, features, strict=True)
            return [head((_unit(f.float()) - _unit(g.float())) ** 2) for head, (f, g) in pairs]

    def train(self, mode: bool = True) -> "Lpips":
        """Stay in evaluation, as the trunk does."""
        return super().train(False)


def lpips_distance(net: LpipsNet, *, state: dict[str, Tensor] | None = None, pretrained: bool = True) -> Lpips:
    """The frozen LPIPS v0.1 distance on AlexNet (the paper's choice for measuring) or VGG16 (for training).

    Args:
        net: the trunk.
        state: a state_dict of such a module; None: the pinned weights.
        pretrained: without it all weights are NaN, for a bundle to fill.

    Raises:
        InputError: another net, or a state that does not fit.
        WorkError: the pinned weights cannot be had.
    """
    if net not in LPIPS_LAYERS:
        raise InputError(f"LPIPS has no net {net!r}; did you mean {weights.nearest(net, get_args(LpipsNet))!r}?")
    if state is None and pretrained:
        trunk_state = {f"trunk.{name}": tensor for name, tensor in weights.load(net).items()}
        state = {**trunk_state, **weights.load(f"lpips_{net}")}
    with torch.device("meta"):
        distance = Lpips(ConvTrunk(net, LPIPS_LAYERS[net]))
    if state is None:
        state = {name: torch.full(tensor.shape, torch.nan) for name, tensor in distance.state_dict().items()}
    return freeze(distance, f"LPIPS on {net}", state)


def _unit(features: Tensor) -> Tensor:
    """Unit length along the channels; the norm's gradient is 0, not NaN, where every channel is 0."""
    length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / (length + 1e-10)  # 1e-10: as the authors' code
