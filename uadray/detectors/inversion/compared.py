"""One batch of tiles and their closest pictures, and each term's value and map of it; features are shared by terms."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.detectors.inversion.edges import edge_difference
from uadray.detectors.losses import relative_perceptual_l1, relative_perceptual_l2
from uadray.detectors.scores import enlarged, overlaid, reference_discrimination, unlikeliness
from uadray.networks.lpips import Lpips

TermKind = Literal[
    "pixel_l1", "pixel_l2", "critic", "critic_l2", "word", "reference", "lpips", "perceptual_l1", "perceptual_l2",
    "edges",
]  # fmt: skip


@runtime_checkable
class Judge(Protocol):
    """A discriminator or critic that judges each tile by itself: `uadray.detectors.inversion.critic_part`."""

    is_logistic: bool

    def features(self, x: Tensor) -> Tensor:
        """Its last maps, [n, c, h, w]."""
        ...

    def word(self, x: Tensor) -> Tensor:
        """[n], high on what looks like training data."""
        ...


@dataclass(frozen=True)
class Measures:
    """What terms are measured with; None where no term asks for it."""

    critic: Judge | None = None
    lpips: Lpips | None = None
    perceptual: nn.Module | None = None


@dataclass
class Compared:
    """Tiles x and their closest pictures x_hat, [n, 3, h, w] in [-1, 1] both."""

    x: Tensor
    x_hat: Tensor
    by: Measures
    _critic: list[Tensor] = field(default_factory=list)
    _perceptual: list[list[Tensor]] = field(default_factory=list)

    def term(self, kind: TermKind, side_px: int) -> tuple[Float[Tensor, " n"], Float[Tensor, "n _ _"]]:
        """Value and map of a term, in float32.

        Args:
            kind: which.
            side_px: of `lpips`: smaller tiles are enlarged to it.
        """
        match kind:
            case "pixel_l1":
                return _meant((self.x - self.x_hat).abs())
            case "pixel_l2":
                return _meant((self.x - self.x_hat).square())
            case "critic":
                return _meant(self._critic_residual().abs())
            case "critic_l2":
                return _meant(self._critic_residual().square())
            case "word":
                return self._everywhere(unlikeliness(self._word(self.x), is_logistic=self._judge.is_logistic))
            case "reference":
                word = self._word(self.x_hat)
                return self._everywhere(reference_discrimination(word, is_logistic=self._judge.is_logistic))
            case "lpips":
                return self._lpips(side_px)
            case "perceptual_l1" | "perceptual_l2":
                return self._relative(is_squared=kind == "perceptual_l2")
            case "edges":
                return _meant(edge_difference(self.x, self.x_hat)[:, None])

    @property
    def _judge(self) -> Judge:
        return cast(Judge, self.by.critic)

    def _critic_residual(self) -> Tensor:
        if not self._critic:
            self._critic = [self._judge.features(t).float() for t in (self.x, self.x_hat)]
        f, f_hat = self._critic
        return f - f_hat

    def _word(self, x: Tensor) -> Tensor:
        return self._judge.word(x).float()

    def _everywhere(self, value: Tensor) -> tuple[Tensor, Tensor]:
        return value, value.view(-1, 1, 1).expand(-1, *self.x.shape[2:])

    def _lpips(self, side_px: int) -> tuple[Tensor, Tensor]:
        x, x_hat = (_at_least(t, side_px) for t in (self.x, self.x_hat))
        maps = cast(Lpips, self.by.lpips).maps(x, x_hat)
        value = torch.stack([m.flatten(1).mean(1) for m in maps]).sum(0)
        return value, torch.stack(enlarged(maps)).sum(0).squeeze(1)

    def _relative(self, *, is_squared: bool) -> tuple[Tensor, Tensor]:
        if not self._perceptual:
            network = cast(nn.Module, self.by.perceptual)
            self._perceptual = [[f.float() for f in network(t)] for t in (self.x, self.x_hat)]
        f, f_hat = self._perceptual
        distance = relative_perceptual_l2 if is_squared else relative_perceptual_l1
        return distance(f, f_hat), _relative_map(f, f_hat, power=2 if is_squared else 1)


def _relative_map(features: Sequence[Tensor], features_hat: Sequence[Tensor], *, power: int) -> Tensor:
    """The residual by place over the features' own size in the whole tile, layers enlarged to the finest."""
    maps = []
    for f, f_hat in zip(features, features_hat, strict=True):
        whole = f.abs().pow(power).flatten(1).mean(1).clamp_min(1e-6)
        maps.append((f - f_hat).abs().pow(power).mean(1, keepdim=True) / whole.view(-1, 1, 1, 1))
    return overlaid(maps)


def _meant(residual: Tensor) -> tuple[Tensor, Tensor]:
    """Of a residual [n, c, h, w]: its mean, and its mean over channels."""
    return residual.flatten(1).mean(1), residual.mean(1)


def _at_least(x: Tensor, side_px: int) -> Tensor:
    if x.shape[-1] >= side_px:
        return x
    return F.interpolate(x, size=(side_px, side_px), mode="bilinear", align_corners=False)
