"""An autoencoder that grows: its resolutions in order, where a training stands between them, and what it learns there.

Tuluptceva et al. 2020, https://arxiv.org/abs/2006.13265, section 3.3, after Karras et al. 2018,
https://arxiv.org/abs/1710.10196.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, cast

import torch
from jaxtyping import Float
from pydantic import Field, StringConstraints
from torch import Tensor, nn
from torch.nn import functional as F

from uadray import config as configuration
from uadray.networks.autoencoder import Decoder, Encoder, Growth, grown

NARROW = 8
"""Channels below which a GPU's units for bfloat16 have nothing to multiply."""

LayerName = Annotated[str, StringConstraints(max_length=40)]


class Resolution(configuration.Config):
    """A resolution at which an autoencoder learns.

    Attributes:
        side_px: of the images, which are those of the full resolution made smaller.
        layers: of the backbone, whose features make the loss here.
        fading: share of the steps in which its blocks fade in; 0 for the first resolution.
        steady: share of the steps after that. Shares are relative to their sum: numbers of steps will do.
    """

    side_px: int = Field(ge=4, le=1024)
    layers: tuple[LayerName, ...] = Field(min_length=1, max_length=32)
    fading: float = Field(default=0.0, ge=0, le=1e9)
    steady: float = Field(gt=0, le=1e9)


@dataclass(frozen=True)
class Place:
    """Where a training stands.

    Attributes:
        number: of the resolution, from 0.
        alpha: share of its blocks and of its loss; the rest is that of the resolution before.
    """

    number: int
    alpha: float = 1.0


def place_at(growing: Sequence[Resolution], progress: float) -> Place:
    """Where a training stands at `progress`, from 0 to 1.

    >>> first = Resolution(side_px=8, layers=("a",), steady=1)
    >>> sides = [first, Resolution(side_px=16, layers=("a",), fading=2, steady=1)]
    >>> [place_at(sides, progress) for progress in (0.2, 0.25, 0.5, 0.8)]
    [Place(number=0, alpha=1.0), Place(number=1, alpha=0.0), Place(number=1, alpha=0.5), Place(number=1, alpha=1.0)]
    """
    left = progress * sum(each.fading + each.steady for each in growing)
    for number, each in enumerate(growing):
        if left < each.fading:
            return Place(number, left / each.fading)
        left -= each.fading
        if left < each.steady:
            return Place(number)
        left -= each.steady
    return Place(len(growing) - 1)


def phase_names(growing: Sequence[Resolution]) -> tuple[str, ...]:
    """Of the phases in their order.

    >>> first = Resolution(side_px=8, layers=("a",), steady=1)
    >>> phase_names([first, Resolution(side_px=16, layers=("a",), fading=2, steady=1)])
    ('8 px', '16 px fades in', '16 px')
    """
    return tuple(
        name
        for each in growing
        for name in ([f"{each.side_px} px fades in"] if each.fading else []) + [f"{each.side_px} px"]
    )


def phase_name(growing: Sequence[Resolution], place: Place) -> str:
    """Of the phase at a place."""
    return f"{growing[place.number].side_px} px{' fades in' if place.alpha < 1 else ''}"


