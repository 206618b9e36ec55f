"""A threshold on the residuals of pixels: a percentile of those of normal tiles.

Baur et al. 2018, https://arxiv.org/abs/1804.04488, section on post-processing.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from uadray.detectors.trainee import Average, UnsuitableTilesError
from uadray.errors import WorkError

BINS = 1024
MOST = 2.0
"""The largest residual of images in [-1, 1]: a bin is a quarter of a grey level of 255."""


class ResidualThreshold(nn.Module):
    """A histogram of residuals, which workers can average, and the percentile told from it; NaN until then."""

    counts: Tensor
    value: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(BINS, dtype=torch.float64))
        self.register_buffer("value", torch.full((), torch.nan))
        self._is_checked = False

    def count(self, residuals: Float[Tensor, "n h w"], average: Average) -> None:
        """Count the residuals of normal tiles, 0 to 2, as means over all workers; what is larger is in the last bin."""
        bins = (residuals * (BINS / MOST)).long().clamp(0, BINS - 1).flatten()
        seen = torch.zeros_like(self.counts).scatter_add_(0, bins, torch.ones_like(bins, dtype=torch.float64))
        average([seen])
        self.counts += seen

    def fit(self, percentile: float) -> None:
        """Tell the threshold: the upper edge of the bin in which the percentile lies.

        Raises:
            UnsuitableTilesError: nothing was counted.
        """
        total = self.counts.sum()
        if not total > 0:
            raise UnsuitableTilesError("no residual of a normal tile was seen; no threshold can be told")
        reached = self.counts.cumsum(0) >= percentile / 100 * total
        self.value.copy_((reached.long().argmax() + 1) * (MOST / BINS))

    def share_above(self, residuals: Float[Tensor, "n h w"]) -> Float[Tensor, " n"]:
        """Of each tile the share of pixels above the threshold.

        Raises:
            WorkError: it was not told.
        """
        if not self._is_checked:
            if not torch.isfinite(self.value):
                raise WorkError("the threshold on residuals was not fitted; train the detector to its end")
            self._is_checked = True
        return (residuals > self.value).float().flatten(1).mean(1)
