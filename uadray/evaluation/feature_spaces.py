"""What pictures are compared by: the features of a frozen network, one row a picture.

`inception` is that of the FID; `efficientnet_lite0` stands in where its weights cannot be had: the same figures on it
bear its name, and compare with no published FID. Its features are the means over the maps of blocks 7 and 10, of
pictures that are enlarged to 64 px or reduced to 256 px, and else as they are. Those of its last blocks are no good for
it: there, noise lies among tiles of tissue (precision 0.95 to 0.97), and blurred tiles nearly among sharp ones.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, assert_never

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from uadray.detectors.pixels import to_float
from uadray.networks import weights
from uadray.networks.backbones import Backbone, build_backbone
from uadray.networks.inception import WEIGHTS, inception
from uadray.networks.weights import Status
from uadray.tiles.images import Pixels

SpaceName = Literal["inception", "efficientnet_lite0"]

LITE0_LAYERS = ("block7", "block10")
LITE0_PX = (64, 256)
"""Least and largest side that EfficientNet-Lite0 is shown: below it has no positions left, above it takes long."""

PIXELS_AT_ONCE = 64 * 64 * 64
"""That the network is shown together: 64 pictures of 64 px."""


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """Pictures -> features.

    Attributes:
        name: which.
        network: x [n, 3, h, w] in [-1, 1] -> [n, d].
        device: where it is.
    """

    name: SpaceName
    network: Callable[[Tensor], Tensor]
    device: torch.device

    def figure(self, name: str) -> str:
        """The name of a figure measured here.

        >>> space = FeatureSpace("efficientnet_lite0", torch.nn.Identity(), torch.device("cpu"))
        >>> space.figure("frechet"), FeatureSpace("inception", space.network, space.device).figure("frechet")
        ('frechet_efficientnet_lite0', 'fid')
        """
        if self.name == "inception":
            return {"frechet": "fid"}.get(name, name)
        return f"{name}_{self.name}"

    def of(self, pictures: Pixels) -> npt.NDArray[np.float32]:
        """Features [n, d] of RGB bytes [n, h, w, 3]."""
        step = max(1, PIXELS_AT_ONCE // (pictures.shape[1] * pictures.shape[2]))
        parts = [pictures[start : start + step] for start in range(0, len(pictures), step)]
        with torch.inference_mode(), all_bits():
            rows = [self.network(to_float(torch.from_numpy(part).to(self.device))).float().cpu() for part in parts]
        return torch.cat(rows).numpy()

    def of_each(self, batches: Iterable[Pixels]) -> npt.NDArray[np.float32]:
        """Features [n, d] of pictures that come in batches."""
        return np.concatenate([self.of(batch) for batch in batches])


def chosen_space() -> SpaceName:
    """Inception where its weights lie in the cache, else EfficientNet-Lite0: nothing is fetched unasked."""
    is_there = weights.verify(WEIGHTS) in (Status.VERIFIED, Status.RECORDED)
    return "inception" if is_there else "efficientnet_lite0"


def feature_space(name: SpaceName, device: str) -> FeatureSpace:
    """A frozen network on a device.

    Raises:
        WorkError: its weights cannot be had.
    """
    match name:
        case "efficientnet_lite0":
            backbone = build_backbone(name, LITE0_LAYERS).to(device)
            return FeatureSpace(name, partial(_lite0_features, backbone), torch.device(device))
        case "inception":
            return FeatureSpace(name, inception().to(device), torch.device(device))
        case _ as unreachable:
            assert_never(unreachable)


def _lite0_features(backbone: Backbone, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 192"]:
    return torch.cat([maps.mean(dim=(2, 3)) for maps in backbone(lite0_sized(x))], dim=1)


def lite0_sized(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h2 w2"]:
    """The pictures with sides within `LITE0_PX` that are multiples of 32, which its paddings are for."""
    side = min(max(min(x.shape[2:]), LITE0_PX[0]), LITE0_PX[1]) // 32 * 32
    if x.shape[2:] == (side, side):
        return x
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False, antialias=True)


@contextmanager
def all_bits() -> Iterator[None]:
    """While features are computed on a GPU: float32 with all its bits. What was set before is set again."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.allow_tf32, matmul.allow_tf32)
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before
