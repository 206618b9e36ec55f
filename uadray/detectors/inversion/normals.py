"""What normal tiles have of a measure, as a function of their contrast: fitted from sums that workers can average.

The distance of a tile from its closest normal picture grows with the tile's contrast: of a tile of lymphocytes, small
and dark, more is left than of one of pale tumour. So a measure is judged by what normal tiles of the same contrast
have: their mean, and their deviation from it.

The contrast's logarithm is sorted into `BINS` equal bins; a bin has the number of its tiles, and the sums of their
measures and squared measures. Of these are told, over the bins' centres: the mean, by least squares with a penalty on
its second differences (Whittaker 1923; Eilers and Marx 1996, https://doi.org/10.1214/ss/1038425655) whose weight is the
one with the least generalised cross-validation (Craven and Wahba 1979); and the deviation, whose logarithm is quadratic
in the logarithm of the contrast, by the likelihood of squared residuals as those of a generalised linear model of the
gamma family (McCullagh and Nelder 1989, chapter 8), slightly shrunk towards one deviation for all. Beyond the contrasts
that normal tiles have, both stay what they are at the last of them.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from uadray.detectors.inversion.edges import SMOOTHING_PX, gradients, luminance, smoothed
from uadray.detectors.trainee import Average, UnsuitableTilesError
from uadray.errors import WorkError

BINS = 64
LEAST, MOST = 5e-4, 0.25
"""Contrasts between which bins lie: of glass, and of a picture whose luminance turns round every few pixels."""

LEAST_TILES = 8
EDGE_SHARE = 0.02
"""Share of the normal tiles beyond which, on either side, nothing is told from contrast any more."""

PENALTIES = tuple(10.0**power for power in range(7))
SHRINKAGE = 2.0
"""Tiles' worth of evidence that the deviation does not depend on contrast."""

_ROUNDS = 3
_STEPS = 25


