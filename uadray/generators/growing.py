"""When a generator grows, by the images that it has been shown, and real images at the side that it has reached.

Karras et al. 2018, https://arxiv.org/abs/1710.10196, section 2 and appendix A.1.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from uadray.networks.growing import level_of
from uadray.networks.outline import Networks


@dataclass(frozen=True)
class Place:
    """Where a training stands.

    Attributes:
        side_px: of the images.
        alpha: share of this side's layers; the rest is that of half the side.
    """

    side_px: int
    alpha: float = 1.0

    @property
    def phase(self) -> str:
        """Its name, for people."""
        return f"{'fade in' if self.alpha < 1 else 'stabilise'} {self.side_px} px"

    @property
    def level(self) -> int:
        """See `uadray.networks.growing`."""
        return level_of(self.side_px)


@dataclass(frozen=True)
class Schedule:
    """The first side for a stage, then each side fades in and has a stage, the last one without end.

    Attributes:
        start_px: the first side.
        input_px: the last side.
        stage_images: real images shown in a stage.
        fade_images: real images shown while a side fades in.
    """

    start_px: int
    input_px: int
    stage_images: int
    fade_images: int

    def at(self, images_shown: int) -> Place:
        """Where a training stands after so many images.

        >>> schedule = Schedule(start_px=4, input_px=16, stage_images=100, fade_images=50)
        >>> [schedule.at(n).phase for n in (99, 100, 149, 150)]
        ['stabilise 4 px', 'fade in 8 px', 'fade in 8 px', 'stabilise 8 px']
        >>> [schedule.at(n).phase for n in (250, 10_000)]
        ['fade in 16 px', 'stabilise 16 px']
        >>> schedule.at(110)
        Place(side_px=8, alpha=0.2)
        """
        number, within = divmod(images_shown - self.stage_images, self.stage_images + self.fade_images)
        side_px = self.start_px * 2 ** (number + 1)
        if images_shown < self.stage_images:
            return Place(self.start_px)
        if side_px > self.input_px:
            return Place(self.input_px)
        return Place(side_px, min(1.0, within / self.fade_images))

    @property
    def growing_images(self) -> int:
        """Images after which all layers have faded in."""
        return level_of(self.input_px // self.start_px * 4) * (self.stage_images + self.fade_images)

    @property
    def phases(self) -> tuple[str, ...]:
        """Their names in their order.

        >>> Schedule(start_px=8, input_px=16, stage_images=1, fade_images=1).phases
        ('stabilise 8 px', 'fade in 16 px', 'stabilise 16 px')
        """
        places, side_px = [Place(self.start_px)], self.start_px
        while side_px < self.input_px:
            side_px *= 2
            places += [Place(side_px, 0.0), Place(side_px)]
        return tuple(place.phase for place in places)


def move_to(networks: Networks, place: Place) -> None:
    """Take all networks of a training to where it stands."""
    for network in networks.values():
        network.growth.move_to(place.level, place.alpha)  # type: ignore[union-attr, operator]


def check_side(input_px: int) -> None:
    """Refuse a side that no doubling from 4 px comes to.

    Raises:
        ValueError: it is no power of two from 8.
    """
    if input_px & (input_px - 1) or input_px < 8:
        raise ValueError(f"input_px {input_px} is no power of two from 8")


def seen_at(x: Float[Tensor, "n 3 h w"], place: Place) -> Float[Tensor, "n 3 h2 w2"]:
    """Real images as large as those that are drawn, and as coarse: averaged; what fades in there fades in here.

    "We interpolate between two resolutions of the real images" (Karras et al. 2018, figure 2).
    """
    x = F.avg_pool2d(x, x.shape[-1] // place.side_px)
    if place.alpha == 1:
        return x
    coarse = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0)
    return coarse + place.alpha * (x - coarse)


def enlarged(x: Float[Tensor, "n 3 h w"], input_px: int) -> Float[Tensor, "n 3 h2 w2"]:
    """Drawn images at full side, each value as often as that takes."""
    return x if x.shape[-1] == input_px else F.interpolate(x, size=(input_px, input_px))