def problem_of(growing: Sequence[Resolution], *, input_px: int, halvings: int, layers: Sequence[str]) -> str | None:
    """What is wrong with the resolutions of an autoencoder; None where nothing is."""
    sides = [each.side_px for each in growing]
    wanted = [input_px // 2**k for k in range(len(sides))][::-1]
    if sides != wanted:
        return f"growing: side_px {sides} must double up to input_px: {wanted}"
    if len(sides) > halvings:
        return f"growing: {len(sides)} resolutions, but {halvings} halvings; the first must still be halved once"
    if growing[0].fading:
        return "growing: nothing fades in at the first resolution; leave fading out there"
    if tuple(growing[-1].layers) != tuple(layers):
        return f"growing: the last resolution must have detector.layers ({', '.join(layers)})"
    return None


def at_side(x: Float[Tensor, "n 3 h w"], side_px: int) -> Float[Tensor, "n 3 side side"]:
    """Images made smaller: means over squares."""
    factor = x.shape[-1] // side_px
    return x if factor == 1 else F.avg_pool2d(x, factor)


def mixed(x: Float[Tensor, "n 3 h w"], side_px: int, alpha: float) -> Float[Tensor, "n 3 side side"]:
    """Images of `side_px` that have faded in by alpha: the rest is their own of half the side, enlarged."""
    fine = at_side(x, side_px)
    if alpha == 1:
        return fine
    coarse = F.interpolate(F.avg_pool2d(fine, 2), scale_factor=2, mode="nearest")
    return alpha * fine + (1 - alpha) * coarse


class GrowingAutoencoder:
    """Encoder and decoder, of which a part learns at a place of the training; whole where they do not grow.

    Args:
        encoder: whole.
        decoder: whole.
        growth: the ways in and out at lower resolutions; None where they do not grow.
        resolutions: in their order; none where they do not grow.
        layers: numbers of the backbone's layers that make the loss, for each resolution.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        growth: Growth | None,
        resolutions: Sequence[Resolution],
        layers: Sequence[Sequence[int]],
    ) -> None:
        self.encoder, self.decoder, self.growth = encoder, decoder, growth
        self.resolutions, self.layers = resolutions, layers
        self.phases = phase_names(resolutions) if resolutions else ("autoencoder",)
        self.place: Place | None = None

    def parameters(self) -> Iterator[nn.Parameter]:
        """All that learns at some place."""
        for network in (self.encoder, self.decoder, self.growth):
            yield from network.parameters() if network is not None else ()

    def phase(self, progress: float) -> str:
        """Name of the phase at a point of the training."""
        return (
            phase_name(self.resolutions, place_at(self.resolutions, progress)) if self.resolutions else self.phases[0]
        )

    def move_to(self, progress: float) -> None:
        """Stand where the training does; `place` is None where the whole is learned."""
        place = place_at(self.resolutions, progress) if self.resolutions else None
        self.place = None if place == Place(len(self.resolutions) - 1) else place

    def seen(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 side side"]:
        """Images as they are learned at this place."""
        place = self.place
        return x if place is None else mixed(x, self.resolutions[place.number].side_px, place.alpha)

    def x_hat(self, x: Float[Tensor, "n 3 side side"]) -> Float[Tensor, "n 3 side side"]:
        """The reconstruction of images of this place."""
        with self._multiplying(x.device):
            if self.place is None:
                return self.grown_up(x)
            level = len(self.resolutions) - 1 - self.place.number
            return grown(self.encoder, self.decoder, cast(Growth, self.growth), x, level=level, alpha=self.place.alpha)

    def _multiplying(self, device: torch.device) -> AbstractContextManager[None]:
        """In float32 where the convolutions are narrow: casts of weights would take longer than they save."""
        width = cast(nn.Conv2d, self.encoder.stem).out_channels
        return torch.autocast(device.type, enabled=False) if width < NARROW else nullcontext()

    def grown_up(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """The reconstruction by the whole."""
        x_hat: Tensor = self.decoder(self.encoder(x))
        return x_hat

    def reconstruct(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """The reconstruction at this place, of images of the full side, enlarged to it."""
        x_hat = self.x_hat(self.seen(x))
        return x_hat if self.place is None else F.interpolate(x_hat, size=x.shape[-2:], mode="nearest")

    def views(self, features: nn.Module, x: Float[Tensor, "n 3 side side"]) -> list[list[Tensor]]:
        """Features of images of this place and, while it fades in, of half their side at the resolution before."""
        place = self.place
        if place is None:
            return [features(x)]
        views = [features(x, self.layers[place.number])]
        if place.alpha < 1:
            views.append(features(F.avg_pool2d(x, 2), self.layers[place.number - 1]))
        return views

    def mean_distance(
        self, views: list[list[Tensor]], views_hat: list[list[Tensor]], distance: Callable[..., Tensor]
    ) -> Float[Tensor, ""]:
        """Mean distance of views; while a resolution fades in, mixed by alpha with that of the one before.

        alpha L(f2(x), f2(x_hat)) + (1 - alpha) L(f1(down x), f1(down x_hat)) (Tuluptceva et al. 2020, section 3.3).
        """
        values = [distance(f, f_hat).mean() for f, f_hat in zip(views, views_hat, strict=True)]
        if self.place is None or len(values) == 1:
            return values[0]
        return self.place.alpha * values[0] + (1 - self.place.alpha) * values[1]