def contrast(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """Of tiles in [-1, 1]: the mean length of the gradient of their smoothed luminance (0 to 1) a pixel, in float32.

    Of the measures that were tried it explains the residuals of normal tiles best (R^2 of |x - x_hat| .89; the
    deviation of the luminance .81, of the optical density .65; DECISIONS.md, 2026-11-27).
    """
    with torch.autocast(x.device.type, enabled=False):
        along_x, along_y = gradients(smoothed(luminance(x), SMOOTHING_PX))
        return (along_x.square() + along_y.square()).sqrt().flatten(1).mean(1)


class Normals(nn.Module):
    """Mean and deviation of measures on normal tiles, of all and by contrast.

    Attributes of the state:
        count: [bins], tiles.
        first: [bins, measures], sums of the measures.
        second: [bins, measures], sums of their squares.
        mean, deviation: [measures], of all tiles; NaN until they are fitted.
        mean_at, deviation_at: [bins, measures], of tiles of the contrast at a bin's centre.
    """

    count: Tensor
    first: Tensor
    second: Tensor
    mean: Tensor
    deviation: Tensor
    mean_at: Tensor
    deviation_at: Tensor

    def __init__(self, measures: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(BINS, dtype=torch.float64))
        for name in ("first", "second"):
            self.register_buffer(name, torch.zeros(BINS, measures, dtype=torch.float64))
        for name in ("mean", "deviation"):
            self.register_buffer(name, torch.full((measures,), torch.nan))
            self.register_buffer(f"{name}_at", torch.full((BINS, measures), torch.nan))

    def see(self, contrasts: Float[Tensor, " n"], values: Float[Tensor, "n t"], average: Average | None = None) -> None:
        """Count normal tiles; where workers are to stay alike, `average` makes one sum of all of theirs."""
        rows = values.double()
        numbers = _place(contrasts).round().long()
        sums = [torch.zeros_like(self.count), torch.zeros_like(self.first), torch.zeros_like(self.second)]
        for total, more in zip(sums, (torch.ones_like(rows[:, 0]), rows, rows.square()), strict=True):
            total.index_add_(0, numbers, more)
        if average is not None:
            average(sums)
        for total, more in zip((self.count, self.first, self.second), sums, strict=True):
            total += more

    def fit(self) -> None:
        """Tell means and deviations from what was counted.

        Raises:
            UnsuitableTilesError: too few tiles were seen, or all have the same measure.
        """
        n = float(self.count.sum())
        if n < LEAST_TILES:
            raise UnsuitableTilesError(f"{n:g} normal tiles were seen a worker, at least {LEAST_TILES} are needed")
        count, firsts, seconds = (t.cpu() for t in (self.count, self.first, self.second))
        for number in range(firsts.shape[1]):
            first, second = firsts[:, number], seconds[:, number]
            mean = first.sum() / n
            variance = (second.sum() / n - mean.square()) * n / (n - 1)
            if not variance > 1e-12 * mean.square():
                raise UnsuitableTilesError(f"measure {number} is the same of all normal tiles, or is not finite")
            mean_at, deviation_at = _by_contrast(count, first, second, float(variance))
            for buffer, fitted in (
                (self.mean, mean), (self.deviation, variance.sqrt()),
                (self.mean_at, mean_at), (self.deviation_at, deviation_at),
            ):  # fmt: skip
                buffer[..., number] = fitted.to(buffer)

    def check(self) -> None:
        """Whether it was fitted.

        Raises:
            WorkError: it was not.
        """
        if not bool(self.deviation.isfinite().all() & self.deviation_at.isfinite().all()):
            raise WorkError("the scores of this detector were not normalised on normal tiles; train it to its end")

    def of(self, contrasts: Float[Tensor, " n"], number: int) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Mean and deviation of a measure on normal tiles of these contrasts, between bins by straight lines."""
        place = _place(contrasts)
        below = place.floor().long().clamp_max(BINS - 2)
        share = place - below
        mean, deviation = (
            table[below, number] * (1 - share) + table[below + 1, number] * share
            for table in (self.mean_at, self.deviation_at)
        )
        return mean, deviation


def _place(contrasts: Tensor) -> Tensor:
    """Where contrasts lie among the bins' centres, 0 to `BINS` - 1."""
    share = (contrasts.float().clamp(LEAST, MOST) / LEAST).log() / math.log(MOST / LEAST)
    return share * (BINS - 1)


def _by_contrast(count: Tensor, first: Tensor, second: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """Mean and deviation [bins] of one measure, of sums [bins] on the CPU."""
    n = float(count.sum())
    passed = count.cumsum(0) / n
    low = int((passed > EDGE_SHARE).nonzero()[0])
    high = int((passed >= 1 - EDGE_SHARE).nonzero()[0])
    at = torch.arange(BINS, dtype=torch.float64).clamp(low, high)
    spread = torch.full_like(count, variance)
    mean = torch.full_like(count, float(first.sum()) / n)
    for _ in range(_ROUNDS):
        mean, freedom = _smooth_mean(count, first, second, spread)
        mean = mean[at.long()]
        squares = (second - 2 * mean * first + count * mean.square()).clamp_min(0)
        spread = _smooth_variance(count, squares, at) * n / max(n - freedom, 1.0)
    return mean, spread.sqrt()


def _smooth_mean(count: Tensor, first: Tensor, second: Tensor, spread: Tensor) -> tuple[Tensor, float]:
    """The mean [bins] and how many parameters it is worth; tiles weigh by the inverse of their variance."""
    weight = count / spread
    scale = weight.sum() / len(count)
    bend = torch.diff(torch.eye(len(count), dtype=count.dtype), n=2, dim=0)
    best, least = (first, 0.0), math.inf
    for penalty in PENALTIES:
        inverse = torch.linalg.inv(weight.diag() + penalty * scale * bend.T @ bend)
        mean = inverse @ (first / spread)
        freedom = float((inverse @ weight.diag()).trace())
        squares = float(((second - 2 * mean * first + count * mean.square()) / spread).sum())
        left = float(count.sum()) - freedom
        validation = squares / left**2 if left > 0 else math.inf
        if validation < least:
            best, least = (mean, freedom), validation
    return best


def _smooth_variance(count: Tensor, squares: Tensor, at: Tensor) -> Tensor:
    """Variance [bins] of squared residuals, summed a bin: its logarithm is quadratic in the place `at` [bins]."""
    n = count.sum()
    floor = 1e-6 * squares.sum() / n
    centre = (count * at).sum() / n
    width = ((count * (at - centre).square()).sum() / n).sqrt().clamp_min(1.0)
    along = ((at - centre) / width).clamp(-2, 2)
    design = torch.stack([torch.ones_like(along), along, along.square() - 1], 1)
    held = torch.tensor([0.0, SHRINKAGE, SHRINKAGE], dtype=count.dtype).diag()
    information = design.T @ (count[:, None] * design) + held
    level = torch.stack([(squares.sum() / n).log(), count.new_zeros(()), count.new_zeros(())])
    for _ in range(_STEPS):
        fitted = (design @ level).exp().clamp_min(floor)
        score = design.T @ (squares / fitted - count) - held @ level
        level = level + torch.linalg.solve(information, score).clamp(-1, 1)
    return (design @ level).exp().clamp_min(floor)
