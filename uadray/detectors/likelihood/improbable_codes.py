"""Codes that a prior of normal tiles finds improbable: scores, restorations, and where improbable begins.

Marimont and Tarroni 2020, https://arxiv.org/abs/2012.06765; what the paper leaves open (the weights of restorations,
the pooling) is as in the authors' implementation, https://github.com/snavalm/lsr_mood_challenge_2020 . NLL are in nats.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.networks.code_prior import CodePrior

BIN = 0.02
"""Nats: the histogram says a quantile as exactly."""

BINS = 1024
"""Up to 20 nats, one code in 500 million; what is above counts in the last."""

KEPT = 0.95
"""Of the histogram at each step: some 20 steps count, 80,000 codes of 64 tiles a step."""

IMAGES = 512
"""Restorations that are made together: bounds the memory of keys, values and activations."""

LEAST_DISTANCE = 1e-6
"""Between a tile and its restoration, where it is divided by."""

SEED = 17
"""Of the random numbers by which codes are drawn; any will do, the same for all tiles."""


class NllHistogram(nn.Module):
    """How large the NLL of the codes of normal tiles are: an exponential average over the last steps of a training.

    Attributes of the state:
        shares: [BINS].
    """

    shares: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shares", torch.zeros(BINS))

    def counted(self, nll: Float[Tensor, "n p"]) -> Float[Tensor, " bins"]:
        """Shares of a batch's codes in each bin; their mean over all workers is for `add`."""
        places = (nll.detach().flatten() / BIN).long().clamp(0, BINS - 1)
        return torch.zeros_like(self.shares).index_add_(0, places, self.shares.new_full(places.shape, 1 / len(places)))

    def add(self, shares: Float[Tensor, " bins"]) -> None:
        """The next step's."""
        self.shares.lerp_(shares, 1 - KEPT)

    def quantile(self, share: float) -> Float[Tensor, ""]:
        """NLL below which this share of the codes lies, to `BIN`; the upper end of its bin."""
        cumulated = self.shares.double().cumsum(0)
        return ((cumulated < share * cumulated[-1]).sum() + 1) * BIN

    def threshold(self, nats: float | None, *, quantile: float | None) -> float | Tensor | None:
        """Where improbable begins: at so many nats, or at a quantile in their place."""
        return nats if quantile is None else self.quantile(quantile)


def improbable_sum(nll: Float[Tensor, "n p"], threshold: float | Tensor | None) -> Float[Tensor, " n"]:
    """Sample score: sum of the NLL that are above the threshold; None: of all, the NLL of the whole grid."""
    return (nll if threshold is None else nll * (nll > threshold)).sum(1)


def residual_of(x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n h w"]:
    """Mean |x - x_hat| of the colours."""
    return (x - x_hat).abs().mean(1)


def weighted_residual(
    x: Float[Tensor, "n 3 h w"], restored: Float[Tensor, "n s 3 h w"], *, sharpness: float
) -> Float[Tensor, "n h w"]:
    """Mean residual of s restorations; the closer one is to the tile, the more it weighs: softmax(k / mean |x - x_s|).

    Args:
        x: tiles in [-1, 1].
        restored: their restorations.
        sharpness: k.
    """
    residuals = (x[:, None] - restored).abs().mean(2)  # [n, s, h, w]
    weights = (sharpness / residuals.mean((2, 3)).clamp_min(LEAST_DISTANCE)).softmax(1)
    return (weights[:, :, None, None] * residuals).sum(1)


def smoothed(residual: Float[Tensor, "n h w"], *, min_px: int, mean_px: int) -> Float[Tensor, "n h w"]:
    """Least of the pixels in a square about each, then their mean; squares end at the edge of the tile.

    Args:
        residual: map.
        min_px: side of the first square, odd; 1 leaves the map as it is.
        mean_px: of the second.
    """
    least = -F.max_pool2d(-residual[:, None], min_px, stride=1, padding=min_px // 2)
    mean = F.avg_pool2d(least, mean_px, stride=1, padding=mean_px // 2, count_include_pad=False)
    return mean[:, 0]


@dataclass(frozen=True)
class Restoration:
    """Tiles with improbable codes replaced by draws of the prior, several times, and how they differ from the tiles.

    Attributes:
        prior: of the codes of normal tiles.
        decode: codes [n, h, w] -> images [n, 3, h', w'].
        threshold: above which a code is improbable, in nats.
        count: of the restorations, S.
        sharpness: k, see `weighted_residual`.
    """

    prior: CodePrior
    decode: Callable[[Tensor], Tensor]
    threshold: float | Tensor
    count: int
    sharpness: float

    def codes(self, codes: Int[Tensor, "n h w"]) -> Int[Tensor, "n s h w"]:
        """The codes of each restoration; the same tile is always restored alike."""
        n, positions = len(codes), self.prior.positions
        generator = torch.Generator().manual_seed(SEED)
        uniforms = torch.rand(self.count, positions, generator=generator).to(codes.device)
        repeated = codes.flatten(1).repeat_interleave(self.count, 0)  # [n * s, p]
        found = self.prior.restored(repeated, uniforms.repeat(n, 1), threshold=self.threshold)
        return found.view(n, self.count, *codes.shape[1:])

    def residual(
        self,
        x: Float[Tensor, "n 3 h w"],
        x_hat: Float[Tensor, "n 3 h w"],
        codes: Int[Tensor, "n h2 w2"],
        nll: Float[Tensor, "n p"],
    ) -> Float[Tensor, "n h w"]:
        """How tiles differ from their restorations.

        Args:
            x: tiles in [-1, 1].
            x_hat: their reconstructions, which are the restorations where no code is improbable.
            codes: of the tiles.
            nll: of the codes.
        """
        residual = residual_of(x, x_hat)
        rows = (nll > self.threshold).any(1).nonzero()[:, 0]
        for part in rows.split(max(1, IMAGES // self.count)) if len(rows) else ():
            restored = self.decode(self.codes(codes[part]).flatten(0, 1)).unflatten(0, (len(part), self.count))
            residual[part] = weighted_residual(x[part], restored, sharpness=self.sharpness)
        return residual
