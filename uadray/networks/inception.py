"""The Inception network of the FID. https://arxiv.org/abs/1512.00567 (Szegedy et al. 2016, Inception-v3).

Figures called FID are of one frozen graph, TensorFlow's of 2015-12-05 (Heusel et al. 2017). From torchvision's
Inception-v3 it differs in four ways: average pools leave their padding out of the mean; the last block has a maximum
where the others have a mean; its classifier, which is left out here, has 1008 outputs and there is no second one; and
pictures are enlarged to 299 px by TensorFlow's first rule, corner on corner. Parameters bear torchvision's names.

Nothing here was compared with published figures: the weights could not be had when this was written. What was compared
is said in the tests.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.networks import weights
from uadray.networks.backbones import freeze

INPUT_PX, FEATURES = 299, 2048
WEIGHTS = "inception_fid"


class ConvNorm(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int | tuple[int, int], *, stride: int = 1, same: bool = True
    ) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if same else (0, 0)
        self.conv = nn.Conv2d(channels_in, channels_out, sides, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, eps=0.001)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """The activation."""
        return F.relu(self.bn(self.conv(x)))


class BlockA(nn.Module):
    """35 x 35 positions: 1 x 1, 5 x 5, two of 3 x 3, and a mean."""

    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(channels, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = ConvNorm(channels, 48, 1), ConvNorm(48, 64, 5)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = ConvNorm(channels, 64, 1), ConvNorm(64, 96, 3)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3)
        self.branch_pool = ConvNorm(channels, pooled, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h w"]:
        """All branches on top of each other."""
        fives = self.branch5x5_2(self.branch5x5_1(x))
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), fives, threes, self.branch_pool(mean_of_neighbours(x))], dim=1)


class BlockB(nn.Module):
    """From 35 x 35 positions to 17 x 17."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = ConvNorm(channels, 384, 3, stride=2, same=False)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = ConvNorm(channels, 64, 1), ConvNorm(64, 96, 3)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, stride=2, same=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """All branches on top of each other."""
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), threes, F.max_pool2d(x, 3, stride=2)], dim=1)


class BlockC(nn.Module):
    """17 x 17 positions: 1 x 1, 7 x 7 in two parts, 7 x 7 twice so, and a mean."""

    def __init__(self, middle: int) -> None:
        super().__init__()
        self.branch1x1, self.branch_pool = ConvNorm(768, 192, 1), ConvNorm(768, 192, 1)
        self.branch7x7_1, self.branch7x7_2 = ConvNorm(768, middle, 1), ConvNorm(middle, middle, (1, 7))
        self.branch7x7_3 = ConvNorm(middle, 192, (7, 1))
        self.branch7x7dbl_1, self.branch7x7dbl_2 = ConvNorm(768, middle, 1), ConvNorm(middle, middle, (7, 1))
        self.branch7x7dbl_3, self.branch7x7dbl_4 = (ConvNorm(middle, middle, kernel) for kernel in ((1, 7), (7, 1)))
        self.branch7x7dbl_5 = ConvNorm(middle, 192, (1, 7))

    def forward(self, x: Float[Tensor, "n 768 h w"]) -> Float[Tensor, "n 768 h w"]:
        """All branches on top of each other."""
        sevens = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), sevens, double, self.branch_pool(mean_of_neighbours(x))], dim=1)


class BlockD(nn.Module):
    """From 17 x 17 positions to 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = ConvNorm(768, 192, 1)
        self.branch3x3_2 = ConvNorm(192, 320, 3, stride=2, same=False)
        self.branch7x7x3_1, self.branch7x7x3_2 = ConvNorm(768, 192, 1), ConvNorm(192, 192, (1, 7))
        self.branch7x7x3_3 = ConvNorm(192, 192, (7, 1))
        self.branch7x7x3_4 = ConvNorm(192, 192, 3, stride=2, same=False)

    def forward(self, x: Float[Tensor, "n 768 h w"]) -> Float[Tensor, "n 1280 h2 w2"]:
        """All branches on top of each other."""
        sevens = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), sevens, F.max_pool2d(x, 3, stride=2)], dim=1)


class BlockE(nn.Module):
    """8 x 8 positions: branches that end in 1 x 3 beside 3 x 1, and a mean; in the last block a maximum."""

    def __init__(self, channels: int, *, is_last: bool) -> None:
        super().__init__()
        self.is_last = is_last
        self.branch1x1, self.branch_pool = ConvNorm(channels, 320, 1), ConvNorm(channels, 192, 1)
        self.branch3x3_1 = ConvNorm(channels, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = ConvNorm(384, 384, (1, 3)), ConvNorm(384, 384, (3, 1))
        self.branch3x3dbl_1, self.branch3x3dbl_2 = ConvNorm(channels, 448, 1), ConvNorm(448, 384, 3)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = ConvNorm(384, 384, (1, 3)), ConvNorm(384, 384, (3, 1))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 2048 h w"]:
        """All branches on top of each other."""
        three, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        wide = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        wide += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.is_last else mean_of_neighbours(x)
        return torch.cat([self.branch1x1(x), *wide, self.branch_pool(pooled)], dim=1)


class Inception(nn.Module):
    """Pictures to the 2048 features of TensorFlow's `pool_3`."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2, same=False)
        self.Conv2d_2a_3x3, self.Conv2d_2b_3x3 = ConvNorm(32, 32, 3, same=False), ConvNorm(32, 64, 3)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = ConvNorm(64, 80, 1, same=False), ConvNorm(80, 192, 3, same=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = BlockA(192, 32), BlockA(256, 64), BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = map(BlockC, (128, 160, 160, 192))
        self.Mixed_7a = BlockD()
        self.Mixed_7b, self.Mixed_7c = BlockE(1280, is_last=False), BlockE(2048, is_last=True)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 2048"]:
        """X in [-1, 1], of any size."""
        return self.pooled((enlarged(127.5 * (x + 1), INPUT_PX) - 128) / 128)

    def pooled(self, y: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 2048"]:
        """The features of pictures as the graph takes them."""
        y = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(y)))
        y = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(y, 3, stride=2)))
        y = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(y, 3, stride=2))))
        y = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(y)))))
        y = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(y)))
        return y.mean(dim=(2, 3))

    def train(self, mode: bool = True) -> "Inception":
        """Stay in evaluation: a frozen network has no training mode."""
        return super().train(False)


def inception(*, state: dict[str, Tensor] | None = None) -> Inception:
    """The frozen network of the FID.

    Args:
        state: its weights; None: the pinned ones.

    Raises:
        InputError: a state that does not fit.
        WorkError: the pinned weights cannot be had.
    """
    with torch.device("meta"):
        network = Inception()
    return freeze(network, "Inception of the FID", weights.load(WEIGHTS) if state is None else state)


def mean_of_neighbours(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Means of 3 x 3 positions; at the border, of those that there are."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def enlarged(x: Float[Tensor, "n c h w"], side: int) -> Float[Tensor, "n c side side"]:
    """Bilinear as TensorFlow's first ResizeBilinear: output i lies at input i * (h / side), and nothing is smoothed."""
    rows, columns = (_between(n, side, x.device) for n in x.shape[2:])
    upper, lower, down = rows
    left, right, across = columns
    y = torch.lerp(x[:, :, upper], x[:, :, lower], down[:, None])
    return torch.lerp(y[..., left], y[..., right], across)


def _between(n: int, side: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of each output, the two inputs it lies between, and how far it lies from the first."""
    at = torch.arange(side, device=device, dtype=torch.float32) * (n / side)
    first = at.floor().long()
    return first, (first + 1).clamp(max=n - 1), at - first
