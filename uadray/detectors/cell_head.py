"""A linear head on the features of cells: two kinds of cells told apart, in closed form and blind to given directions.

Its weights are the difference of the means of enlarged and normal cells over the variance of normal ones, by channel: a
diagonal discriminant analysis (Bickel and Levina 2004, https://doi.org/10.3150/bj/1106314847). The directions in which
tiles of different scanners lie apart are projected out of them (nuisance attribute projection, Solomonoff et al. 2005,
https://doi.org/10.1109/ICASSP.2005.1415189). All is told from sums, which workers average and a bundle keeps.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from uadray.detectors.views.scanners import CHANGES


class Head(nn.Module):
    """One linear unit on a cell's features, with the sums that it was told from, one row a head of `Config.heads`.

    Attributes:
        weight: [C], the mean of the heads.
        bias: such that normal tiles have a mean score of 0, and the weights such that they have a deviation of 1.
    """

    weight: Tensor
    bias: Tensor
    normals: Tensor
    enlarged: Tensor
    changes: Tensor
    scores: Tensor

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(channels))
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("normals", torch.zeros(heads, 1 + 2 * channels, dtype=torch.float64))
        self.register_buffer("enlarged", torch.zeros(heads, 1 + 2 * channels, dtype=torch.float64))
        self.register_buffer("changes", torch.zeros(len(CHANGES), 1 + channels, dtype=torch.float64))
        self.register_buffer("scores", torch.zeros(3, dtype=torch.float64))

    def forward(self, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n h w"]:
        """How enlarged the nuclei of each cell look."""
        return torch.einsum("nchw,c->nhw", z, self.weight) + self.bias

    def fit(self) -> None:
        """Set the weights to the mean of the heads that have seen both kinds of cells; they stay 0 where none has."""
        nuisance = [sums[1:] / sums[0] for sums in self.changes if sums[0] > 0]
        weights = [
            projected((mean_of(enlarged) - mean_of(normal)) / variance_of(normal), variance_of(normal), nuisance)
            for normal, enlarged in zip(self.normals, self.enlarged, strict=True)
            if normal[0] > 0 and enlarged[0] > 0
        ]
        if weights:
            self.weight.copy_(torch.stack(weights).mean(0))
        self.bias.zero_()

    def scale(self) -> None:
        """Give scores of normal tiles, counted with the weights of `fit`, a mean of 0 and a deviation of 1."""
        count, total, squares = self.scores
        mean = total / count
        deviation = (squares / count - mean.square()).clamp_min(1e-24).sqrt()
        self.weight.div_(deviation)
        self.bias.copy_(-mean / 2 / deviation)  # a score is the sum of two means of cells: the bias counts twice


def sums_of(cells: Float[Tensor, "m c"], weights: Float[Tensor, " m"]) -> Float[Tensor, " s"]:
    """Count, sums and sums of squares of the cells, [1 + 2 C] in float64."""
    cells, weights = cells.double(), weights.double()
    return torch.cat([weights.sum()[None], weights @ cells, weights @ cells.square()])


def mean_of(sums: Tensor) -> Tensor:
    """[C] of `sums_of`."""
    return sums[1 : 1 + (len(sums) - 1) // 2] / sums[0]


def variance_of(sums: Tensor) -> Tensor:
    """[C] of `sums_of`."""
    variance = sums[1 + (len(sums) - 1) // 2 :] / sums[0] - mean_of(sums).square()
    clamped: Tensor = variance.clamp_min(1e-12)
    return clamped


def projected(
    weight: Float[Tensor, " c"], variance: Float[Tensor, " c"], directions: list[Tensor]
) -> Float[Tensor, " c"]:
    """The weights nearest to `weight`, in the metric of the variance, that do not respond to any of the directions."""
    if not directions:
        return weight
    d = torch.stack(directions, 1)
    whitened = d / variance[:, None]
    allowed: Tensor = weight - whitened @ torch.linalg.lstsq(d.mT @ whitened, d.mT @ weight).solution
    return allowed


def separation(normal: Tensor, enlarged: Tensor, weight: Tensor) -> float:
    """Difference of the mean scores of enlarged and normal cells, over the deviation that independent channels give.

    0 where a batch has none of one kind.
    """
    if not (normal[0] > 0 and enlarged[0] > 0):
        return 0.0
    w = weight.double()
    difference = w @ (mean_of(enlarged) - mean_of(normal))
    return float(difference / (w.square() @ variance_of(normal)).clamp_min(1e-24).sqrt())
