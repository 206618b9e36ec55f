"""Features of a frozen backbone, normalised by channel: what a perceptual distance compares."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

FIT_TILES = 16
"""Tiles whose feature maps are held at once: 270 MB of `relu1_2` of VGG at 256 px, of 256 tiles 4.3 GB."""


class PerceptualFeatures(nn.Module):
    """A frozen backbone whose features have mean 0 and deviation 1 by channel on normal tiles (paper: section 3.1).

    Args:
        backbone: gives one map a layer.
        channels: of each layer.
        scored: so many layers, the first ones, are given where none are named; None: all.
    """

    def __init__(self, backbone: nn.Module, channels: list[int], *, scored: int | None = None) -> None:
        super().__init__()
        self.backbone, self.channels = backbone, channels
        self.scored = len(channels) if scored is None else scored
        for i, count in enumerate(channels):
            self.register_buffer(f"mean{i}", torch.zeros(1, count, 1, 1))
            self.register_buffer(f"deviation{i}", torch.ones(1, count, 1, 1))

    def forward(self, x: Tensor, layers: Sequence[int] | None = None) -> list[Tensor]:
        """X [N, 3, h, w] in [-1, 1] -> one normalised map [N, C, h', w'] a layer; `layers` are numbers of them."""
        maps = self.backbone(x)
        chosen = range(self.scored) if layers is None else layers
        return [(maps[i] - self.get_buffer(f"mean{i}")) / self.get_buffer(f"deviation{i}") for i in chosen]

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take the statistics of normal tiles x [N, 3, h, w]; N of some hundreds is enough.

        `FIT_TILES` at a time: a map of the first layers is many times as large as its tile. Means and squared
        deviations of the parts are put together in float64 (Chan et al. 1979, "Updating Formulae").
        """
        n, means, squares = 0, list[Tensor](), list[Tensor]()
        for batch in x.split(FIT_TILES):
            maps = self.backbone(batch)
            if not n:
                means = [torch.zeros(f.shape[1], dtype=torch.float64, device=f.device) for f in maps]
                squares = [torch.zeros_like(mean) for mean in means]
            for i, f in enumerate(maps):
                more, before = f.numel() // f.shape[1], n * f[0, 0].numel()
                variance, mean = (t.double() for t in torch.var_mean(f, (0, 2, 3), correction=0))
                delta, total = mean - means[i], before + more
                means[i] += delta * more / total
                squares[i] += variance * more + delta**2 * before * more / total
            n += len(batch)
            cells = [f[0, 0].numel() for f in maps]
        for i, (mean, square, count) in enumerate(zip(means, squares, cells, strict=True)):
            deviation = (square / (n * count - 1)).sqrt().clamp_min(1e-6)
            self.get_buffer(f"mean{i}").copy_(mean.view(1, -1, 1, 1))
            self.get_buffer(f"deviation{i}").copy_(deviation.view(1, -1, 1, 1))
